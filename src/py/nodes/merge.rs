// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Changing what a directory lists, entry by entry, and telling the kernel.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::any_node::AnyNode;
use super::node::{NodeCore, core_of};
use crate::fs::dentries::Dentries;
use crate::fs::told::Told;
use crate::py::clock;

fn core(directory: &Bound<'_, PyAny>) -> PyResult<Arc<NodeCore>> {
    core_of(directory).ok_or_else(|| PyTypeError::new_err("not a directory"))
}

fn table(directory: &Bound<'_, PyAny>) -> PyResult<Arc<Dentries<AnyNode>>> {
    core(directory)?.entries().ok_or_else(|| PyTypeError::new_err("not a directory"))
}

static LEFT_OUT: LazyLock<Told> = LazyLock::new(Told::default);

/// Logs, once, what became of a name in a listing.
fn tell(directory: &Bound<'_, PyAny>, name: &str, what: &str) {
    let uuid = directory.call_method0("uuid").and_then(|uuid| uuid.extract::<String>());
    let uuid = uuid.unwrap_or_default();
    if LEFT_OUT.is_new((&uuid, name, what)) {
        let start: String = name.chars().take(60).collect();
        let place = if uuid.is_empty() { String::new() } else { format!(" in {uuid}") };
        log::warn!(target: "arvados.arvados_fuse", "name {start:?}{place} {what}");
    }
}

/// The name of a file that an item is shown as; None for one that is not shown. What is no text (a lone
/// surrogate, a number) can be no name: it is left out, so that the others are shown.
fn file_name(directory: &Bound<'_, PyAny>, dirty: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    if dirty.is_none() {
        return Ok(None);
    }
    if dirty.extract::<String>().is_err() {
        let shown = dirty.repr().and_then(|repr| repr.extract::<String>());
        tell(directory, &shown.unwrap_or_default(), "is not listed: it is no text");
        return Ok(None);
    }
    let name: Option<String> = directory.call_method1("sanitize_filename", (dirty,))?.extract()?;
    Ok(name.filter(|name| !name.is_empty()))
}

/// See `Directory.merge`.
///
/// # Errors
/// What the callables and the inode table raise.
pub fn merge(
    directory: &Bound<'_, PyAny>,
    items: &Bound<'_, PyAny>,
    name_of: &Bound<'_, PyAny>,
    same: &Bound<'_, PyAny>,
    new_entry: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = directory.py();
    let inodes = directory.getattr("inodes")?;
    let cache = inodes.getattr("inode_cache")?;
    let own_inode = directory.getattr("inode")?;
    let mut wanted = Vec::new();
    let mut names = HashSet::new();
    for item in items.try_iter()? {
        let item = item?;
        let Some(name) = file_name(directory, &name_of.call1((&item,))?)? else { continue };
        if names.insert(name.clone()) {
            wanted.push((name, item));
        } else {
            tell(directory, &name, "is what more than one would be called: the first is shown");
        }
    }
    let table = table(directory)?;
    let mut kept = HashSet::new();
    for (name, item) in &wanted {
        let Some(node) = table.get(name) else { continue };
        let object = node.object(py)?.into_bound(py);
        if same.call1((&object, item))?.is_truthy()?
            && object.getattr("parent_inode")?.eq(&own_inode)?
        {
            kept.insert(name.as_str());
            cache.call_method1("touch", (&object,))?;
        }
    }
    let mut gone = table.snapshot();
    gone.retain(|(name, _)| !kept.contains(&**name));
    for (name, _) in &gone {
        table.remove(name);
    }
    let mut changed = !gone.is_empty();
    for (name, item) in &wanted {
        if table.contains(name) {
            continue;
        }
        let entry = new_entry.call1((item,))?;
        if entry.is_none() {
            continue;
        }
        let entry = inodes.call_method1("add_entry", (entry,))?;
        table.insert(name, AnyNode::new(&entry)?);
        // That there is no such name the kernel asks each time: it need not be told.
        changed = true;
    }
    for (name, node) in gone {
        inodes.call_method1("invalidate_entry", (directory, &*name))?;
        inodes.call_method1("del_entry", (node.object(py)?,))?;
    }
    if changed {
        directory.setattr("_mtime", clock::now(py)?)?;
        cache.call_method1("update_cache_size", (directory,))?;
    }
    directory.call_method0("fresh")?;
    Ok(())
}

/// See `Directory.clear`.
///
/// # Errors
/// What the entries and the inode table raise.
pub fn clear(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = directory.py();
    let old = table(directory)?.replace(Vec::new());
    if old.is_empty() {
        return Ok(());
    }
    let inodes = directory.getattr("inodes")?;
    directory.call_method0("invalidate")?;
    for (name, node) in old {
        let object = node.object(py)?;
        object.call_method0(py, "clear")?;
        inodes.call_method1("invalidate_entry", (directory, &*name))?;
        inodes.call_method1("del_entry", (object,))?;
    }
    inodes.getattr("inode_cache")?.call_method1("update_cache_size", (directory,))?;
    Ok(())
}
