// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The dispatch rule for nodes: a method that somebody overrides is called, the rest is native.
//!
//! For every class of nodes a bit set says which names still mean what the core means by them. It
//! is worked out when the first node of the class is made, and again when an attribute of the
//! class, or of a class above it, is assigned later. Methods of the shipped kinds that only add to
//! a native one what happens on a miss are marked with `final_when_fresh`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::py::modules::loaded;

macro_rules! names {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Something that a node is asked and that a subclass may answer differently.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Name { $($name),* }

        impl Name {
            const ALL: &'static [(Name, &'static str)] = &[$((Name::$name, $text)),*];
        }
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

impl Name {
    /// A value that the core keeps, as against a method.
    fn is_value(self) -> bool {
        (Name::Inode as u64..=Name::EntriesTable as u64).contains(&(self as u64))
    }
}

fn bit(name: Name) -> u64 {
    1 << name as u64
}

/// What holds for all nodes of one Python class.
#[derive(Debug, Default)]
pub struct ClassInfo {
    /// Names that are the core's own.
    own: AtomicU64,
    /// Names that a shipped kind defines and that end with the core's own answer on a hit.
    shipped: AtomicU64,
    /// A file of a collection: executable, and it can be truncated.
    collection_file: AtomicBool,
}

impl ClassInfo {
    /// Whether the name means exactly what the core means by it.
    pub fn own(&self, name: Name) -> bool {
        self.own.load(Ordering::Relaxed) & bit(name) != 0
    }

    /// Whether the core may answer for the name where it has the answer.
    pub fn own_or_shipped(&self, name: Name) -> bool {
        (self.own.load(Ordering::Relaxed) | self.shipped.load(Ordering::Relaxed)) & bit(name) != 0
    }

    /// Whether nodes of the class are files of a collection.
    pub fn collection_file(&self) -> bool {
        self.collection_file.load(Ordering::Relaxed)
    }

    fn look(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        let py = class.py();
        let (mut own, mut shipped) = (0, 0);
        let mro: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)> = class
            .getattr("__mro__")?
            .try_iter()?
            .map(|c| c.and_then(|c| Ok((c.getattr("__dict__")?, c))))
            .collect::<PyResult<_>>()?;
        let marked = SHIPPED.lock().iter().map(|f| f.as_ptr() as usize).collect::<Vec<_>>();
        for (name, text) in Name::ALL {
            for (dict, definer) in &mro {
                if dict.contains(text)? {
                    if is_core(definer)? {
                        own |= bit(*name);
                    } else if marked.contains(&(dict.get_item(text)?.as_ptr() as usize)) {
                        shipped |= bit(*name);
                    }
                    break;
                }
            }
        }
        if own & bit(Name::GetAttribute) == 0 {
            // Any name may mean anything to such a class.
            (own, shipped) = (0, 0);
        }
        self.own.store(own, Ordering::Relaxed);
        self.shipped.store(shipped, Ordering::Relaxed);
        self.collection_file.store(is_collection_file(py, class)?, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a class is one of the core's own, or the root of all, which answers no name of ours but
/// `__setattr__` and `__getattribute__`.
fn is_core(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = class.py();
    Ok(class.is(py.get_type::<super::node::Node>())
        || class.is(py.get_type::<super::file::FileNode>())
        || class.is(py.get_type::<super::directory::DirectoryNode>())
        || class.is(py.get_type::<PyAny>()))
}

fn is_collection_file(py: Python<'_>, class: &Bound<'_, PyType>) -> PyResult<bool> {
    match loaded(py, "arvados_fuse.fusefile", "FuseArvadosFile")? {
        Some(file) => class.is_subclass(&file),
        None => Ok(false),
    }
}

type Classes = HashMap<usize, (Py<PyType>, Arc<ClassInfo>)>;

/// How often a class of nodes was changed.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// A number that is another after any class of nodes was changed.
#[must_use]
pub fn epoch() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// Classes met so far, by address; the class is kept, so that no other gets its address.
static CLASSES: Mutex<Option<Classes>> = Mutex::new(None);
/// Functions marked with `final_when_fresh`; kept, so that no other gets their address.
static SHIPPED: Mutex<Vec<Py<PyAny>>> = Mutex::new(Vec::new());

/// What holds for nodes of that class.
///
/// # Errors
/// Where the class cannot be looked into.
pub fn class_info(class: &Bound<'_, PyType>) -> PyResult<Arc<ClassInfo>> {
    let address = class.as_ptr() as usize;
    if let Some((_, info)) = CLASSES.lock().get_or_insert_default().get(&address) {
        return Ok(Arc::clone(info));
    }
    let info = Arc::new(ClassInfo::default());
    info.look(class)?;
    let entry = (class.clone().unbind(), Arc::clone(&info));
    CLASSES.lock().get_or_insert_default().insert(address, entry);
    Ok(info)
}

/// An attribute of a class of nodes was assigned or deleted: look again at the class and at every
/// class below it. Called by the metaclass `arvados_fuse.fresh.NodeType`.
///
/// # Errors
/// Where a class cannot be looked into.
#[pyfunction]
pub fn class_changed(class: &Bound<'_, PyType>) -> PyResult<()> {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    let known = {
        let classes = CLASSES.lock();
        classes.as_ref().and_then(|c| c.get(&(class.as_ptr() as usize)).map(|(_, i)| Arc::clone(i)))
    };
    if let Some(info) = known {
        info.look(class)?;
    }
    for below in class.call_method0("__subclasses__")?.try_iter()? {
        if let Ok(below) = below?.cast_into::<PyType>() {
            class_changed(&below)?;
        }
    }
    Ok(())
}

/// Marks a method of a shipped kind: for a fresh directory, a hit in its own entries table is this
/// method's answer, so that the core may give it without calling the method.
#[pyfunction]
pub fn final_when_fresh(function: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    SHIPPED.lock().push(function.clone().unbind());
    function
}

/// The names that the core answers for nodes of that class without calling Python; for tests and
/// for finding out why a mount is slow.
///
/// # Errors
/// Where the class cannot be looked into.
#[pyfunction]
pub fn answered_natively(class: &Bound<'_, PyType>) -> PyResult<Vec<&'static str>> {
    let info = class_info(class)?;
    Ok(Name::ALL.iter().filter(|(n, _)| info.own_or_shipped(*n)).map(|(_, text)| *text).collect())
}

/// Names overridden on one instance, as bits.
#[derive(Debug, Default)]
pub struct InstanceNames(AtomicU64);

impl InstanceNames {
    /// Whether the instance has an attribute of its own of that name.
    pub fn has(&self, name: Name) -> bool {
        self.0.load(Ordering::Relaxed) & bit(name) != 0
    }

    /// An attribute was assigned or deleted: is it in the instance's own dictionary?
    ///
    /// # Errors
    /// Where the instance cannot be looked into.
    pub fn look(
        &self,
        class: &ClassInfo,
        instance: &Bound<'_, PyAny>,
        attribute: &str,
    ) -> PyResult<()> {
        let Some((name, _)) = Name::ALL.iter().find(|(_, text)| *text == attribute) else {
            return Ok(());
        };
        // What the core keeps itself does not come to the dictionary; asking for that would make one,
        // for every node.
        if name.is_value() && class.own(*name) {
            return Ok(());
        }
        let own = match instance.getattr_opt("__dict__")? {
            Some(dict) => dict.contains(attribute)?,
            None => false,
        };
        if own {
            self.0.fetch_or(bit(*name), Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit(*name), Ordering::Relaxed);
        }
        Ok(())
    }
}
