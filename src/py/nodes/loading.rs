// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Serving a collection from its tree: how its Python directory begins, follows and ends that.
//!
//! Functions of the extension module, for `arvados_fuse.native` alone.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::any_node::AnyNode;
use super::loaded_node::{Directory, Keep, LoadedCollection, Numbers};
use super::node::{NodeCore, core_of};
use crate::collection::{NodeId, Tree};
use crate::fs::Ino;
use crate::fs::inodes::Inodes as Table;
use crate::fs::loaded::Loaded;
use crate::py::inodes::table::Inodes;
use crate::py::keep::KeepReader;
use crate::py::llfuse::notify;

fn core(directory: &Bound<'_, PyAny>) -> PyResult<Arc<NodeCore>> {
    core_of(directory).ok_or_else(|| PyTypeError::new_err("not a directory of arvados_fuse"))
}

fn table(directory: &Bound<'_, PyAny>) -> PyResult<Arc<Table<AnyNode>>> {
    let inodes = directory.getattr("inodes")?;
    match inodes.cast::<Inodes>() {
        Ok(inodes) => Ok(Arc::clone(&inodes.get().core)),
        Err(_) => Err(PyTypeError::new_err("inodes must be an arvados_fuse.Inodes")),
    }
}

fn parse(py: Python<'_>, manifest_text: &str) -> PyResult<Tree> {
    py.detach(|| Tree::parse(manifest_text))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Has a directory show what a manifest lists.
///
/// `keep` reads the blocks for as long as `keep_is_real()` is true when a file is opened, or always
/// where it is None. `mtime` is in seconds since the epoch. With `writable`, files can be changed through the mount.
/// `reserved` are names in the directory that are not the collection's. Returns False where the
/// collection has names that no file system can show.
///
/// Raises ValueError where the manifest is malformed, with the line and the reason.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn show_tree(
    directory: &Bound<'_, PyAny>,
    manifest_text: &str,
    mtime: f64,
    keep: &Bound<'_, KeepReader>,
    keep_is_real: Option<Py<PyAny>>,
    writable: bool,
    reserved: Vec<String>,
) -> PyResult<bool> {
    let (core, table) = (core(directory)?, table(directory)?);
    let tree = parse(directory.py(), manifest_text)?;
    if tree.has_odd_names() {
        return Ok(false);
    }
    let keep = Keep { client: keep.get().client(), is_real: keep_is_real };
    let owner = Directory::new(&core.state, &table, keep, writable, reserved);
    let count = LoadedCollection::numbers_for(&tree);
    let first = table.reserve(count);
    let loaded = Loaded::new(owner, Arc::clone(&core.state), Arc::new(tree), first, mtime);
    table.add_range(first, count, Arc::new(Numbers(Arc::clone(&loaded))));
    core.set_loaded(Some(loaded));
    Ok(true)
}

/// Has a directory that shows a tree follow to another version of the collection: what stays keeps
/// its inode number, and the kernel is told what changed.
///
/// Raises ValueError where the manifest is malformed, or has names that no file system can show.
#[pyfunction]
pub fn follow_tree(directory: &Bound<'_, PyAny>, manifest_text: &str, mtime: f64) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    let tree = parse(directory.py(), manifest_text)?;
    if tree.has_odd_names() {
        return Err(PyValueError::new_err("the collection has names that cannot be shown"));
    }
    if let Some(loaded) = core.loaded() {
        directory.py().detach(|| follow(&loaded, &table, tree, mtime));
    }
    Ok(())
}

fn follow(loaded: &Arc<LoadedCollection>, table: &Table<AnyNode>, tree: Tree, mtime: f64) {
    let mut reserved = None;
    let changes = loaded.update(Arc::new(tree), mtime, |count| {
        let first = table.reserve(count);
        reserved = Some((first, count));
        first
    });
    if let Some((first, count)) = reserved {
        table.add_range(first, count, Arc::new(Numbers(Arc::clone(loaded))));
    }
    for ino in changes.inodes {
        notify::invalidate_inode(Ino(ino), false);
    }
    let shown = loaded.shown();
    for (parent, name) in changes.names {
        let dir = if loaded.root().inode() == Some(parent) {
            Some(NodeId::ROOT)
        } else {
            shown.id(parent)
        };
        let (parent, bytes) = (Ino(parent), name.as_bytes());
        match dir.and_then(|dir| shown.tree().child(dir, &name)) {
            // Somebody may be in there already.
            Some(_) => notify::expire_entry(parent, bytes, true),
            // Whoever has it open keeps it no longer than that.
            None => notify::invalidate_entry(parent, bytes),
        }
    }
    notify::prune(changes.gone.into_iter().map(Ino).collect(), None);
}

/// Whether a directory shows a collection from its tree.
#[pyfunction]
pub fn shows_tree(directory: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(core(directory)?.loaded().is_some())
}

/// Memory that the tree which a directory shows takes, in bytes; 0 where it shows none.
#[pyfunction]
pub fn tree_memory(directory: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(core(directory)?.loaded().map_or(0, |loaded| loaded.memory()))
}

/// Drops the tree that a directory shows. What the kernel still refers to stays until it is
/// forgotten.
#[pyfunction]
pub fn drop_tree(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    let Some(loaded) = core.loaded() else { return Ok(()) };
    core.set_loaded(None);
    let known = loaded.known();
    for known in &known {
        notify::expire_entry(Ino(known.parent), known.name.as_bytes(), true);
    }
    notify::prune(known.iter().map(|known| Ino(known.ino)).collect(), None);
    loaded.detach();
    forget_ranges(&loaded, &table);
    Ok(())
}

fn forget_ranges(loaded: &LoadedCollection, table: &Table<AnyNode>) {
    if let Some(first) = loaded.ranges().first() {
        table.drop_deserted(*first);
    }
}

/// The inode number of `name` in the directory of number `parent` of the tree that `directory`
/// shows; None where there is none.
#[pyfunction]
pub fn number_in_tree(
    directory: &Bound<'_, PyAny>,
    parent: u64,
    name: &str,
) -> PyResult<Option<u64>> {
    let core = core(directory)?;
    let Some(loaded) = core.loaded() else { return Ok(None) };
    let shown = loaded.shown();
    let dir =
        if core.state.inode() == Some(parent) { Some(NodeId::ROOT) } else { shown.id(parent) };
    Ok(dir.and_then(|dir| shown.tree().child(dir, name)).map(|id| shown.ino(id)))
}

/// The objects that were added to the table under the numbers of the tree which a directory shows
/// take its place, with references and uses.
#[pyfunction]
pub fn supersede_tree(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    let Some(loaded) = core.loaded() else { return Ok(()) };
    for (ino, refs, uses) in loaded.supersede() {
        if let Some(AnyNode::Object(object)) = table.get(ino)
            && let Some(core) = object.core()
        {
            core.state.add_ref(i64::from(refs));
            core.state.add_use(i64::from(uses));
        }
    }
    core.set_loaded(None);
    forget_ranges(&loaded, &table);
    Ok(())
}
