// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The node base classes: `FreshBase`, `File` and `Directory` of `arvados_fuse` stand on them.
//!
//! A node's state lives in a [`node::NodeCore`], readable without the GIL; [`any_node::AnyNode`]
//! is how the core holds any Python object as an inode entry and decides, method by method,
//! whether it answers itself or calls Python.

pub mod any_node;
pub mod directory;
pub mod entries;
pub mod file;
pub mod merge;
pub mod node;
pub mod of_2017;
pub mod overrides;

use pyo3::prelude::*;

/// Adds the classes and functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<node::Node>()?;
    m.add_class::<file::FileNode>()?;
    m.add_class::<directory::DirectoryNode>()?;
    m.add_class::<entries::Entries>()?;
    m.add_function(wrap_pyfunction!(overrides::final_when_fresh, m)?)?;
    m.add_function(wrap_pyfunction!(overrides::class_changed, m)?)?;
    m.add_function(wrap_pyfunction!(overrides::answered_natively, m)?)?;
    Ok(())
}
