// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the kernel knows of a directory: having it given back, and having it asked for again.
//!
//! A directory whose inode stays keeps its name in the kernel: dropping that would take it away from
//! whoever is in it, and whatever is mounted on it.

use std::collections::HashSet;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::any_node::AnyNode;
use super::node::core_of;
use super::table::table_of;
use crate::fs::Ino;
use crate::fs::collection::Known;
use crate::fs::node::{Counted, Identity};
use crate::py::llfuse::notify;
use crate::py::request::for_python;

/// Lists what the kernel knows below `directory`, what is in a directory before the directory;
/// with `all`, also what is in directories that are refreshed by themselves.
fn known_below(directory: &Bound<'_, PyAny>, all: bool, known: &mut Vec<Known>) -> PyResult<()> {
    let py = directory.py();
    let core = core_of(directory).ok_or_else(|| PyTypeError::new_err("not a directory"))?;
    let Some(parent) = core.state.inode() else { return Ok(()) };
    if let Some(mounted) = core.collection() {
        known.extend(mounted.known());
    }
    let mut entries: Vec<(Box<str>, AnyNode)> = match core.entries() {
        Some(table) => table.snapshot(),
        None => Vec::new(),
    };
    for pair in directory.call_method0("_unlisted")?.try_iter()? {
        let (name, entry): (String, Bound<'_, PyAny>) = pair?.extract()?;
        entries.push((name.into(), AnyNode::new(&entry)?));
    }
    for (name, node) in entries {
        if !node.referenced_now() {
            continue;
        }
        let Some(ino) = for_python(py, || node.inode())? else { continue };
        let dir = node.is_dir();
        if dir
            && let AnyNode::Host(object) = &node
            && let Some(core) = object.core()
            && (all || core.never_refreshed())
        {
            known_below(object.object(py).bind(py), all, known)?;
        }
        known.push(Known { ino, parent, name: name.into(), dir });
    }
    Ok(())
}

/// The directory that `directory` is in, by its number, and the name that it has there.
fn place(directory: &Bound<'_, PyAny>) -> PyResult<Option<(Ino, String)>> {
    let Some(parent_inode) = directory.getattr_opt("parent_inode")? else {
        return Ok(None);
    };
    let inodes = directory.getattr("inodes")?;
    if parent_inode.is_none() || !inodes.contains(&parent_inode)? {
        return Ok(None);
    }
    let parent = inodes.get_item(&parent_inode)?;
    // Not through the parent's own methods: they might refresh it.
    let name = if let Some(table) = core_of(&parent).and_then(|core| core.entries()) {
        table.name_of(|node| node.is(directory)).map(String::from)
    } else {
        let mut found = None;
        for pair in parent.getattr("_entries")?.call_method0("items")?.try_iter()? {
            let (name, node): (String, Bound<'_, PyAny>) = pair?.extract()?;
            if node.is(directory) {
                found = Some(name);
                break;
            }
        }
        found
    };
    name.map(|name| Ok((Ino(parent_inode.extract()?), name))).transpose()
}

fn encode(directory: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u8>> {
    directory.getattr("inodes")?.call_method1("_encode", (name,))?.extract()
}

/// See `Directory.kernel_invalidate`.
///
/// # Errors
/// What the inode table raises.
pub fn give_back(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(core) = core_of(directory) else { return Ok(()) };
    let Some(ino) = core.state.inode().filter(|_| core.state.has_ref()) else { return Ok(()) };
    let mut known = Vec::new();
    known_below(directory, true, &mut known)?;
    if let Some(table) = table_of(directory)? {
        let mut directories: HashSet<u64> =
            known.iter().filter(|known| known.dir).map(|known| known.ino).collect();
        directories.insert(ino);
        let there: HashSet<(u64, &str)> =
            known.iter().map(|known| (known.parent, &*known.name)).collect();
        for (parent, name) in table.absent.take(&directories) {
            // Made since then, it may have somebody in it.
            if !there.contains(&(parent, &*name)) {
                notify::invalidate_entry(Ino(parent), &encode(directory, &name)?);
            }
        }
    }
    let mut inos: Vec<Ino> = known.iter().map(|known| Ino(known.ino)).collect();
    inos.push(Ino(ino));
    let otherwise = match place(directory)? {
        Some((parent, name)) => Some((parent, encode(directory, &name)?)),
        None => None,
    };
    notify::prune(inos, otherwise);
    Ok(())
}

/// See `Directory._ask_again`.
///
/// # Errors
/// What the inode table raises.
pub fn ask_again(directory: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some((parent, name)) = place(directory)? {
        notify::expire_entry(parent, &encode(directory, &name)?, false);
    }
    let mut known = Vec::new();
    known_below(directory, false, &mut known)?;
    // From above, as a path is walked.
    for known in known.into_iter().rev() {
        notify::expire_entry(Ino(known.parent), &encode(directory, &known.name)?, !known.dir);
        notify::invalidate_inode(Ino(known.ino), true);
    }
    Ok(())
}
