// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! An inode entry of any kind: a Python object, or a part of a collection that is served from its
//! tree and becomes an object only when Python asks for it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::loaded_node::LoadedNode;
use super::object_node::ObjectNode;
use crate::fs::node::{Bytes, Facts, Listing, Node, Outcome, Reader};

/// An inode entry. Clones refer to the same one.
#[derive(Clone)]
pub enum AnyNode {
    /// A Python object.
    Object(ObjectNode),
    /// A file or directory of a loaded collection.
    Loaded(LoadedNode),
}

impl AnyNode {
    /// Takes a reference to `object`.
    ///
    /// # Errors
    /// Where its class cannot be looked into.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        ObjectNode::new(object).map(AnyNode::Object)
    }

    /// The entry as a Python object; what was none becomes one.
    ///
    /// # Errors
    /// What loading the collection for Python raises.
    pub fn object(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            AnyNode::Object(node) => Ok(node.object(py)),
            AnyNode::Loaded(node) => Ok(node.promoted(py)?.object(py)),
        }
    }

    /// Whether this is that object.
    #[must_use]
    pub fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        match self {
            AnyNode::Object(node) => node.is(object),
            AnyNode::Loaded(_) => false,
        }
    }

    /// For the garbage collector. What is no object refers to none that it could collect.
    ///
    /// # Errors
    /// What the collector answers.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            AnyNode::Object(node) => node.visit(visit),
            AnyNode::Loaded(_) => Ok(()),
        }
    }
}

/// A list of entries as Python objects.
///
/// # Errors
/// As [`AnyNode::object`].
pub fn object_list<'py>(py: Python<'py>, nodes: &[AnyNode]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, nodes.iter().map(|node| node.object(py)).collect::<PyResult<Vec<_>>>()?)
}

macro_rules! either {
    ($self:ident, $node:ident => $body:expr) => {
        match $self {
            AnyNode::Object($node) => $body,
            AnyNode::Loaded($node) => $body,
        }
    };
}

