// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A file or directory of a collection that is served from its tree.
//!
//! Everything but a change is answered here, without Python, for as long as the classes that would
//! stand for the entries are the shipped ones. When Python asks for an entry, when something is to
//! be changed, or when one of those classes was patched, the collection is promoted: its directory
//! loads it as an SDK `Collection` with an object for each entry, under the same inode numbers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::any_node::AnyNode;
use super::object_node::ObjectNode;
use super::overrides;
use crate::collection::NodeId;
use crate::fs::Errno;
use crate::fs::inodes::{Block, Inodes};
use crate::fs::loaded::reader::FileReader;
use crate::fs::loaded::shown::Shown;
use crate::fs::loaded::{Entry, Loaded, Owner, Place};
use crate::fs::node::{Bytes, Facts, Listing, Outcome, Reader};
use crate::fs::state::NodeState;
use crate::keep::KeepClient;
use crate::py::clock;
use crate::py::gil::{Company, attach_for_good, with_python};
use crate::py::inodes::company::log_exception;
use crate::py::llfuse::lock;

/// A collection served from its tree, and what Python has to do with it.
pub type LoadedCollection = Loaded<Directory>;

/// What reads the blocks of a collection's files.
pub struct Keep {
    /// The client.
    pub client: Arc<KeepClient>,
    /// Tells whether reading through the SDK's client would be the same: nothing of it was
    /// replaced. `None` where nobody can replace anything.
    pub is_real: Option<Py<PyAny>>,
}

impl Keep {
    fn is_real(&self) -> bool {
        let Some(is_real) = &self.is_real else { return true };
        attach_for_good(|py| is_real.call0(py).and_then(|real| real.is_truthy(py)).unwrap_or(false))
    }
}

/// The Python directory that is a loaded collection's root, as its entries need to know it.
pub struct Directory {
    root: Weak<NodeState>,
    table: Weak<Inodes<AnyNode>>,
    keep: Keep,
    /// Files can be changed through the mount.
    writable: bool,
    /// Names in the root that are not the collection's.
    reserved: Vec<String>,
    /// The state of the classes of nodes under which nothing was overridden.
    epoch: AtomicU64,
}

impl Directory {
    /// What the entries of a collection need to know of the directory that shows it.
    #[must_use]
    pub fn new(
        root: &Arc<NodeState>,
        table: &Arc<Inodes<AnyNode>>,
        keep: Keep,
        writable: bool,
        reserved: Vec<String>,
    ) -> Self {
        Directory {
            root: Arc::downgrade(root),
            table: Arc::downgrade(table),
            keep,
            writable,
            reserved,
            epoch: AtomicU64::new(overrides::epoch()),
        }
    }

    /// Whether a name in the root is not the collection's.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        self.reserved.iter().any(|reserved| reserved == name)
    }

    fn is_current(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) == overrides::epoch()
    }
}

impl Owner for Directory {
    type Node = ObjectNode;

    fn successor(&self, ino: u64) -> Option<ObjectNode> {
        match self.table.upgrade()?.get(ino)? {
            AnyNode::Object(node) => Some(node),
            AnyNode::Loaded(_) => None,
        }
    }

    fn renew(&self) -> bool {
        lock::with_llfuse_lock(|py| {
            let _company = Company::enter(py);
            let Some(root) = self.root.upgrade().and_then(|state| self.successor(state.inode()?))
            else {
                return false;
            };
            match root.object(py).call_method0(py, "_renew_signatures") {
                Ok(renewed) => renewed.is_truthy(py).unwrap_or(false),
                Err(error) => {
                    log_exception(py, "block signatures could not be renewed", error);
                    false
                }
            }
        })
    }
}

/// Answers for a loaded collection's range of inode numbers.
pub struct Numbers(pub Arc<LoadedCollection>);

impl Block<AnyNode> for Numbers {
    fn entry(&self, ino: u64) -> Option<AnyNode> {
        self.0.entry(ino).map(|entry| AnyNode::Loaded(LoadedNode(entry)))
    }

    fn is_deserted(&self) -> bool {
        self.0.is_deserted()
    }

    fn ranges(&self) -> Vec<u64> {
        self.0.ranges()
    }
}

