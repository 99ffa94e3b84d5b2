// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `Inodes`: numbers to entries.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyError, PyTypeError, PyUnicodeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyString, PyTuple};

use super::cache::InodeCache;
use super::upcalls::Python3;
use crate::fs::Ino;
use crate::fs::inodes::Inodes as Table;
use crate::fs::node::{Counted, Identity};
use crate::py::exceptions::log_exception;
use crate::py::llfuse::{lock, notify};
use crate::py::nodes::any_node::{AnyNode, object_list};
use crate::py::nodes::node::Node as NodeClass;
use crate::py::nodes::table::TableRef;
use crate::py::request::{exception, for_python};

struct Settings {
    cache: Option<Py<InodeCache>>,
    encoding: String,
    fsns: Option<Py<PyAny>>,
}

/// The inode table of a mount: which File or Directory object a number stands for.
#[pyclass(subclass, frozen, weakref, mapping, module = "llfuse._core")]
pub struct Inodes {
    /// The table itself.
    pub core: Arc<Table<AnyNode>>,
    settings: Mutex<Settings>,
}

impl Inodes {
    /// Encoding of file names, a name from Python's codec registry.
    #[must_use]
    pub fn encoding_name(&self) -> String {
        self.settings.lock().encoding.clone()
    }

    fn encode<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Vec<u8>> {
        if !name.is_instance_of::<PyString>()
            && let Ok(bytes) = name.extract::<Vec<u8>>()
        {
            return Ok(bytes);
        }
        name.call_method1("encode", (self.encoding_name().into_pyobject(py)?,))?.extract()
    }

    /// The inode that an argument means (a number, as in 2017, or an entry), if the kernel may
    /// know it.
    fn known(py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<Option<Ino>> {
        if !entry.is_instance_of::<NodeClass>()
            && let Ok(number) = entry.extract::<u64>()
        {
            return Ok(Some(Ino(number)));
        }
        let node = AnyNode::new(entry)?;
        for_python(py, || Ok(if node.has_ref()? { node.inode()?.map(Ino) } else { None }))
    }
}

#[pymethods]
impl Inodes {
    /// Without an `inode_cache`, the table has one of its own, with the default limit.
    #[new]
    #[pyo3(signature = (inode_cache, encoding="utf-8", fsns=None, shutdown_started=None))]
    fn new(
        py: Python<'_>,
        inode_cache: Option<&Bound<'_, PyAny>>,
        encoding: &str,
        fsns: Option<Py<PyAny>>,
        shutdown_started: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let _ = shutdown_started;
        let cache = match inode_cache {
            None => Bound::new(py, InodeCache::default())?,
            Some(given) => given.cast::<InodeCache>().cloned().map_err(|_| {
                PyTypeError::new_err("inode_cache must be an arvados_fuse.InodeCache")
            })?,
        };
        InodeCache::heed_overrides(&cache)?;
        let core = Table::new(Arc::clone(&cache.get().core), Arc::new(Python3));
        let settings =
            Settings { cache: Some(cache.unbind()), encoding: encoding.to_owned(), fsns };
        Ok(Inodes { core, settings: Mutex::new(settings) })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(settings) = self.settings.try_lock() {
            visit.call(&settings.cache)?;
            visit.call(&settings.fsns)?;
        }
        let mut result = Ok(());
        self.core.try_visit(|node| {
            if result.is_ok() {
                result = node.visit(&visit);
            }
        });
        result
    }

    fn __clear__(&self) {
        self.core.abandon();
    }

