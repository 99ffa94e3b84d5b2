// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Inode entries as Python objects: what is none becomes one when Python asks for it.

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::collection_host::PythonHost;
use super::object_node::ObjectNode;
use crate::fs::any_node;
use crate::fs::collection::{CollectionNode, Resolved};

/// An inode entry: a Python object, or a part of a mounted collection.
pub type AnyNode = any_node::AnyNode<PythonHost>;

impl AnyNode {
    /// Takes a reference to `object`.
    ///
    /// # Errors
    /// Where its class cannot be looked into.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        ObjectNode::new(object).map(AnyNode::Host)
    }

    /// The entry as a Python object; what was none becomes one.
    ///
    /// # Errors
    /// What loading the collection for Python raises; `RuntimeError` where the entry is gone.
    pub fn object(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            AnyNode::Host(node) => Ok(node.object(py)),
            AnyNode::Collection(node) => Ok(promoted(py, node)?.object(py)),
        }
    }

    /// Whether this is that object.
    #[must_use]
    pub fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        match self {
            AnyNode::Host(node) => node.is(object),
            AnyNode::Collection(_) => false,
        }
    }

    /// For the garbage collector. What is no object refers to none that it could collect.
    ///
    /// # Errors
    /// What the collector answers.
    pub fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            AnyNode::Host(node) => node.visit(visit),
            AnyNode::Collection(_) => Ok(()),
        }
    }
}

/// The object for an entry of a mounted collection, after a promotion where there is none yet.
fn promoted(py: Python<'_>, node: &CollectionNode<PythonHost>) -> PyResult<ObjectNode> {
    if let Resolved::Here(..) | Resolved::Draft(_) = node.resolve() {
        node.collection().host.promote(py)?;
    }
    match node.resolve() {
        Resolved::Successor(AnyNode::Host(object)) => Ok(object),
        Resolved::Successor(AnyNode::Collection(moved)) => promoted(py, &moved),
        _ => Err(PyRuntimeError::new_err(format!(
            "inode {} left its collection and is no object any more",
            node.ino()
        ))),
    }
}

/// A list of entries as Python objects.
///
/// # Errors
/// As [`AnyNode::object`].
pub fn object_list<'py>(py: Python<'py>, nodes: &[AnyNode]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, nodes.iter().map(|node| node.object(py)).collect::<PyResult<Vec<_>>>()?)
}