/// The entry of that name in a directory of a loaded collection.
#[must_use]
pub fn child(collection: &Arc<LoadedCollection>, dir: NodeId, name: &str) -> Option<AnyNode> {
    let shown = collection.shown();
    collection.child(&shown, dir, name).map(|entry| AnyNode::Loaded(LoadedNode(entry)))
}

/// What a directory of a loaded collection lists.
#[must_use]
pub fn listing(
    collection: &Arc<LoadedCollection>,
    shown: Arc<Shown>,
    dir: NodeId,
) -> Box<dyn Listing<AnyNode>> {
    Box::new(TreeListing { collection: Arc::clone(collection), shown, dir })
}

struct TreeListing {
    collection: Arc<LoadedCollection>,
    shown: Arc<Shown>,
    dir: NodeId,
}

impl Listing<AnyNode> for TreeListing {
    fn len(&self) -> usize {
        self.shown.tree().children(self.dir).len()
    }

    fn get(&self, at: usize) -> Option<(Cow<'_, str>, AnyNode)> {
        let id = self.shown.tree().children(self.dir).get(at)?;
        let entry = self.collection.entry_of(&self.shown, id);
        Some((Cow::Borrowed(self.shown.tree().name(id)), AnyNode::Loaded(LoadedNode(entry))))
    }

    fn used(&self) -> Box<dyn Iterator<Item = &AnyNode> + '_> {
        // The directory is in use itself, and with it the collection.
        Box::new(std::iter::empty())
    }
}

/// A file or directory of a loaded collection. Clones refer to the same one.
#[derive(Clone)]
pub struct LoadedNode(Entry<Directory>);

enum Settled {
    Here(Arc<Shown>, NodeId),
    Object(ObjectNode),
}

use Settled::{Here, Object};

impl LoadedNode {
    fn owner(&self) -> &Directory {
        &self.0.loaded().owner
    }

    /// The Python directory that shows the collection.
    fn root_object(&self) -> Option<ObjectNode> {
        let ino = self.0.loaded().root().inode()?;
        self.owner().successor(ino)
    }

    /// For how many seconds from `now` on the collection counts as fresh.
    fn fresh_for(&self, now: f64) -> f64 {
        let root = self.0.loaded().root();
        if root.marked_stale() { 0.0 } else { root.fresh_for(now) }
    }

    /// Where the entry is, after a look at what may have been overridden.
    fn settle(&self) -> Outcome<Settled> {
        if !self.owner().is_current() {
            with_python(|py| self.look_for_overrides(py))?;
        }
        match self.0.place() {
            Place::Here(shown, id) => Ok(Here(shown, id)),
            Place::Successor(object) => Ok(Object(object)),
            Place::Gone => Err(Errno::ENOENT.into()),
        }
    }

    /// Some class of nodes was changed: one that would stand for an entry here?
    fn look_for_overrides(&self, py: Python<'_>) -> PyResult<()> {
        let epoch = overrides::epoch();
        match self.root_object() {
            Some(root)
                if !root.object(py).call_method0(py, "_may_stay_native")?.is_truthy(py)? =>
            {
                root.object(py).call_method0(py, "_promote").map(drop)
            }
            _ => {
                self.owner().epoch.store(epoch, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// The object for the entry, after a promotion where there is none yet.
    ///
    /// # Errors
    /// What the promotion raises; RuntimeError where the entry is gone.
    pub fn promoted(&self, py: Python<'_>) -> PyResult<ObjectNode> {
        if let Place::Here(..) = self.0.place()
            && let Some(root) = self.root_object()
        {
            root.object(py).call_method0(py, "_promote")?;
        }
        match self.0.place() {
            Place::Successor(object) => Ok(object),
            _ => Err(PyRuntimeError::new_err(format!(
                "inode {} left its collection and is no object any more",
                self.0.ino()
            ))),
        }
    }

    fn as_object(&self) -> Outcome<ObjectNode> {
        match self.settle()? {
            Object(object) => Ok(object),
            Here(..) => with_python(|py| self.promoted(py)),
        }
    }

    /// The object that took its place, if one did.
    fn superseded(&self) -> Option<ObjectNode> {
        if !self.0.loaded().is_superseded() {
            return None;
        }
        match self.0.place() {
            Place::Successor(object) => Some(object),
            _ => None,
        }
    }
}

/// What a node is asked: see [`crate::fs::node::Node`].
#[allow(missing_docs, clippy::missing_errors_doc, clippy::unnecessary_wraps)]
impl LoadedNode {
    pub fn inode(&self) -> Outcome<Option<u64>> {
        Ok(Some(self.0.ino()))
    }

    pub fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.set_inode(inode),
            None => {
                if inode.is_none() {
                    self.0.forget();
                }
                Ok(())
            }
        }
    }

    pub fn parent_inode(&self) -> Outcome<Option<u64>> {
        match self.superseded() {
            Some(object) => object.parent_inode(),
            None => Ok(self.0.parent()),
        }
    }

    pub fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.set_parent_inode(parent),
            // Where it is, the tree says.
            None => Ok(()),
        }
    }

