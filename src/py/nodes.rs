// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The node base classes: `FreshBase`, `File` and `Directory` of `arvados_fuse` stand on them.
//!
//! A node's state lives in a [`node::NodeCore`], readable without the GIL. The core holds an inode
//! entry as an [`any_node::AnyNode`]: a Python object ([`object_node`] decides, method by method,
//! whether the core answers for it or Python is called) or a part of a mounted collection, for which
//! [`collection_host`] is Python.

pub mod any_node;
pub mod collection_host;
pub mod directory;
pub mod entries;
pub mod file;
pub mod kernel;
pub mod legacy_2017;
pub mod merge;
pub mod mounting;
pub mod node;
pub mod object_node;
pub mod overrides;
pub mod table;

use pyo3::prelude::*;

/// Adds the classes and functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let others = [py.get_type::<file::FileNode>(), py.get_type::<directory::DirectoryNode>()];
    overrides::ship(py, py.get_type::<node::Node>().unbind(), others.map(Bound::unbind));
    m.add_class::<node::Node>()?;
    m.add_class::<file::FileNode>()?;
    m.add_class::<directory::DirectoryNode>()?;
    m.add_class::<entries::Entries>()?;
    m.add_function(wrap_pyfunction!(overrides::final_when_fresh, m)?)?;
    m.add_function(wrap_pyfunction!(overrides::class_changed, m)?)?;
    m.add_function(wrap_pyfunction!(overrides::answered_natively, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::show_tree, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::show_scratch, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::draft_manifest, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::await_saves, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::draft_changes, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::changed_elsewhere, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::draft_is_unsaved, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::save_draft, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::set_save_after, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::unsaved_manifests, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::freeze_draft, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::set_write_buffer, m)?)?;
    m.add_function(wrap_pyfunction!(overrides::done_natively, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::follow_tree, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::shows_tree, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::tree_memory, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::drop_tree, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::number_in_tree, m)?)?;
    m.add_function(wrap_pyfunction!(mounting::supersede_tree, m)?)?;
    Ok(())
}