    #[getter]
    fn inode_cache(&self, py: Python<'_>) -> Option<Py<InodeCache>> {
        self.settings.lock().cache.as_ref().map(|c| c.clone_ref(py))
    }
    #[getter]
    fn encoding(&self) -> String {
        self.encoding_name()
    }
    #[setter]
    fn set_encoding(&self, value: String) {
        self.settings.lock().encoding = value;
    }
    #[getter]
    fn _fsns(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.settings.lock().fsns.as_ref().map(|f| f.clone_ref(py))
    }
    #[setter(_fsns)]
    fn set_fsns(&self, value: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut self.settings.lock().fsns, value);
        drop(old);
    }
    /// The table itself, for the core's directories.
    #[getter]
    fn _core_table(&self) -> TableRef {
        TableRef { table: Arc::clone(&self.core) }
    }
    /// Iterator that hands out inode numbers; each `next()` takes one.
    #[getter]
    fn _counter(&self) -> InodeCounter {
        InodeCounter { core: Arc::clone(&self.core) }
    }
    /// A copy of the table, as a dict.
    #[getter]
    fn _entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for number in self.core.numbers() {
            if let Some(node) = self.core.get(number) {
                dict.set_item(number, node.object(py)?)?;
            }
        }
        Ok(dict)
    }

    fn __getitem__(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let found = item.extract::<u64>().ok().and_then(|number| self.core.get(number));
        match found {
            Some(node) => node.object(py),
            None => Err(PyKeyError::new_err(item.clone().unbind())),
        }
    }

    fn __setitem__(&self, key: u64, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let old = self.core.insert(key, AnyNode::new(item)?);
        drop(old);
        Ok(())
    }

    fn __contains__(&self, k: &Bound<'_, PyAny>) -> bool {
        k.extract::<u64>().is_ok_and(|number| self.core.contains(number))
    }

    fn __len__(&self) -> usize {
        self.core.len()
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.core.numbers())?.try_iter()
    }

    /// Pairs of number and entry.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pairs = self.core.numbers().into_iter();
        let pairs = pairs.filter_map(|n| self.core.get(n).map(|node| Ok((n, node.object(py)?))));
        PyList::new(py, pairs.collect::<PyResult<Vec<_>>>()?)
    }

    /// The entry was used: updates its access time and its place in the cache, and has the cache
    /// looked at.
    fn touch(&self, py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(entry)?;
        for_python(py, || self.core.touch(&node))
    }

    /// Has the cache looked at, by its own thread.
    fn cap_cache(&self) {
        self.core.cap_cache();
    }

    /// Lists the entry under the Arvados uuid that it has now, by which events find it.
    fn update_uuid(&self, py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(entry)?;
        for_python(py, || self.core.update_uuid(&node))
    }

    /// Gives a new entry its number; returns the entry.
    fn add_entry<'py>(
        &self,
        py: Python<'py>,
        entry: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let node = AnyNode::new(&entry)?;
        for_python(py, || self.core.add(&node))?;
        Ok(entry)
    }

    /// As `add_entry`, with a number that another entry had so far; None is any.
    fn _add_entry_as<'py>(
        &self,
        py: Python<'py>,
        entry: Bound<'py, PyAny>,
        number: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(number) = number else { return self.add_entry(py, entry) };
        let node = AnyNode::new(&entry)?;
        for_python(py, || self.core.add_as(number, &node))?;
        Ok(entry)
    }

    /// The entry was deleted from its directory. It is removed, by the table's own thread, when
    /// neither the kernel nor anything inside uses it any more.
    fn del_entry(&self, py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(entry)?;
        for_python(py, || self.core.delete(&node))
    }

    /// Waits until every removal, eviction and invalidation asked for until now is done.
    fn wait_remove_queue_empty(&self, py: Python<'_>) -> PyResult<()> {
        let wait = || self.core.wait_removal();
        if lock::is_held_by_me() {
            lock::released(py, wait)?;
        } else {
            py.detach(wait);
        }
        notify::wait_drained(py);
        Ok(())
    }

    /// Has the kernel drop what it cached of an entry (3.2.1) or inode number (2017).
    fn invalidate_inode(&self, py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(ino) = Self::known(py, entry)? {
            notify::invalidate_inode(ino, false);
        }
        Ok(())
    }

    /// Has the kernel ask again what `name` in a directory leads to; the directory is an entry (3.2.1)
    /// or an inode number (2017).
    fn invalidate_entry(
        &self,
        py: Python<'_>,
        entry: &Bound<'_, PyAny>,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if let Some(parent) = Self::known(py, entry)? {
            match self.encode(py, name) {
                // Never by dropping it, where that can be helped: somebody may have made and entered
                // another directory of that name meanwhile.
                Ok(name) => notify::expire_entry(parent, &name, true),
                // The kernel was never told of a name that cannot be written.
                Err(error) if error.is_instance_of::<PyUnicodeError>(py) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The bytes of a file name, as the kernel has it.
    fn _encode<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.encode(py, name)?))
    }

    /// Does what is left to remove, then ends the table's own thread. Safe to call twice.
    fn begin_shutdown(&self, py: Python<'_>) -> PyResult<()> {
        let stop = || self.core.stop_removal();
        if lock::is_held_by_me() {
            lock::released(py, stop)
        } else {
            py.detach(stop);
            Ok(())
        }
    }

    /// Finalizes every entry, saving what is unsaved, and forgets them all. What could not be
    /// saved is logged.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        for (entry, error) in self._clear(py)? {
            let uuid =
                entry.bind(py).call_method0("uuid").map_or_else(|_| "?".into(), |u| u.to_string());
            log_exception(
                py,
                &format!("{uuid} could not be finalized"),
                PyErr::from_value(error.into_bound(py)),
            );
        }
        Ok(())
    }

    /// As `clear`; returns the entries that could not be finalized, each with the exception.
    fn _clear(&self, py: Python<'_>) -> PyResult<Vec<(Py<PyAny>, Py<PyAny>)>> {
        self.begin_shutdown(py)?;
        let failed = py.detach(|| self.core.clear());
        failed
            .into_iter()
            .map(|(node, halt)| Ok((node.object(py)?, exception(halt).into_value(py).into_any())))
            .collect()
    }

    /// What stands for `/` in file names: a string, or None.
    fn forward_slash_subst(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self._fsns(py)
    }

    /// The entries that stand for an Arvados uuid.
    fn find_by_uuid<'py>(
        &self,
        py: Python<'py>,
        uuid: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let found = match uuid.extract::<String>() {
            Ok(uuid) => self.core.find_by_uuid(&uuid),
            Err(_) => Vec::new(),
        };
        object_list(py, &found)
    }

    /// The entries that were added, and are still there; of what collections have, none.
    fn _added<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        object_list(py, &self.core.added())
    }

    /// The entries that stand for any Arvados uuid.
    fn _with_uuid<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        object_list(py, &self.core.with_uuid())
    }

    /// Always empty: invalidations wait in the notification thread's queue (the module of 2017
    /// kept them here).
    #[getter]
    fn deferred_invalidations<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        PyTuple::empty(py)
    }
}

/// Hands out inode numbers.
#[pyclass(frozen, module = "llfuse._core")]
pub struct InodeCounter {
    core: Arc<Table<AnyNode>>,
}

#[pymethods]
impl InodeCounter {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> u64 {
        self.core.next_number()
    }
}