    pub fn same(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }

    pub fn is_dir(&self) -> bool {
        self.0.is_dir()
    }

    pub fn is_collection_file(&self) -> bool {
        !self.0.is_dir()
    }

    pub fn size(&self) -> Outcome<u64> {
        match self.settle()? {
            Here(shown, id) => Ok(shown.tree().size(id)),
            Object(object) => object.size(),
        }
    }

    pub fn atime(&self) -> Outcome<f64> {
        match self.settle()? {
            Here(..) => Ok(self.0.loaded().atime.load()),
            Object(object) => object.atime(),
        }
    }

    pub fn mtime(&self) -> Outcome<f64> {
        match self.settle()? {
            Here(shown, id) => Ok(shown.mtime(id)),
            Object(object) => object.mtime(),
        }
    }

    pub fn writable(&self) -> Outcome<bool> {
        match self.settle()? {
            Here(..) => Ok(self.owner().writable),
            Object(object) => object.writable(),
        }
    }

    pub fn time_to_next_poll(&self) -> Outcome<f64> {
        match self.settle()? {
            // For as long as the collection counts as fresh.
            Here(..) => Ok(self.fresh_for(clock::read()?)),
            Object(object) => object.time_to_next_poll(),
        }
    }

    pub fn allow_attr_cache(&self) -> Outcome<bool> {
        match self.settle()? {
            Here(..) => Ok(true),
            Object(object) => object.allow_attr_cache(),
        }
    }

    pub fn allow_dirent_cache(&self) -> Outcome<bool> {
        match self.settle()? {
            Here(..) => Ok(true),
            Object(object) => object.allow_dirent_cache(),
        }
    }

    pub fn facts(&self, may_write: bool) -> Outcome<Facts> {
        match self.settle()? {
            Here(shown, id) => {
                let loaded = self.0.loaded();
                let fresh_for = self.fresh_for(clock::read()?);
                Ok(Facts {
                    size: shown.tree().size(id),
                    atime: loaded.atime.load(),
                    mtime: shown.mtime(id),
                    writable: may_write && loaded.owner.writable,
                    attr_timeout: fresh_for,
                    entry_timeout: Some(fresh_for),
                })
            }
            Object(object) => object.facts(may_write),
        }
    }

