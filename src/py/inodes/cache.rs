// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `InodeCache`: what is kept in memory of projects and collections, and what goes first.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::replaced::Overrides;
use crate::fs::cache::InodeCache as Cache;
use crate::fs::node::{Cacheable, Counted, Identity, Outcome};
use crate::py::nodes::any_node::{AnyNode, object_list};
use crate::py::nodes::legacy_2017::refers;
use crate::py::request::{for_python, with_python};

/// Counts the memory that inode entries take and orders them by last use.
///
/// `cap` is the limit in bytes. It is a soft one: `min_entries` entries are kept whatever they
/// weigh, and one that is in use or that the kernel refers to is kept too.
#[pyclass(subclass, frozen, weakref, module = "llfuse._core")]
pub struct InodeCache {
    /// The cache itself.
    pub core: Arc<Cache<AnyNode>>,
    overrides: Overrides,
}

impl InodeCache {
    fn of(cap: i64, min_entries: usize) -> Self {
        InodeCache { core: Arc::new(Cache::new(cap, min_entries)), overrides: Overrides::default() }
    }

    /// Has the inode table call what is overridden in `cache`, now or later.
    ///
    /// # Errors
    /// Where the object cannot be looked into.
    pub fn heed_overrides(cache: &Bound<'_, Self>) -> PyResult<()> {
        let this = cache.get();
        this.overrides.look(cache.as_any())?;
        this.core.replace(Box::new(this.overrides.of(cache.as_any())?));
        Ok(())
    }
}

/// What a mount's directories may take where nobody says, in bytes.
pub const DEFAULT_CAP: i64 = 256 << 20;

impl Default for InodeCache {
    fn default() -> Self {
        InodeCache::of(DEFAULT_CAP, 4)
    }
}

/// Evicts as the module of 2017 did: at once, and an entry is cleared but keeps its number.
fn cap_here(cache: &Cache<AnyNode>) -> Outcome<()> {
    if !cache.over_cap() {
        return Ok(());
    }
    for inode in cache.inodes() {
        if cache.satisfied() {
            break;
        }
        let Some(node) = cache.get(inode) else { continue };
        if node.in_use()? {
            continue;
        }
        if with_python(|py| refers(&node, py, true))? {
            node.kernel_invalidate()?;
            continue;
        }
        node.clear()?;
        cache.unmanage(&node)?;
        node.set_cache_uuid(None)?;
    }
    Ok(())
}

#[pymethods]
impl InodeCache {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        InodeCache::of(0, 4)
    }

    #[pyo3(signature = (cap, min_entries=4))]
    fn __init__(&self, cap: i64, min_entries: usize) {
        self.core.set_cap(cap);
        self.core.set_min_entries(min_entries);
    }

    /// Looks which methods of this cache are not the core's.
    fn _look_for_overrides(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().overrides.look(slf.as_any())
    }

    /// The limit, in bytes.
    #[getter]
    fn cap(&self) -> i64 {
        self.core.cap()
    }
    #[setter]
    fn set_cap(&self, value: i64) {
        self.core.set_cap(value);
    }
    /// How many entries are kept whatever they weigh.
    #[getter]
    fn min_entries(&self) -> usize {
        self.core.min_entries()
    }
    #[setter]
    fn set_min_entries(&self, value: usize) {
        self.core.set_min_entries(value);
    }
    #[getter]
    fn _total(&self) -> i64 {
        self.core.total()
    }

    /// Bytes counted at present.
    fn total(&self) -> i64 {
        self.core.total()
    }

    /// A copy of what is managed: inode numbers to entries, the longest unused first.
    #[getter]
    fn _cache_entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for inode in self.core.inodes() {
            if let Some(node) = self.core.get(inode) {
                dict.set_item(inode, node.object(py)?)?;
            }
        }
        Ok(dict)
    }
    /// `_cache_entries`, by its name of 2017.
    #[getter]
    fn _entries<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self._cache_entries(py)
    }

    /// Iterates over entries that could be evicted, the longest unused first, and stops when the
    /// total has shrunk enough.
    fn evict_candidates(&self) -> EvictCandidates {
        let mut inodes = if self.core.over_cap() { self.core.inodes() } else { Vec::new() };
        inodes.reverse();
        EvictCandidates { core: Arc::clone(&self.core), remaining: Mutex::new(inodes) }
    }

    /// Stops counting an entry, which is being removed from the inode table.
    fn unmanage(&self, py: Python<'_>, entry: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(entry)?;
        for_python(py, || self.core.unmanage(&node).map(drop))
    }

    /// Counts what an entry weighs now.
    fn update_cache_size(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(obj)?;
        for_python(py, || self.core.update(&node))
    }

    /// The entry was used just now. Returns whether it is managed.
    fn touch(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<bool> {
        let node = AnyNode::new(obj)?;
        for_python(py, || self.core.touch(&node))
    }

    /// Forgets every entry.
    fn clear(&self) {
        self.core.clear();
    }

    /// Manages an entry, where it is persisted, as the most recently used, and caps the cache
    /// (the interface of 2017).
    fn manage(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let node = AnyNode::new(obj)?;
        let managed = for_python(slf.py(), || {
            let managed = node.persisted()?;
            if managed {
                slf.get().core.manage(&node)?;
                node.set_cache_uuid(node.uuid()?)?;
            }
            Ok(managed)
        })?;
        if managed {
            slf.call_method0("cap_cache")?;
        }
        Ok(())
    }

    /// Clears entries, the longest unused first and in the calling thread, until the total is
    /// within the limit (the interface of 2017).
    fn cap_cache(&self, py: Python<'_>) -> PyResult<()> {
        for_python(py, || cap_here(&self.core))
    }

    /// The managed entries of that uuid (the interface of 2017; see `Inodes.find_by_uuid`).
    fn find_by_uuid<'py>(
        &self,
        py: Python<'py>,
        uuid: Option<String>,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut found = Vec::new();
        for_python(py, || {
            for inode in self.core.inodes() {
                if let Some(node) = self.core.get(inode)
                    && uuid.is_some()
                    && node.cache_uuid()? == uuid
                {
                    found.push(node);
                }
            }
            Ok(())
        })?;
        object_list(py, &found)
    }
}

/// Iterator over entries that could be evicted.
#[pyclass(frozen, module = "llfuse._core")]
pub struct EvictCandidates {
    core: Arc<Cache<AnyNode>>,
    remaining: Mutex<Vec<u64>>,
}

#[pymethods]
impl EvictCandidates {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        loop {
            if self.core.satisfied() {
                return Ok(None);
            }
            let Some(inode) = self.remaining.lock().pop() else { return Ok(None) };
            if let Some(node) = self.core.get(inode) {
                return node.object(py).map(Some);
            }
        }
    }
}
