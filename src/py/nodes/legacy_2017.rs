// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Entries as programs of 2017 wrote them: `has_ref` with an argument, a flag `dead`, and nothing that
//! came later.

use std::time::Duration;

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::any_node::AnyNode;
use super::node::NodeCore;
use super::overrides::Name;
use crate::fs::node::Counted;

/// For how long the kernel cached what an entry of that time told.
pub const TIMEOUT_OF_2017: Duration = Duration::from_secs(60);

/// Whether an object allows something; one that does not say does.
///
/// # Errors
/// What asking for the attribute raises.
pub fn flag(object: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    object.getattr_opt(name)?.map_or(Ok(true), |flag| flag.is_truthy())
}

/// The flag by which an entry of 2017 tells that it was deleted, where the object has it. (A mock has
/// an attribute of any name, but not a bool.)
///
/// # Errors
/// What the attribute raises.
pub fn keeps_dead(object: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
    match object.getattr_opt("dead")? {
        Some(flag) => Ok(flag.cast::<PyBool>().ok().map(pyo3::types::PyBoolMethods::is_true)),
        None => Ok(None),
    }
}

/// Calls `has_ref`, whose argument of 2017 became none in 3.2.1: where the method does not take the
/// one form, with the other.
///
/// # Errors
/// What the method raises.
pub fn has_ref<'py, A, B>(object: &Bound<'py, PyAny>, arguments: A, otherwise: B) -> PyResult<bool>
where
    A: PyCallArgs<'py>,
    B: PyCallArgs<'py>,
{
    match object.call_method1("has_ref", arguments) {
        // Without a traceback it was raised by the call, not inside the method.
        Err(error)
            if error.is_instance_of::<PyTypeError>(object.py())
                && error.traceback(object.py()).is_none() =>
        {
            object.call_method1("has_ref", otherwise)?.is_truthy()
        }
        answer => answer?.is_truthy(),
    }
}

/// `has_ref(only_children)` as it was in 2017: whether the kernel refers to anything in it or,
/// unless `only_children`, to the entry itself.
///
/// # Errors
/// What an overridden `has_ref` raises.
pub fn refers(node: &AnyNode, py: Python<'_>, only_children: bool) -> PyResult<bool> {
    let AnyNode::Host(node) = node else { return Ok(!only_children && node.referenced_now()) };
    let Some(state) = node.own(&[Name::HasRef, Name::RefCount]) else {
        return has_ref(node.object(py).bind(py), (only_children,), ());
    };
    if state.has_ref() && !only_children {
        return Ok(true);
    }
    if let Some(table) = node.core().and_then(NodeCore::entries) {
        for (_, child) in table.snapshot() {
            if refers(&child, py, false)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
