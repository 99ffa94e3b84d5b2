// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The dispatch rule for nodes: a method that somebody overrides is called, the rest is native.
//!
//! Which names still mean what the core means by them [`crate::py::overrides`] finds out. Methods of the
//! shipped kinds that only add to a native one what happens on a miss are marked with `final_when_fresh`.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::py::modules::loaded;
use crate::py::overrides::{self, ClassNames, Kind};

macro_rules! names {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Something that a node is asked and that a subclass may answer differently.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Name { $($name),* }

        const NAMES: &[(Name, &str)] = &[$((Name::$name, $text)),*];

        static KIND: Kind = Kind::new(&[$($text),*])
            .gated_by(Name::GetAttribute as usize)
            .marked_by(is_collection_file);
    };
}

names!(
    Stale = "stale",
    Fresh = "fresh",
    Checkupdate = "checkupdate",
    Update = "update",
    TimeToNextPoll = "time_to_next_poll",
    Atime = "atime",
    Mtime = "mtime",
    Size = "size",
    Writable = "writable",
    IncUse = "inc_use",
    DecUse = "dec_use",
    InUse = "in_use",
    IncRef = "inc_ref",
    DecRef = "dec_ref",
    HasRef = "has_ref",
    Uuid = "uuid",
    Persisted = "persisted",
    Objsize = "objsize",
    KernelInvalidate = "kernel_invalidate",
    Finalize = "finalize",
    Clear = "clear",
    Invalidate = "invalidate",
    Flush = "flush",
    Create = "create",
    Mkdir = "mkdir",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Rename = "rename",
    GetItem = "__getitem__",
    Contains = "__contains__",
    Items = "items",
    Inode = "inode",
    ParentInode = "parent_inode",
    PollTime = "_poll_time",
    Poll = "_poll",
    StaleFlag = "_stale",
    LastUpdate = "_last_update",
    AtimeValue = "_atime",
    MtimeValue = "_mtime",
    AllowAttrCache = "allow_attr_cache",
    AllowDirentCache = "allow_dirent_cache",
    UseCount = "use_count",
    RefCount = "ref_count",
    CacheSize = "cache_size",
    CacheUuid = "cache_uuid",
    EntriesTable = "_entries",
    SetAttr = "__setattr__",
    GetAttribute = "__getattribute__",
);

impl overrides::Name for Name {
    fn kind() -> &'static Kind {
        &KIND
    }
    fn place(self) -> usize {
        self as usize
    }
}

impl Name {
    /// The name that is spelt so, if it is one of these.
    #[must_use]
    pub fn spelt(text: &str) -> Option<Name> {
        NAMES.iter().find(|(_, own)| *own == text).map(|(name, _)| *name)
    }

    /// A value that the core keeps, as against a method.
    #[must_use]
    pub fn is_value(self) -> bool {
        (Name::Inode as u64..=Name::EntriesTable as u64).contains(&(self as u64))
    }
}

/// Says which class every node stands on, and which classes define what the core means. The root of
/// all classes answers no name but `__setattr__` and `__getattribute__`.
pub fn ship(py: Python<'_>, node: Py<PyType>, others: impl IntoIterator<Item = Py<PyType>>) {
    KIND.ship_classes([node.clone_ref(py), py.get_type::<PyAny>().unbind()]);
    KIND.ship_classes(others);
    let _ = NODE.set(py, node);
}

static NODE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// What holds for nodes of that class.
///
/// # Errors
/// Where the class cannot be looked into.
pub fn class_names(class: &Bound<'_, PyType>) -> PyResult<&'static ClassNames> {
    KIND.of_class(class)
}

fn is_collection_file(class: &Bound<'_, PyType>) -> PyResult<bool> {
    match loaded(class.py(), "arvados_fuse.fusefile", "FuseArvadosFile")? {
        Some(file) => class.is_subclass(&file),
        None => Ok(false),
    }
}

/// How often a class of nodes was changed.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// A number that is another after any class of nodes was changed.
#[must_use]
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// An attribute of a class was assigned or deleted: looks again at the class and at every class below
/// it. Called by the metaclass `arvados_fuse.override_watch.WatchedType`.
///
/// # Errors
/// Where a class cannot be looked into.
#[pyfunction]
pub fn class_changed(class: &Bound<'_, PyType>) -> PyResult<()> {
    overrides::class_changed(class, &mut |class| {
        if NODE
            .get(class.py())
            .is_some_and(|node| class.is_subclass(node.bind(class.py())).unwrap_or(true))
        {
            EPOCH.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// Marks a method of a shipped kind: for a fresh directory, a hit in its own entries table is this
/// method's answer, so that the core may give it without calling the method.
#[pyfunction]
pub fn final_when_fresh(function: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    KIND.ship_function(function.clone().unbind());
    function
}

/// Marks a method of a shipped kind: where the core serves the directory's collection and changes it
/// itself, it does what the method does, without calling it.
#[pyfunction]
pub fn done_natively(function: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    KIND.ship_function(function.clone().unbind());
    function
}

/// The names that the core answers for nodes of that class without calling Python; for tests and
/// for finding out why a mount is slow.
///
/// # Errors
/// Where the class cannot be looked into.
#[pyfunction]
pub fn answered_natively(class: &Bound<'_, PyType>) -> PyResult<Vec<&'static str>> {
    Ok(class_names(class)?.names())
}
