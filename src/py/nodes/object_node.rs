// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A Python object as an inode entry, of whatever class.
//!
//! An object that stands on our base classes answers from its [`NodeCore`] whatever its class
//! leaves alone; for anything else, and for any other object (a test's mock, a class of somebody's
//! own), the Python method is called.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::legacy_2017::{TIMEOUT_OF_2017, flag, has_ref, keeps_dead};
use super::node::{NodeCore, core_of};
use super::overrides::Name;
use crate::fs::Timestamp;
use crate::fs::node::{Attributes, Cacheable, Counted, Facts, Freshness, Identity, Outcome};
use crate::fs::state::{NodeState, UNKNOWN_PARENT};
use crate::py::clock::period;
use crate::py::llfuse::lock;
use crate::py::modules::loaded;
use crate::py::request::{self, with_python};

mod contents;

struct Held {
    object: Py<PyAny>,
    core: Option<Arc<NodeCore>>,
    directory: bool,
    collection_file: bool,
}

/// A Python object in the role of an inode entry. Clones share one reference to it.
#[derive(Clone)]
pub struct ObjectNode(Arc<Held>);

impl ObjectNode {
    /// Takes a reference to `object`.
    ///
    /// # Errors
    /// Where its class cannot be looked into.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let core = core_of(object);
        let (directory, collection_file) = match &core {
            Some(core) => (core.table.is_some(), core.collection_file()),
            None => (
                is_instance(py, object, "arvados_fuse.fusedir", "Directory")?,
                is_instance(py, object, "arvados_fuse.fusefile", "FuseArvadosFile")?,
            ),
        };
        Ok(ObjectNode(Arc::new(Held {
            object: object.clone().unbind(),
            core,
            directory,
            collection_file,
        })))
    }

    /// The object.
    #[must_use]
    pub fn object(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.object.clone_ref(py)
    }

    /// Whether this is that object.
    #[must_use]
    pub fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        self.0.object.is(object)
    }

    /// For the garbage collector.
    ///
    /// # Errors
    /// What the collector answers.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0.object)
    }

    /// The core's part of the object, if it stands on our base classes.
    pub(super) fn core(&self) -> Option<&NodeCore> {
        self.0.core.as_deref()
    }

    /// The state, if every one of `names` means for this node what the core means by it.
    pub(super) fn own(&self, names: &[Name]) -> Option<&NodeState> {
        let core = self.0.core.as_ref()?;
        names.iter().all(|name| core.own(*name)).then_some(&core.state)
    }

    fn call<T>(&self, body: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Outcome<T> {
        with_python(|py| body(self.0.object.bind(py)))
    }

    /// Whether the core may answer for `names` of this directory once it is fresh.
    fn is_shipped(&self, names: &[Name]) -> bool {
        self.0.core.as_ref().is_some_and(|core| names.iter().all(|n| core.own_or_shipped(*n)))
    }

    /// The core, if its entries table may answer for `shipped` now: the directory is fresh, or is
    /// of a kind that is never refreshed.
    fn answering(&self, shipped: &[Name]) -> Option<&Arc<NodeCore>> {
        let core = self.0.core.as_ref()?;
        let ours =
            core.own(Name::EntriesTable) && shipped.iter().all(|name| core.own_or_shipped(*name));
        let fresh = || core.staleness() == Some(false);
        (ours && (core.never_refreshed() || fresh())).then_some(core)
    }
}

fn is_instance(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    module: &str,
    class: &str,
) -> PyResult<bool> {
    match loaded(py, module, class)? {
        Some(class) => object.is_instance(&class),
        None => Ok(false),
    }
}

fn number(value: &Bound<'_, PyAny>, unknown: Option<u64>) -> Option<u64> {
    if value.is_none() { None } else { value.extract().ok().or(unknown) }
}

impl ObjectNode {
    fn size(&self) -> Outcome<u64> {
        match self.own(&[Name::Size]) {
            Some(_) => Ok(0),
            None => self.call(|o| o.call_method0("size")?.extract()),
        }
    }
    fn atime(&self) -> Outcome<Timestamp> {
        match self.own(&[Name::Atime, Name::AtimeValue]) {
            Some(state) => Ok(state.atime.load()),
            None => self.call(|o| o.call_method0("atime")?.extract().map(Timestamp::from_secs_f64)),
        }
    }
    fn mtime(&self) -> Outcome<Timestamp> {
        match self.own(&[Name::Mtime, Name::MtimeValue]) {
            Some(state) => Ok(state.mtime.load()),
            None => self.call(|o| o.call_method0("mtime")?.extract().map(Timestamp::from_secs_f64)),
        }
    }
    fn allow_attr_cache(&self) -> Outcome<bool> {
        match self.own(&[Name::AllowAttrCache]) {
            Some(state) => Ok(state.allow_attr_cache.load(Relaxed)),
            None => self.call(|o| flag(o, "allow_attr_cache")),
        }
    }
}

