// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Serving a collection from its tree: how its Python directory begins, follows and ends that.
//!
//! Functions of the extension module, for `arvados_fuse.sdk_hooks` alone.

#![allow(clippy::missing_errors_doc, reason = "functions for Python, which say what they raise")]

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::any_node::AnyNode;
use super::collection_host::{Keep, PythonCollection, PythonHost};
use super::node::{NodeCore, core_of};
use super::table::table_of;
use crate::collection::Tree;
use crate::fs::collection::{Settings, save};
use crate::fs::inodes::Inodes as Table;
use crate::fs::write_buffer::WriteBuffer;
use crate::fs::{Ino, Timestamp};
use crate::keep::PutOptions;
use crate::py::keep::KeepReader;
use crate::py::request::{exception, for_python};

fn core(directory: &Bound<'_, PyAny>) -> PyResult<Arc<NodeCore>> {
    core_of(directory).ok_or_else(|| PyTypeError::new_err("not a directory of arvados_fuse"))
}

fn table(directory: &Bound<'_, PyAny>) -> PyResult<Arc<Table<AnyNode>>> {
    let table = table_of(directory)?;
    table.ok_or_else(|| PyTypeError::new_err("inodes must be an arvados_fuse.Inodes"))
}

fn parse(py: Python<'_>, manifest_text: &str) -> PyResult<Tree> {
    py.detach(|| Tree::parse(manifest_text))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Has a directory show what a manifest lists.
///
/// `keep` reads the blocks for as long as `keep_is_real()` is true when a file is opened, or always
/// where it is None. `mtime` is in seconds since the epoch. With `writable`, files can be changed through the mount.
/// `reserved` are names in the directory that are not the collection's. Blocks are stored in `replicas`
/// copies, in the storage classes `classes` (none: the cluster's own); what is changed is saved by
/// `directory._save_update`. Returns False where the collection has names that no file system can show.
///
/// Raises `ValueError` where the manifest is malformed, with the line and the reason.
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
    replicas: u32,
    classes: Vec<String>,
) -> PyResult<bool> {
    let (core, table) = (core(directory)?, table(directory)?);
    let tree = parse(directory.py(), manifest_text)?;
    if tree.has_odd_names() {
        return Ok(false);
    }
    let keep = Keep { client: keep.get().client(), is_real: keep_is_real };
    let host = PythonHost::new(&core.state, &table, keep);
    let stored = writable.then_some(PutOptions { replicas, classes });
    let settings = Settings { writable, reserved, stored, saved: true, ..Settings::default() };
    let root = Arc::clone(&core.state);
    let mtime = Timestamp::from_secs_f64(mtime);
    let mounted = PythonCollection::mount(host, settings, root, Arc::new(tree), mtime, &table);
    core.set_collection(Some(mounted));
    Ok(true)
}

/// Has a directory show a collection of nothing, in which files and directories can be made. It is never
/// saved: [`draft_manifest`] tells what is in it.
///
/// `keep`, `keep_is_real` and `reserved` are as those of [`show_tree`]. Blocks are stored in `replicas`
/// copies, in the storage classes `classes` (none: the cluster's own).
#[pyfunction]
pub fn show_scratch(
    directory: &Bound<'_, PyAny>,
    keep: &Bound<'_, KeepReader>,
    keep_is_real: Option<Py<PyAny>>,
    reserved: Vec<String>,
    replicas: u32,
    classes: Vec<String>,
) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    let keep = Keep { client: keep.get().client(), is_real: keep_is_real };
    let host = PythonHost::new(&core.state, &table, keep);
    let stored = Some(PutOptions { replicas, classes });
    let settings = Settings { writable: true, reserved, stored, ..Settings::default() };
    let (root, tree) = (Arc::clone(&core.state), Arc::new(Tree::empty()));
    let mtime = core.state.mtime.load();
    // Nobody but the mount changes it: the kernel may keep what it is told.
    core.state.mark_stale(false);
    let mounted = PythonCollection::mount(host, settings, root, tree, mtime, &table);
    core.set_collection(Some(mounted));
    Ok(())
}

/// The manifest of what is in the collection that a directory shows, with everything stored, and its
/// portable data hash.
///
/// Raises `FUSEError(EIO)` where something could not be stored: the log says why.
#[pyfunction]
pub fn draft_manifest(directory: &Bound<'_, PyAny>) -> PyResult<(String, String)> {
    let Some(mounted) = core(directory)?.collection() else {
        return Err(PyValueError::new_err("the directory shows no collection"));
    };
    let py = directory.py();
    let text = py.detach(|| mounted.manifest()).map_err(exception)?;
    let hash = parse(py, &text)?.portable_data_hash().to_string();
    Ok((text, hash))
}

/// How often something was changed in the collection that a directory shows; None where it shows none.
#[pyfunction]
pub fn draft_changes(directory: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    Ok(core(directory)?.collection().map(|mounted| mounted.changes()))
}

/// Whether (`frozen`) nothing is changed by the core any more in the collection that a directory shows:
/// whoever wants to has the directory take over, or waits for that.
#[pyfunction]
pub fn freeze_draft(directory: &Bound<'_, PyAny>, frozen: bool) -> PyResult<()> {
    if let Some(mounted) = core(directory)?.collection() {
        directory.py().detach(|| {
            mounted.freeze(frozen);
            // One that began before ends before whoever takes over looks.
            mounted.await_saves();
        });
    }
    Ok(())
}

/// Sets how many bytes may be written and not stored yet, in the whole process.
#[pyfunction]
pub fn set_write_buffer(bytes: u64) {
    WriteBuffer::shared().set_limit(bytes);
}

