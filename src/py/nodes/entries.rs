// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `directory._entries`, as Python sees it: the entries table, used as a dict.

use std::sync::Arc;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple};

use super::any_node::{AnyNode, object_list};
use crate::fs::dentries::Dentries;

/// A directory's entries table; the table itself, not a copy.
#[pyclass(frozen, mapping, module = "llfuse._core")]
pub struct Entries {
    /// The table.
    pub table: Arc<Dentries<AnyNode>>,
}

/// Fills a new table from any mapping. Nodes are wrapped anew, never shared with another table.
///
/// # Errors
/// Where it is no mapping of names to entries.
pub fn table_from(mapping: &Bound<'_, PyAny>) -> PyResult<Vec<(Box<str>, AnyNode)>> {
    let mut entries = Vec::new();
    for pair in mapping.call_method0("items")?.try_iter()? {
        let (name, node): (String, Bound<'_, PyAny>) = pair?.extract()?;
        entries.push((name.into(), AnyNode::new(&node)?));
    }
    Ok(entries)
}

fn object(py: Python<'_>, node: Option<AnyNode>) -> PyResult<Option<Py<PyAny>>> {
    node.map(|node| node.object(py)).transpose()
}

impl Entries {
    fn dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, node) in self.table.snapshot() {
            dict.set_item(&*name, node.object(py)?)?;
        }
        Ok(dict)
    }
}

#[pymethods]
impl Entries {
    fn __len__(&self) -> usize {
        self.table.len()
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<String>().is_ok_and(|name| self.table.contains(&name))
    }

    fn __getitem__(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let found = name.extract::<String>().ok().and_then(|name| self.table.get(&name));
        object(py, found)?.ok_or_else(|| PyKeyError::new_err(name.clone().unbind()))
    }

    fn __setitem__(&self, name: &str, node: &Bound<'_, PyAny>) -> PyResult<()> {
        self.table.insert(name, AnyNode::new(node)?);
        Ok(())
    }

    fn __delitem__(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let removed = name.extract::<String>().ok().and_then(|name| self.table.remove(&name));
        removed.map(drop).ok_or_else(|| PyKeyError::new_err(name.clone().unbind()))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.keys(py)?.try_iter()
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let own = self.dict(py)?;
        match other.cast::<Entries>() {
            Ok(other) => own.eq(other.get().dict(py)?),
            Err(_) => own.eq(other),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.dict(py)?.repr()?.to_string())
    }

    /// The names.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.table.names().iter().map(|n| &**n))
    }

    /// The entries.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let nodes: Vec<AnyNode> = self.table.snapshot().into_iter().map(|(_, node)| node).collect();
        object_list(py, &nodes)
    }

    /// Pairs of name and entry.
    ///
    /// # Errors
    /// Where Python has no memory for them.
    pub fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pairs = self.table.snapshot().into_iter();
        let pairs = pairs.map(|(name, node)| Ok((String::from(name), node.object(py)?)));
        PyList::new(py, pairs.collect::<PyResult<Vec<_>>>()?)
    }

    /// The entry of that name, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let found = name.extract::<String>().ok().and_then(|name| self.table.get(&name));
        Ok(object(py, found)?.or(default))
    }

    /// Takes out and returns the entry of that name, or `default`.
    ///
    /// Raises `KeyError` where there is neither.
    #[pyo3(signature = (name, *default))]
    fn pop(&self, py: Python<'_>, name: &str, default: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        match object(py, self.table.remove(name))? {
            Some(node) => Ok(node),
            None if default.is_empty() => Err(PyKeyError::new_err(name.to_owned())),
            None => Ok(default.get_item(0)?.unbind()),
        }
    }

    /// Takes out and returns the last pair of name and entry.
    ///
    /// Raises `KeyError` where the table is empty.
    fn popitem(&self, py: Python<'_>) -> PyResult<(String, Py<PyAny>)> {
        let name = self.table.names().pop();
        match name.and_then(|name| self.table.remove(&name).map(|node| (name, node))) {
            Some((name, node)) => Ok((name.into(), node.object(py)?)),
            None => Err(PyKeyError::new_err("popitem(): the directory is empty")),
        }
    }

    /// The entry of that name; where there is none, `default` is put there.
    fn setdefault(
        &self,
        py: Python<'_>,
        name: &str,
        default: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(node) = self.table.get(name) {
            return node.object(py);
        }
        self.__setitem__(name, default)?;
        Ok(default.clone().unbind())
    }

    /// Adds the entries of another mapping.
    fn update(&self, mapping: &Bound<'_, PyAny>) -> PyResult<()> {
        for (name, node) in table_from(mapping)? {
            self.table.insert(&name, node);
        }
        Ok(())
    }

    /// Takes out every entry.
    fn clear(&self) {
        drop(self.table.replace(Vec::new()));
    }

    /// A dict of the entries.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.dict(py)
    }
}