impl Identity for ObjectNode {
    fn inode(&self) -> Outcome<Option<u64>> {
        match self.own(&[Name::Inode]) {
            Some(state) => Ok(state.inode()),
            None => self.call(|o| Ok(number(&o.getattr("inode")?, None))),
        }
    }
    fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        match self.own(&[Name::Inode, Name::SetAttr]) {
            Some(state) => {
                state.set_inode(inode);
                Ok(())
            }
            None => self.call(|o| o.setattr("inode", inode)),
        }
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        match self.own(&[Name::ParentInode]) {
            Some(state) => Ok(state.parent()),
            None => self.call(|o| {
                if keeps_dead(o)? == Some(true) {
                    return Ok(None);
                }
                Ok(match o.getattr_opt("parent_inode")? {
                    Some(parent) => number(&parent, Some(UNKNOWN_PARENT)),
                    None => Some(UNKNOWN_PARENT),
                })
            }),
        }
    }
    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        match self.own(&[Name::ParentInode, Name::SetAttr]) {
            Some(state) => {
                state.set_parent(parent);
                Ok(())
            }
            None => self.call(|o| {
                if parent.is_none() && keeps_dead(o)?.is_some() {
                    o.setattr("dead", true)?;
                }
                o.setattr("parent_inode", parent)
            }),
        }
    }
    fn same(&self, other: &Self) -> bool {
        self.0.object.is(&other.0.object)
    }
    fn is_dir(&self) -> bool {
        self.0.directory
    }
    fn is_collection_file(&self) -> bool {
        self.0.collection_file
    }
    fn uuid(&self) -> Outcome<Option<String>> {
        match self.own(&[Name::Uuid]) {
            Some(_) => Ok(None),
            None => self.call(|o| Ok(o.call_method0("uuid")?.extract().ok())),
        }
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        match &self.0.core {
            Some(core) if core.own(Name::CacheUuid) => Ok(core.cache_uuid.lock().clone()),
            _ => self.call(|o| Ok(o.getattr("cache_uuid")?.extract().ok())),
        }
    }
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()> {
        match &self.0.core {
            Some(core) if core.own(Name::CacheUuid) => {
                *core.cache_uuid.lock() = uuid;
                Ok(())
            }
            _ => self.call(|o| o.setattr("cache_uuid", uuid)),
        }
    }
}

impl Attributes for ObjectNode {
    fn facts(&self, may_write: bool) -> Outcome<Facts> {
        Ok(Facts {
            attr_timeout: if self.allow_attr_cache()? {
                self.time_to_next_poll()?
            } else {
                Duration::ZERO
            },
            size: self.size()?,
            atime: self.atime()?,
            mtime: self.mtime()?,
            nlink: 1,
            writable: may_write && self.writable()?,
            entry_timeout: None,
        })
    }
    fn writable(&self) -> Outcome<bool> {
        match self.own(&[Name::Writable]) {
            Some(_) => Ok(false),
            None if self.writing(&[Name::Writable])?.is_some() => Ok(true),
            None => self.call(|o| o.call_method0("writable")?.is_truthy()),
        }
    }
    fn time_to_next_poll(&self) -> Outcome<Duration> {
        let natural = self.0.core.as_ref().is_some_and(|core| core.natural_staleness());
        match self.own(&[Name::TimeToNextPoll]) {
            Some(state) if natural => Ok(state.time_to_next_poll()),
            _ => self.call(|o| match o.getattr_opt("time_to_next_poll")? {
                Some(method) => method.call0()?.extract().map(period),
                None => Ok(TIMEOUT_OF_2017),
            }),
        }
    }
    fn allow_dirent_cache(&self) -> Outcome<bool> {
        match self.own(&[Name::AllowDirentCache]) {
            Some(state) => Ok(state.allow_dirent_cache.load(Relaxed)),
            None => self.call(|o| flag(o, "allow_dirent_cache")),
        }
    }
}

impl Freshness for ObjectNode {
    fn accessed(&self) -> Outcome<()> {
        let now = request::now()?;
        match self.own(&[Name::AtimeValue, Name::SetAttr]) {
            Some(state) => {
                state.atime.store(now);
                Ok(())
            }
            // A kind of ours that looks at assignments has nothing to do with this one.
            None => match &self.0.core {
                Some(core) if core.own(Name::AtimeValue) => {
                    core.state.atime.store(now);
                    Ok(())
                }
                _ => self.call(|o| o.setattr("_atime", now.as_secs_f64())),
            },
        }
    }
    fn stale(&self) -> Outcome<bool> {
        match self.0.core.as_ref().and_then(|core| core.staleness()) {
            Some(stale) => Ok(stale),
            // An entry of 2017 that has no such method is never refreshed by itself.
            None => self.call(|o| match o.getattr_opt("stale")? {
                Some(method) => method.call0()?.is_truthy(),
                None => Ok(false),
            }),
        }
    }
    fn checkupdate(&self) -> Outcome<()> {
        if let Some(core) = &self.0.core
            && core.own(Name::Checkupdate)
        {
            if core.own(Name::Update) {
                core.state.mark_stale(false);
                return Ok(());
            }
            if core.staleness() == Some(false) {
                return Ok(());
            }
        }
        self.call(|o| o.call_method0("checkupdate").map(drop))
    }
    fn refreshed_with(&self) -> Outcome<Option<u64>> {
        match &self.0.core {
            Some(core) if core.never_refreshed() => self.parent_inode(),
            _ => Ok(None),
        }
    }
}

