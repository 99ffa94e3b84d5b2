// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `Node`, on which `arvados_fuse.fresh.FreshBase` stands: the life of an inode entry.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::{Mutex, RwLock};
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::any_node::AnyNode;
use super::collection_host::PythonCollection;
use super::legacy_2017::refers;
use super::overrides::{Name, class_names};
use crate::fs::Timestamp;
use crate::fs::dentries::Dentries;
use crate::fs::state::{self, NodeState, UNKNOWN_PARENT};
use crate::py::clock::{self, period};
use crate::py::overrides::{ClassNames, InstanceNames};

/// A directory's entries; the table is replaced as a whole when Python assigns `_entries`.
pub type Table = RwLock<Arc<Dentries<AnyNode>>>;

/// What the core keeps of a node, shared by the Python object and whoever holds it.
pub struct NodeCore {
    /// State common to all nodes.
    pub state: Arc<NodeState>,
    /// Uuid under which the inode table lists the node.
    pub cache_uuid: Mutex<Option<String>>,
    /// The entries table, for directories.
    pub table: Option<Box<Table>>,
    /// For the directory of a collection that is served from its tree.
    collection: RwLock<Option<Arc<PythonCollection>>>,
    class: &'static ClassNames,
    instance: InstanceNames,
}

impl NodeCore {
    /// The core of a new node of that class.
    ///
    /// # Errors
    /// Where the class cannot be looked into.
    pub fn new(class: &Bound<'_, PyType>, directory: bool) -> PyResult<Arc<Self>> {
        Ok(Arc::new(NodeCore {
            state: Arc::new(NodeState::new(clock::timestamp(class.py())?)),
            cache_uuid: Mutex::default(),
            table: directory.then(Box::default),
            collection: RwLock::default(),
            class: class_names(class)?,
            instance: InstanceNames::default(),
        }))
    }

    /// An attribute was assigned or deleted: is it in the object's own dictionary?
    fn look(&self, object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> PyResult<()> {
        let Some(name) = Name::spelt(&name.to_string_lossy()) else { return Ok(()) };
        // What the core keeps itself does not come to the dictionary; asking for that would make one,
        // for every node.
        if name.is_value() && self.class.own(name) {
            return Ok(());
        }
        self.instance.look(object, name)
    }

    /// Whether the name means, for this node, exactly what the core means by it.
    pub fn own(&self, name: Name) -> bool {
        self.class.own(name) && !self.instance.has(name)
    }

    /// Whether the core may answer for the name where it has the answer.
    pub fn own_or_shipped(&self, name: Name) -> bool {
        self.class.own_or_shipped(name) && !self.instance.has(name)
    }

    /// Whether the node is a file of a collection.
    pub fn collection_file(&self) -> bool {
        self.class.is_marked()
    }

    /// The entries table as it is now; none for a file.
    pub fn entries(&self) -> Option<Arc<Dentries<AnyNode>>> {
        self.table.as_ref().map(|table| Arc::clone(&table.read()))
    }

    /// The collection that the directory shows from its tree, if it does.
    pub fn collection(&self) -> Option<Arc<PythonCollection>> {
        self.collection.read().clone()
    }

    /// Has the directory show a collection from its tree, or (None) no longer.
    pub fn set_collection(&self, collection: Option<Arc<PythonCollection>>) {
        let old = std::mem::replace(&mut *self.collection.write(), collection);
        drop(old);
    }

    /// Whether refreshing does nothing: then staleness does not matter.
    pub fn never_refreshed(&self) -> bool {
        self.own(Name::Checkupdate) && self.own(Name::Update)
    }

    /// Whether the contents must be refreshed, where that is a matter of the state alone.
    pub fn staleness(&self) -> Option<bool> {
        self.natural_staleness().then(|| self.state.is_stale())
    }

    /// Whether staleness is a matter of the state alone.
    pub fn natural_staleness(&self) -> bool {
        use Name::{AtimeValue, LastUpdate, Poll, PollTime, Stale, StaleFlag};
        [Stale, StaleFlag, Poll, PollTime, LastUpdate, AtimeValue].iter().all(|n| self.own(*n))
    }
}

/// Base of every inode entry: staleness and refresh, uses and references, its place in the cache.
///
/// Times are seconds since the epoch, periods seconds. Every method may be overridden; one that is
/// not is answered by the core, without the GIL where the kernel asks.
#[pyclass(subclass, frozen, weakref, module = "llfuse._core")]
pub struct Node {
    /// The state.
    pub core: Arc<NodeCore>,
}

impl Node {
    fn state(&self) -> &NodeState {
        &self.core.state
    }
}

/// Python's own way of assigning (or, with no value, deleting) an attribute.
fn generic_setattr(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let value = value.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: all three are live for the call (value may be null, which means delete), the GIL is
    // held, and PyObject_GenericSetAttr neither steals nor keeps what it does not own.
    #[allow(unsafe_code)]
    let result =
        unsafe { pyo3::ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value) };
    if result == 0 { Ok(()) } else { Err(PyErr::fetch(object.py())) }
}