impl Node for AnyNode {
    fn inode(&self) -> Outcome<Option<u64>> {
        either!(self, n => n.inode())
    }
    fn set_inode(&self, inode: Option<u64>) -> Outcome<()> {
        either!(self, n => n.set_inode(inode))
    }
    fn parent_inode(&self) -> Outcome<Option<u64>> {
        either!(self, n => n.parent_inode())
    }
    fn set_parent_inode(&self, parent: Option<u64>) -> Outcome<()> {
        either!(self, n => n.set_parent_inode(parent))
    }
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (AnyNode::Object(one), AnyNode::Object(another)) => one.same(another),
            (AnyNode::Loaded(one), AnyNode::Loaded(another)) => one.same(another),
            _ => false,
        }
    }
    fn is_dir(&self) -> bool {
        either!(self, n => n.is_dir())
    }
    fn is_collection_file(&self) -> bool {
        either!(self, n => n.is_collection_file())
    }
    fn size(&self) -> Outcome<u64> {
        either!(self, n => n.size())
    }
    fn atime(&self) -> Outcome<f64> {
        either!(self, n => n.atime())
    }
    fn mtime(&self) -> Outcome<f64> {
        either!(self, n => n.mtime())
    }
    fn writable(&self) -> Outcome<bool> {
        either!(self, n => n.writable())
    }
    fn time_to_next_poll(&self) -> Outcome<f64> {
        either!(self, n => n.time_to_next_poll())
    }
    fn allow_attr_cache(&self) -> Outcome<bool> {
        either!(self, n => n.allow_attr_cache())
    }
    fn allow_dirent_cache(&self) -> Outcome<bool> {
        either!(self, n => n.allow_dirent_cache())
    }
    fn facts(&self, may_write: bool) -> Outcome<Facts> {
        either!(self, n => n.facts(may_write))
    }
    fn accessed(&self) -> Outcome<()> {
        either!(self, n => n.accessed())
    }
    fn stale(&self) -> Outcome<bool> {
        either!(self, n => n.stale())
    }
    fn checkupdate(&self) -> Outcome<()> {
        either!(self, n => n.checkupdate())
    }
    fn inc_use(&self) -> Outcome<()> {
        either!(self, n => n.inc_use())
    }
    fn dec_use(&self) -> Outcome<()> {
        either!(self, n => n.dec_use())
    }
    fn in_use(&self) -> Outcome<bool> {
        either!(self, n => n.in_use())
    }
    fn inc_ref(&self) -> Outcome<()> {
        either!(self, n => n.inc_ref())
    }
    fn dec_ref(&self, count: u64) -> Outcome<i64> {
        either!(self, n => n.dec_ref(count))
    }
    fn has_ref(&self) -> Outcome<bool> {
        either!(self, n => n.has_ref())
    }
    fn referenced_now(&self) -> bool {
        either!(self, n => n.referenced_now())
    }
    fn uuid(&self) -> Outcome<Option<String>> {
        either!(self, n => n.uuid())
    }
    fn cache_uuid(&self) -> Outcome<Option<String>> {
        either!(self, n => n.cache_uuid())
    }
    fn set_cache_uuid(&self, uuid: Option<String>) -> Outcome<()> {
        either!(self, n => n.set_cache_uuid(uuid))
    }
    fn persisted(&self) -> Outcome<bool> {
        either!(self, n => n.persisted())
    }
    fn objsize(&self) -> Outcome<i64> {
        either!(self, n => n.objsize())
    }
    fn cache_size(&self) -> Outcome<i64> {
        either!(self, n => n.cache_size())
    }
    fn set_cache_size(&self, size: i64) -> Outcome<()> {
        either!(self, n => n.set_cache_size(size))
    }
    fn kernel_invalidate(&self) -> Outcome<()> {
        either!(self, n => n.kernel_invalidate())
    }
    fn finalize(&self) -> Outcome<()> {
        either!(self, n => n.finalize())
    }
    fn clear(&self) -> Outcome<()> {
        either!(self, n => n.clear())
    }
    fn counted_as(&self) -> Outcome<Option<u64>> {
        either!(self, n => n.counted_as())
    }
    fn fresh_with_parent(&self) -> bool {
        match self {
            AnyNode::Object(node) => node.core().is_some_and(|core| core.never_refreshed()),
            AnyNode::Loaded(_) => true,
        }
    }
    fn child(&self, name: &str) -> Outcome<Option<Self>> {
        either!(self, n => n.child(name))
    }
    fn items(&self) -> Outcome<Box<dyn Listing<Self>>> {
        either!(self, n => n.items())
    }
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        either!(self, n => n.reader())
    }
    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<Box<dyn Bytes>> {
        either!(self, n => n.readfrom(offset, size, num_retries))
    }
    fn writeto(&self, offset: u64, data: &[u8], num_retries: u32) -> Outcome<u32> {
        either!(self, n => n.writeto(offset, data, num_retries))
    }
    fn truncate(&self, size: u64) -> Outcome<u64> {
        either!(self, n => n.truncate(size))
    }
    fn flush(&self) -> Outcome<()> {
        either!(self, n => n.flush())
    }
    fn create(&self, name: &str) -> Outcome<()> {
        either!(self, n => n.create(name))
    }
    fn mkdir(&self, name: &str) -> Outcome<()> {
        either!(self, n => n.mkdir(name))
    }
    fn unlink(&self, name: &str) -> Outcome<()> {
        either!(self, n => n.unlink(name))
    }
    fn rmdir(&self, name: &str) -> Outcome<()> {
        either!(self, n => n.rmdir(name))
    }
    fn rename(&self, old: &str, new: &str, source: &Self) -> Outcome<()> {
        either!(self, n => n.rename(old, new, source))
    }
}
