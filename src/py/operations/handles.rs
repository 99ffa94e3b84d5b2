// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `operations._filehandles` and the counters, as Python sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use crate::fs::Fh;
use crate::fs::handles::Handle;
use crate::fs::operations::{Counters, Operations};
use crate::py::nodes::any_node::AnyNode;

/// The open handles of a mount: numbers to `FileHandle` and `DirectoryHandle` objects. The objects
/// describe a handle; making one opens nothing and dropping it closes nothing.
#[pyclass(frozen, mapping, module = "llfuse._core")]
pub struct FileHandles {
    /// The mount.
    pub core: Arc<Operations<AnyNode>>,
}

impl FileHandles {
    fn describe<'py>(&self, py: Python<'py>, fh: u64) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(handle) = self.core.handles.find(Fh(fh)) else { return Ok(None) };
        let package = py.import("arvados_fuse")?;
        let described = match &*handle {
            Handle::File { node, parent, for_writing } => {
                let parent = parent.as_ref().map(|p| p.object(py));
                package
                    .getattr("FileHandle")?
                    .call_method1("_of_open", (fh, node.object(py), parent, *for_writing))?
            }
            Handle::Dir { node, entries } => {
                let entries: Vec<(String, Py<PyAny>)> =
                    entries.iter().map(|(name, n)| (name.to_string(), n.object(py))).collect();
                package
                    .getattr("DirectoryHandle")?
                    .call_method1("_of_open", (fh, node.object(py), entries))?
            }
        };
        Ok(Some(described))
    }
}

#[pymethods]
impl FileHandles {
    fn __len__(&self) -> usize {
        self.core.handles.numbers().len()
    }

    fn __contains__(&self, fh: &Bound<'_, PyAny>) -> bool {
        fh.extract::<u64>().is_ok_and(|fh| self.core.handles.find(Fh(fh)).is_some())
    }

    fn __getitem__<'py>(&self, py: Python<'py>, fh: u64) -> PyResult<Bound<'py, PyAny>> {
        self.describe(py, fh)?.ok_or_else(|| PyKeyError::new_err(fh))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.keys(py)?.try_iter()
    }

    /// Numbers of the open handles.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.core.handles.numbers())
    }

    /// The open handles.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for fh in self.core.handles.numbers() {
            if let Some(handle) = self.describe(py, fh)? {
                list.append(handle)?;
            }
        }
        Ok(list)
    }

    /// Pairs of number and handle.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for fh in self.core.handles.numbers() {
            if let Some(handle) = self.describe(py, fh)? {
                list.append((fh, handle))?;
            }
        }
        Ok(list)
    }

    /// The handle of that number, or `default`.
    #[pyo3(signature = (fh, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        fh: u64,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.describe(py, fh)?.or(default))
    }
}

/// A number that only grows, with the interface of the SDK's counters.
#[pyclass(frozen, module = "llfuse._core")]
pub struct Counter {
    counters: Arc<Counters>,
    pick: fn(&Counters) -> &AtomicU64,
}

impl Counter {
    /// The counter of a mount that `pick` chooses.
    #[must_use]
    pub fn new(core: &Operations<AnyNode>, pick: fn(&Counters) -> &AtomicU64) -> Self {
        Counter { counters: Arc::clone(&core.counters), pick }
    }
}

#[pymethods]
impl Counter {
    /// Adds `v`.
    fn add(&self, v: u64) {
        (self.pick)(&self.counters).fetch_add(v, Ordering::Relaxed);
    }

    /// The number.
    fn get(&self) -> u64 {
        (self.pick)(&self.counters).load(Ordering::Relaxed)
    }
}
