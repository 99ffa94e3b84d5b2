// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The inode table, as directories reach it: by way of the Python object that they hold.

use std::sync::Arc;

use pyo3::prelude::*;

use super::any_node::AnyNode;
use crate::fs::inodes::Inodes;

/// What the table's Python class, which stands above the nodes, gives out of itself.
#[pyclass(frozen, module = "llfuse._core")]
pub struct TableRef {
    /// The table.
    pub table: Arc<Inodes<AnyNode>>,
}

/// The table of the object that is a directory's `inodes`; none where that is an object of another kind.
///
/// # Errors
/// What asking the directory raises.
pub fn table_of(directory: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Inodes<AnyNode>>>> {
    let inodes = directory.getattr("inodes")?;
    let Ok(given) = inodes.getattr("_core_table") else { return Ok(None) };
    Ok(given.cast::<TableRef>().ok().map(|given| Arc::clone(&given.get().table)))
}