#[pymethods]
impl Node {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(
        cls: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Ok(Node { core: NodeCore::new(cls, false)? })
    }

    #[pyo3(signature = (*_args, **_kwargs))]
    fn __init__(&self, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) {}

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyString>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        generic_setattr(slf.as_any(), name, Some(value))?;
        slf.get().core.look(slf.as_any(), name)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyString>) -> PyResult<()> {
        generic_setattr(slf.as_any(), name, None)?;
        slf.get().core.look(slf.as_any(), name)
    }

    #[getter]
    fn inode(&self) -> Option<u64> {
        self.state().inode()
    }
    #[setter]
    fn set_inode(&self, value: Option<u64>) {
        self.state().set_inode(value);
    }
    #[getter]
    fn parent_inode(&self) -> PyResult<Option<u64>> {
        match self.state().parent() {
            Some(UNKNOWN_PARENT) => Err(no_attribute("parent_inode")),
            parent => Ok(parent),
        }
    }
    #[setter]
    fn set_parent_inode(&self, value: Option<u64>) {
        self.state().set_parent(value);
    }
    /// Whether the entry was deleted and stays until nothing refers to it (a word of 2017; in 3.2.1
    /// `parent_inode` is then None).
    #[getter]
    fn dead(&self) -> bool {
        self.state().parent().is_none()
    }
    #[setter]
    fn set_dead(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match (value.is_truthy()?, self.state().parent()) {
            (true, _) => self.state().set_parent(None),
            (false, None) => self.state().set_parent(Some(UNKNOWN_PARENT)),
            (false, Some(_)) => {}
        }
        Ok(())
    }
    #[getter]
    fn _stale(&self) -> bool {
        self.state().marked_stale()
    }
    #[setter(_stale)]
    fn set_stale(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.state().mark_stale(value.is_truthy()?);
        Ok(())
    }
    #[getter]
    fn _poll(&self) -> bool {
        self.state().poll.load(Relaxed)
    }
    #[setter(_poll)]
    fn set_poll(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.state().poll.store(value.is_truthy()?, Relaxed);
        Ok(())
    }
    #[getter]
    fn _last_update(&self) -> f64 {
        self.state().last_update.load().as_secs_f64()
    }
    #[setter(_last_update)]
    fn set_last_update(&self, value: f64) {
        self.state().last_update.store(Timestamp::from_secs_f64(value));
    }
    #[getter]
    fn _atime(&self) -> f64 {
        self.state().atime.load().as_secs_f64()
    }
    #[setter(_atime)]
    fn set_atime(&self, value: f64) {
        self.state().atime.store(Timestamp::from_secs_f64(value));
    }
    #[getter]
    fn _mtime(&self) -> f64 {
        self.state().mtime.load().as_secs_f64()
    }
    #[setter(_mtime)]
    fn set_mtime(&self, value: f64) {
        self.state().mtime.store(Timestamp::from_secs_f64(value));
    }
    #[getter]
    fn _poll_time(&self) -> f64 {
        self.state().poll_time.load().as_secs_f64()
    }
    #[setter(_poll_time)]
    fn set_poll_time(&self, value: f64) {
        self.state().poll_time.store(period(value));
    }
    #[getter]
    fn use_count(&self) -> i64 {
        self.state().use_count.load(Relaxed)
    }
    #[setter]
    fn set_use_count(&self, value: i64) {
        self.state().use_count.store(value, Relaxed);
    }
    #[getter]
    fn ref_count(&self) -> i64 {
        self.state().ref_count.load(Relaxed)
    }
    #[setter]
    fn set_ref_count(&self, value: i64) {
        self.state().ref_count.store(value, Relaxed);
    }
    #[getter]
    fn cache_size(&self) -> i64 {
        self.state().cache_size.load(Relaxed)
    }
    #[setter]
    fn set_cache_size(&self, value: i64) {
        self.state().cache_size.store(value, Relaxed);
    }
    #[getter]
    fn cache_uuid(&self) -> Option<String> {
        self.core.cache_uuid.lock().clone()
    }
    #[setter]
    fn set_cache_uuid(&self, value: Option<String>) {
        *self.core.cache_uuid.lock() = value;
    }
    #[getter]
    fn allow_attr_cache(&self) -> bool {
        self.state().allow_attr_cache.load(Relaxed)
    }
    #[setter]
    fn set_allow_attr_cache(&self, value: bool) {
        self.state().allow_attr_cache.store(value, Relaxed);
    }
    #[getter]
    fn allow_dirent_cache(&self) -> bool {
        self.state().allow_dirent_cache.load(Relaxed)
    }
    #[setter]
    fn set_allow_dirent_cache(&self, value: bool) {
        self.state().allow_dirent_cache.store(value, Relaxed);
    }

    /// Marks the contents as in need of a refresh before they are shown again.
    fn invalidate(&self) {
        self.state().mark_stale(true);
    }

    /// Has the kernel told that this entry changed.
    fn kernel_invalidate(&self) {}

    /// Whether the contents must be refreshed: marked so, or polling and older than `_poll_time`.
    ///
    /// # Errors
    /// What an overridden attribute raises.
    pub fn stale(slf: &Bound<'_, Self>) -> PyResult<bool> {
        if let Some(stale) = slf.get().core.staleness() {
            return Ok(stale);
        }
        let truth = |name| slf.getattr(name)?.is_truthy();
        let overdue = || {
            let due = slf.getattr("_last_update")?.add(slf.getattr("_poll_time")?)?;
            due.lt(slf.getattr("_atime")?)
        };
        state::is_stale(|| truth("_stale"), || truth("_poll"), overdue)
    }

    /// The contents are up to date as of now.
    fn fresh(&self, py: Python<'_>) -> PyResult<()> {
        self.state().mark_fresh(clock::timestamp(py)?);
        Ok(())
    }

    /// Last access, in seconds since the epoch.
    fn atime(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(slf.getattr("_atime")?.unbind())
    }

    /// Whether the inode cache counts this entry.
    fn persisted(&self) -> bool {
        false
    }

    /// Drops the contents.
    fn clear(&self) {}

    /// Whether something inside uses the entry.
    fn in_use(slf: &Bound<'_, Self>) -> PyResult<bool> {
        slf.getattr("use_count")?.gt(0)
    }

    /// One more use.
    fn inc_use(&self) {
        self.state().add_use(1);
    }

    /// One use less.
    fn dec_use(&self) {
        self.state().add_use(-1);
    }

    /// One more reference of the kernel's; returns how many there are.
    fn inc_ref(&self) -> i64 {
        self.state().add_ref(1)
    }

    /// `n` references less; returns how many remain.
    fn dec_ref(&self, n: i64) -> i64 {
        self.state().add_ref(-n)
    }

    /// Whether the kernel refers to this entry. With an argument, as in 2017: whether it does to
    /// anything in it or, unless `only_children`, to the entry itself.
    #[pyo3(signature = (only_children=None))]
    fn has_ref(slf: &Bound<'_, Self>, only_children: Option<bool>) -> PyResult<bool> {
        let itself = slf.getattr("ref_count")?.gt(0)?;
        let Some(only_children) = only_children else {
            return Ok(itself);
        };
        if itself && !only_children {
            return Ok(true);
        }
        for (_, node) in slf.get().core.entries().map(|t| t.snapshot()).unwrap_or_default() {
            if refers(&node, slf.py(), false)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Memory that the contents take, in bytes.
    fn objsize(&self) -> i64 {
        0
    }

    /// Arvados uuid or portable data hash.
    fn uuid(&self) -> Option<String> {
        None
    }

    /// Commits what is pending, before the entry is cleared or the mount ends.
    fn finalize(&self) {}

    /// An event about an entry in this directory.
    #[allow(unused_variables)]
    fn child_event(&self, ev: &Bound<'_, PyAny>) {}

    /// For how many seconds from the last access the kernel may cache this entry.
    fn time_to_next_poll(slf: &Bound<'_, Self>) -> PyResult<f64> {
        let core = &slf.get().core;
        if core.natural_staleness() {
            return Ok(core.state.time_to_next_poll().as_secs_f64());
        }
        let poll_time: f64 = slf.getattr("_poll_time")?.extract()?;
        let left = |poll_time: f64| {
            let last: f64 = slf.getattr("_last_update")?.extract()?;
            let atime: f64 = slf.getattr("_atime")?.extract()?;
            Ok((last + poll_time - atime).max(0.0))
        };
        state::fresh_for(poll_time, || slf.getattr("_poll")?.is_truthy(), left)
    }

    /// Refreshes the contents from their source.
    fn update(&self) {}

    /// Refreshes the contents where they are stale.
    fn checkupdate(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.call_method0("stale")?.is_truthy()? {
            slf.call_method0("update")?;
        }
        Ok(())
    }
}

/// The core of a Python object, where it is one of our nodes.
#[must_use]
pub fn core_of(object: &Bound<'_, PyAny>) -> Option<Arc<NodeCore>> {
    object.cast::<Node>().ok().map(|node| Arc::clone(&node.get().core))
}

/// As Python words it.
#[must_use]
pub fn no_attribute(name: &str) -> PyErr {
    PyAttributeError::new_err(name.to_owned())
}