    pub fn accessed(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.accessed(),
            None => {
                self.0.loaded().atime.store(clock::read()?);
                Ok(())
            }
        }
    }

    pub fn stale(&self) -> Outcome<bool> {
        match self.superseded() {
            Some(object) => object.stale(),
            None => Ok(false),
        }
    }

    pub fn checkupdate(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.checkupdate(),
            None => Ok(()),
        }
    }

    pub fn inc_use(&self) -> Outcome<()> {
        match self.0.add_use(1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |object| object.inc_use()),
        }
    }

    pub fn dec_use(&self) -> Outcome<()> {
        match self.0.add_use(-1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |object| object.dec_use()),
        }
    }

    pub fn in_use(&self) -> Outcome<bool> {
        match self.0.uses() {
            Some(uses) => Ok(uses > 0),
            None => self.superseded().map_or(Ok(false), |object| object.in_use()),
        }
    }

    pub fn inc_ref(&self) -> Outcome<()> {
        match self.0.add_ref(1) {
            Some(_) => Ok(()),
            None => self.superseded().map_or(Ok(()), |object| object.inc_ref()),
        }
    }

    pub fn dec_ref(&self, n: u64) -> Outcome<i64> {
        let count = i64::try_from(n).unwrap_or(i64::MAX);
        match self.0.add_ref(-count) {
            Some(refs) => Ok(refs),
            None => self.superseded().map_or(Ok(0), |object| object.dec_ref(n)),
        }
    }

    pub fn has_ref(&self) -> Outcome<bool> {
        match self.0.refs() {
            Some(refs) => Ok(refs > 0),
            None => self.superseded().map_or(Ok(false), |object| object.has_ref()),
        }
    }

    pub fn referenced_now(&self) -> bool {
        match self.0.refs() {
            Some(refs) => refs > 0,
            None => self.superseded().is_some_and(|object| object.referenced_now()),
        }
    }

    pub fn uuid(&self) -> Outcome<Option<String>> {
        Ok(None)
    }

    pub fn cache_uuid(&self) -> Outcome<Option<String>> {
        Ok(None)
    }

    pub fn set_cache_uuid(&self, _uuid: Option<String>) -> Outcome<()> {
        Ok(())
    }

    pub fn persisted(&self) -> Outcome<bool> {
        // The whole collection is counted at its root.
        Ok(false)
    }

    pub fn objsize(&self) -> Outcome<i64> {
        Ok(0)
    }

    pub fn cache_size(&self) -> Outcome<i64> {
        Ok(0)
    }

    pub fn set_cache_size(&self, _size: i64) -> Outcome<()> {
        Ok(())
    }

    pub fn kernel_invalidate(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.kernel_invalidate(),
            None => Ok(()),
        }
    }

    pub fn finalize(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.finalize(),
            None => Ok(()),
        }
    }

    pub fn clear(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.clear(),
            None => Ok(()),
        }
    }

    pub fn counted_as(&self) -> Outcome<Option<u64>> {
        match self.superseded() {
            Some(object) => object.inode(),
            None => Ok(self.0.loaded().root().inode()),
        }
    }

    pub fn child(&self, name: &str) -> Outcome<Option<AnyNode>> {
        match self.settle()? {
            Here(shown, id) => {
                let found = self.0.loaded().child(&shown, id, name);
                Ok(found.map(|entry| AnyNode::Loaded(LoadedNode(entry))))
            }
            Object(object) => object.child(name),
        }
    }

    pub fn items(&self) -> Outcome<Box<dyn Listing<AnyNode>>> {
        match self.settle()? {
            Here(shown, id) => Ok(listing(self.0.loaded(), shown, id)),
            Object(object) => object.items(),
        }
    }

    pub fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        match self.settle()? {
            Here(..) if self.owner().keep.is_real() => {
                let client = Arc::clone(&self.owner().keep.client);
                Ok(Some(Box::new(FileReader::new(self.0.clone(), client))))
            }
            Here(..) => self.as_object()?.reader(),
            Object(object) => object.reader(),
        }
    }

    pub fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<Box<dyn Bytes>> {
        self.as_object()?.readfrom(offset, size, num_retries)
    }

    pub fn writeto(&self, offset: u64, data: &[u8], num_retries: u32) -> Outcome<u32> {
        self.as_object()?.writeto(offset, data, num_retries)
    }

    pub fn truncate(&self, size: u64) -> Outcome<u64> {
        self.as_object()?.truncate(size)
    }

    pub fn flush(&self) -> Outcome<()> {
        match self.superseded() {
            Some(object) => object.flush(),
            // Nothing was written: whoever writes becomes an object first.
            None => Ok(()),
        }
    }

    pub fn create(&self, name: &str) -> Outcome<()> {
        self.as_object()?.create(name)
    }

    pub fn mkdir(&self, name: &str) -> Outcome<()> {
        self.as_object()?.mkdir(name)
    }

    pub fn unlink(&self, name: &str) -> Outcome<()> {
        self.as_object()?.unlink(name)
    }

    pub fn rmdir(&self, name: &str) -> Outcome<()> {
        self.as_object()?.rmdir(name)
    }

    pub fn rename(&self, old: &str, new: &str, source: &AnyNode) -> Outcome<()> {
        self.as_object()?.rename(old, new, source)
    }
}