impl Counted for ObjectNode {
    fn inc_use(&self) -> Outcome<()> {
        match self.own(&[Name::IncUse, Name::UseCount]) {
            Some(state) => {
                state.add_use(1);
                Ok(())
            }
            None => self.call(|o| o.call_method0("inc_use").map(drop)),
        }
    }
    fn dec_use(&self) -> Outcome<()> {
        match self.own(&[Name::DecUse, Name::UseCount]) {
            Some(state) => {
                state.add_use(-1);
                Ok(())
            }
            None => self.call(|o| o.call_method0("dec_use").map(drop)),
        }
    }
    fn in_use(&self) -> Outcome<bool> {
        let Some(state) = self.own(&[Name::InUse, Name::UseCount]) else {
            return self.call(|o| o.call_method0("in_use")?.is_truthy());
        };
        if state.in_use() {
            return Ok(true);
        }
        if self.0.core.as_ref().and_then(|core| core.collection()).is_some_and(|c| c.in_use()) {
            return Ok(true);
        }
        // A copy of the table: an entry may have to be asked in Python, which must not happen
        // under the table's lock.
        if let Some(table) = self.0.core.as_ref().and_then(|core| core.entries()) {
            for (_, node) in table.snapshot() {
                if node.in_use()? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
    fn inc_ref(&self) -> Outcome<()> {
        match self.own(&[Name::IncRef, Name::RefCount]) {
            Some(state) => {
                state.add_ref(1);
                Ok(())
            }
            None => self.call(|o| o.call_method0("inc_ref").map(drop)),
        }
    }
    fn dec_ref(&self, n: u64) -> Outcome<i64> {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        match self.own(&[Name::DecRef, Name::RefCount]) {
            Some(state) => Ok(state.add_ref(-n)),
            None => self.call(|o| o.call_method1("dec_ref", (n,))?.extract()),
        }
    }
    fn has_ref(&self) -> Outcome<bool> {
        match self.own(&[Name::HasRef, Name::RefCount]) {
            Some(state) => Ok(state.has_ref()),
            None => self.call(|o| has_ref(o, (), (false,))),
        }
    }
    fn referenced_now(&self) -> bool {
        self.own(&[Name::HasRef, Name::RefCount]).is_some_and(NodeState::has_ref)
    }
}

impl Cacheable for ObjectNode {
    fn persisted(&self) -> Outcome<bool> {
        match self.own(&[Name::Persisted]) {
            Some(_) => Ok(false),
            None => self.call(|o| o.call_method0("persisted")?.is_truthy()),
        }
    }
    fn objsize(&self) -> Outcome<i64> {
        self.call(|o| o.call_method0("objsize")?.extract())
    }
    fn cache_size(&self) -> Outcome<i64> {
        match self.own(&[Name::CacheSize]) {
            Some(state) => Ok(state.cache_size.load(Relaxed)),
            None => self.call(|o| o.getattr("cache_size")?.extract()),
        }
    }
    fn set_cache_size(&self, size: i64) -> Outcome<()> {
        match self.own(&[Name::CacheSize, Name::SetAttr]) {
            Some(state) => {
                state.cache_size.store(size, Relaxed);
                Ok(())
            }
            None => self.call(|o| o.setattr("cache_size", size)),
        }
    }
    fn counted_as(&self) -> Outcome<Option<u64>> {
        self.inode()
    }
    fn kernel_invalidate(&self) -> Outcome<()> {
        if !self.0.directory && self.own(&[Name::KernelInvalidate]).is_some() {
            return Ok(());
        }
        self.call(|o| o.call_method0("kernel_invalidate").map(drop))
    }
    fn finalize(&self) -> Outcome<()> {
        if self.own(&[Name::Finalize]).is_some() {
            return Ok(());
        }
        // Saving may take long: other requests go on meanwhile.
        self.call(|o| {
            let py = o.py();
            let finalize =
                || Python::attach(|py| self.0.object.call_method0(py, "finalize").map(drop));
            if lock::is_held_by_me() { lock::released(py, finalize)? } else { finalize() }
        })
    }
    fn clear(&self) -> Outcome<()> {
        if !self.0.directory && self.own(&[Name::Clear]).is_some() {
            return Ok(());
        }
        self.call(|o| o.call_method0("clear").map(drop))
    }
}