/// Has closing a file of a collection return at once, in the whole process, and what was changed saved
/// after so many seconds. 0: closing saves.
#[pyfunction]
pub fn set_save_after(seconds: f64) -> PyResult<()> {
    let delay = Duration::try_from_secs_f64(seconds);
    save::set_save_after(delay.map_err(|error| PyValueError::new_err(error.to_string()))?);
    Ok(())
}

/// Has a directory that shows a tree follow to another version of the collection: what stays keeps
/// its inode number, and the kernel is told what changed. What was changed here stays.
///
/// The version was asked for when there had been `since` saves ([`await_saves`]). Returns False, and
/// shows nothing, where there was another since.
///
/// Raises `ValueError` where the manifest is malformed, or has names that no file system can show.
#[pyfunction]
pub fn follow_tree(
    directory: &Bound<'_, PyAny>,
    manifest_text: &str,
    mtime: f64,
    since: Option<u64>,
) -> PyResult<bool> {
    let (core, table) = (core(directory)?, table(directory)?);
    let tree = parse(directory.py(), manifest_text)?;
    if tree.has_odd_names() {
        return Err(PyValueError::new_err("the collection has names that cannot be shown"));
    }
    if let Some(mounted) = core.collection() {
        let mtime = Timestamp::from_secs_f64(mtime);
        return Ok(directory.py().detach(|| mounted.follow(tree, mtime, since, &table)));
    }
    Ok(true)
}

/// Waits until no save of the collection that a directory shows is under way; returns how many there
/// were, None where it shows none.
#[pyfunction]
pub fn await_saves(directory: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    let mounted = core(directory)?.collection();
    Ok(mounted.map(|mounted| directory.py().detach(|| mounted.await_saves())))
}

/// Saves what was changed in the collection that a directory shows, and waits for that.
///
/// Raises `FUSEError` where it cannot be saved; it stays, and is tried again the next time.
#[pyfunction]
pub fn save_draft(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(mounted) = core(directory)?.collection() else { return Ok(()) };
    for_python(directory.py(), || mounted.save().map(drop))
}

/// Somebody else changed the collection that a directory shows, at that time by the API's clock (in Unix
/// seconds; None where that is not known). Where that may be what was saved from here at the same moment, it is
/// looked at.
#[pyfunction]
pub fn changed_elsewhere(directory: &Bound<'_, PyAny>, at: Option<f64>) -> PyResult<()> {
    if let Some(mounted) = core(directory)?.collection() {
        let at = at.map(Timestamp::from_secs_f64);
        directory.py().detach(|| mounted.changed_elsewhere(at));
    }
    Ok(())
}

/// Whether something in the collection that a directory shows is not saved.
#[pyfunction]
pub fn draft_is_unsaved(directory: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(core(directory)?.collection().is_some_and(|mounted| mounted.is_unsaved()))
}

/// Where something in the collection that a directory shows is not saved, the manifests of what is, and
/// of what it contains, with all of that stored.
///
/// Raises `FUSEError(EIO)` where something could not be stored: the log says why.
#[pyfunction]
pub fn unsaved_manifests(directory: &Bound<'_, PyAny>) -> PyResult<Option<(String, String)>> {
    let Some(mounted) = core(directory)?.collection() else { return Ok(None) };
    directory.py().detach(|| mounted.unsaved_manifests()).map_err(exception)
}

/// Whether a directory shows a collection from its tree.
#[pyfunction]
pub fn shows_tree(directory: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(core(directory)?.collection().is_some())
}

/// Memory that the tree which a directory shows takes, in bytes; 0 where it shows none.
#[pyfunction]
pub fn tree_memory(directory: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(core(directory)?.collection().map_or(0, |mounted| mounted.memory()))
}

/// Drops the tree that a directory shows. What the kernel still refers to stays until it is
/// forgotten.
#[pyfunction]
pub fn drop_tree(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    if let Some(mounted) = core.collection() {
        // Whoever looks from here on has the contents loaded again.
        core.state.mark_stale(true);
        core.set_collection(None);
        mounted.unmount(&table);
    }
    Ok(())
}

/// The inode number that an object keeps which takes the place of `name` in the directory of number
/// `parent` of the tree that `directory` shows; None where there is none, and for the further names of a file
/// that has several.
#[pyfunction]
pub fn number_in_tree(
    directory: &Bound<'_, PyAny>,
    parent: u64,
    name: &str,
) -> PyResult<Option<u64>> {
    let core = core(directory)?;
    let Some(mounted) = core.collection() else { return Ok(None) };
    Ok(mounted.number_to_keep(parent, name))
}

/// The objects that were added to the table under the numbers of the tree which a directory shows
/// take its place, with references and uses.
#[pyfunction]
pub fn supersede_tree(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let (core, table) = (core(directory)?, table(directory)?);
    let Some(mounted) = core.collection() else { return Ok(()) };
    let further = mounted.further_names();
    // From here on the objects are found: what is superseded lists nothing.
    core.set_collection(None);
    for (ino, refs, uses) in mounted.supersede() {
        if let Some(AnyNode::Host(object)) = table.get(ino)
            && let Some(core) = object.core()
        {
            core.state.add_ref(i64::from(refs));
            core.state.add_use(i64::from(uses));
        }
    }
    // What was one file of several names is a file of each.
    for (parent, name) in further {
        table.upcalls().expire_entry(Ino(parent), name.as_bytes());
    }
    mounted.forget_ranges(&table);
    Ok(())
}
