// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `DirectoryNode`, on which `arvados_fuse.fusedir.Directory` stands.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use pyo3::exceptions::{PyException, PyKeyError, PyNotImplementedError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString, PyTuple, PyType};

use super::any_node::AnyNode;
use super::entries::{Entries, table_from};
use super::kernel;
use super::merge;
use super::node::{Node, NodeCore, no_attribute};
use crate::fs::dentries::Dentries;
use crate::py::clock;

/// References to Python objects that a directory keeps.
#[derive(Default)]
struct References {
    inodes: Option<Py<PyAny>>,
    enable_write: Option<Py<PyAny>>,
    filters: Option<Py<PyAny>>,
}

/// Base of every directory: a table of entries, refreshed when it is stale and somebody looks.
#[pyclass(extends = Node, subclass, frozen, mapping, module = "llfuse._core")]
pub struct DirectoryNode {
    core: Arc<NodeCore>,
    references: Mutex<References>,
}

impl DirectoryNode {
    fn table(&self) -> Arc<Dentries<AnyNode>> {
        self.core.entries().unwrap_or_default()
    }

    fn reference(
        &self,
        py: Python<'_>,
        name: &str,
        pick: impl Fn(&References) -> &Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let references = self.references.lock();
        pick(&references).as_ref().map(|r| r.clone_ref(py)).ok_or_else(|| no_attribute(name))
    }

    /// Makes objects of the entries, where they are none: a collection that was served from its
    /// tree is loaded for Python.
    fn as_objects(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().core.collection().is_some() {
            slf.call_method0("_promote")?;
        }
        Ok(())
    }

    /// Runs `body` on the directory when it is fresh, keeping it in use meanwhile.
    fn when_fresh<T>(slf: &Bound<'_, Self>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        slf.call_method0("inc_use")?;
        let result = slf.call_method0("checkupdate").and_then(|_| body());
        slf.call_method0("dec_use")?;
        result
    }
}

#[pymethods]
impl DirectoryNode {
    #[new]
    #[classmethod]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(parent_inode, inodes, enable_write, filters)"
    )]
    fn new(
        cls: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let core = NodeCore::new(cls, true)?;
        let directory = DirectoryNode { core: Arc::clone(&core), references: Mutex::default() };
        Ok(PyClassInitializer::from(Node { core }).add_subclass(directory))
    }

    /// A directory in directory `parent_inode`, its entries in the table `inodes`. `filters` are
    /// those of the API's list methods, applied by the kinds that list.
    ///
    /// Raises Exception where `parent_inode` is not an int.
    fn __init__(
        slf: &Bound<'_, Self>,
        parent_inode: &Bound<'_, PyAny>,
        inodes: &Bound<'_, PyAny>,
        enable_write: &Bound<'_, PyAny>,
        filters: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !parent_inode.is_instance_of::<PyInt>() {
            return Err(PyException::new_err(format!(
                "parent_inode must be an int, not {}",
                parent_inode.get_type().name()?
            )));
        }
        slf.setattr("parent_inode", parent_inode)?;
        slf.setattr("inodes", inodes)?;
        slf.setattr("_mtime", clock::now(slf.py())?)?;
        slf.setattr("_enable_write", enable_write)?;
        if filters.is_truthy()? {
            slf.setattr("_filters", filters)
        } else {
            slf.setattr("_filters", PyList::empty(slf.py()))
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut result = Ok(());
        if let Some(references) = self.references.try_lock() {
            for reference in [&references.inodes, &references.enable_write, &references.filters]
                .into_iter()
                .flatten()
            {
                visit.call(reference)?;
            }
        }
        if let Some(table) = self.core.table.as_ref().and_then(|t| t.try_read()) {
            table.try_visit(|node| {
                if result.is_ok() {
                    result = node.visit(&visit);
                }
            });
        }
        result
    }

    fn __clear__(&self) {
        let references = std::mem::take(&mut *self.references.lock());
        let entries = self.table().replace(Vec::new());
        drop((references, entries));
    }

    #[getter]
    fn inodes(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.reference(py, "inodes", |r| &r.inodes)
    }
    #[setter]
    fn set_inodes(&self, value: Py<PyAny>) {
        let old = self.references.lock().inodes.replace(value);
        drop(old);
    }
    #[getter]
    fn _enable_write(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.reference(py, "_enable_write", |r| &r.enable_write)
    }
    #[setter(_enable_write)]
    fn set_enable_write(&self, value: Py<PyAny>) {
        let old = self.references.lock().enable_write.replace(value);
        drop(old);
    }
    #[getter]
    fn _filters(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.reference(py, "_filters", |r| &r.filters)
    }
    #[setter(_filters)]
    fn set_filters(&self, value: Py<PyAny>) {
        let old = self.references.lock().filters.replace(value);
        drop(old);
    }
    #[getter]
    fn _entries(slf: &Bound<'_, Self>) -> PyResult<Entries> {
        Self::as_objects(slf)?;
        Ok(Entries { table: slf.get().table() })
    }
    #[setter(_entries)]
    fn set_entries(&self, mapping: &Bound<'_, PyAny>) -> PyResult<()> {
        let new: Dentries<AnyNode> = Dentries::default();
        new.replace(table_from(mapping)?);
        if let Some(table) = &self.core.table {
            let old = std::mem::replace(&mut *table.write(), Arc::new(new));
            drop(old);
        }
        Ok(())
    }
    #[getter]
    fn _listing_complete(&self) -> bool {
        self.core.state.listing_complete.load(Relaxed)
    }
    #[setter(_listing_complete)]
    fn set_listing_complete(&self, value: bool) {
        self.core.state.listing_complete.store(value, Relaxed);
    }

    fn __getitem__(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Self::when_fresh(slf, || {
            Self::as_objects(slf)?;
            let found = item.extract::<String>().ok().and_then(|name| slf.get().table().get(&name));
            match found {
                Some(node) => node.object(slf.py()),
                None => Err(PyKeyError::new_err(item.clone().unbind())),
            }
        })
    }

    fn __contains__(slf: &Bound<'_, Self>, k: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::when_fresh(slf, || {
            let Ok(name) = k.extract::<String>() else { return Ok(false) };
            Ok(match slf.get().core.collection() {
                Some(mounted) => mounted.top(&name).is_some(),
                None => slf.get().table().contains(&name),
            })
        })
    }

    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::when_fresh(slf, || {
            Ok(match slf.get().core.collection() {
                Some(mounted) => mounted.top_listing().len(),
                None => slf.get().table().len(),
            })
        })
    }

    fn __bool__(&self) -> bool {
        true
    }

    /// The listing: pairs of name and entry.
    fn items<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        Self::when_fresh(slf, || Self::_entries(slf)?.items(slf.py()))
    }

    /// The names that are listed at present, without a refresh.
    fn _names(&self) -> Vec<String> {
        match self.core.collection() {
            Some(mounted) => {
                let listing = mounted.top_listing();
                let names = (0..listing.len()).filter_map(|at| listing.get(at));
                names.map(|(name, _)| name.into_owned()).collect()
            }
            None => self.table().names().into_iter().map(String::from).collect(),
        }
    }

    /// Refreshes the contents from their source; this kind has none.
    fn update(&self) {}

    /// Size in bytes: a directory tells none.
    fn size(&self) -> u64 {
        0
    }

    /// Whether the inode cache counts this directory.
    fn persisted(&self) -> bool {
        false
    }

    /// The contents are up to date as of now.
    fn fresh(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.getattr("inodes")?.call_method1("touch", (slf,))?;
        slf.get().core.state.mark_fresh(clock::timestamp(slf.py())?);
        Ok(())
    }

    /// Memory that the entries take, in bytes: an estimate of 1 KiB each.
    fn objsize(&self) -> usize {
        self.table().len() * 1024
    }

    /// Whether the directory, or anything in it, is in use.
    fn in_use(slf: &Bound<'_, Self>) -> PyResult<bool> {
        if slf.getattr("use_count")?.gt(0)? {
            return Ok(true);
        }
        if slf.get().core.collection().is_some_and(|mounted| mounted.in_use()) {
            return Ok(true);
        }
        for (_, node) in slf.get().table().snapshot() {
            if node.object(slf.py())?.bind(slf.py()).call_method0("in_use")?.is_truthy()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the table to what `items` lists: entries that are the same stay, others are made or
    /// deleted, and the kernel is told.
    ///
    /// `fn(item)` is the name of an item, or None to leave it out; `same(entry, item)` tells
    /// whether an entry already stands for it; `new_entry(item)` makes one, or None to leave it out.
    #[pyo3(name = "merge")]
    fn py_merge(
        slf: &Bound<'_, Self>,
        items: &Bound<'_, PyAny>,
        r#fn: &Bound<'_, PyAny>,
        same: &Bound<'_, PyAny>,
        new_entry: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        merge::merge(slf.as_any(), items, r#fn, same, new_entry)
    }

    /// Deletes every entry; they are made again at the next look.
    fn clear(slf: &Bound<'_, Self>) -> PyResult<()> {
        merge::clear(slf.as_any())
    }

    /// Has the kernel give back this directory and what is in it, as far as nothing uses it.
    fn kernel_invalidate(slf: &Bound<'_, Self>) -> PyResult<()> {
        kernel::give_back(slf.as_any())
    }

    /// Has the kernel ask again for what it knows of this directory and of what is refreshed along
    /// with it. Every directory stays where it is for whoever is in it.
    fn _ask_again(slf: &Bound<'_, Self>) -> PyResult<()> {
        kernel::ask_again(slf.as_any())
    }

    /// Files in the directory that are not in its table: pairs of name and entry.
    fn _unlisted(&self) -> Vec<(String, Py<PyAny>)> {
        Vec::new()
    }

    /// `dirty` as a file name: `/` becomes the cluster's substitute, what no file may be called
    /// becomes underscores; None stays None.
    fn sanitize_filename(slf: &Bound<'_, Self>, dirty: Option<&str>) -> PyResult<Option<String>> {
        let Some(dirty) = dirty else { return Ok(None) };
        Ok(Some(match dirty {
            "" | "." => "_".to_owned(),
            ".." => "__".to_owned(),
            _ => {
                let clean = match forward_slash_subst(slf)? {
                    Some(subst) => dirty.replace('/', &subst),
                    None => dirty.to_owned(),
                };
                clean.replace(['/', '\0'], "_")
            }
        }))
    }

    /// A file name as an Arvados name: the cluster's substitute becomes `/` again.
    fn unsanitize_filename(slf: &Bound<'_, Self>, incoming: &str) -> PyResult<String> {
        Ok(match forward_slash_subst(slf)? {
            Some(subst) if !subst.is_empty() => incoming.replace(&subst, "/"),
            _ => incoming.to_owned(),
        })
    }

    /// Those of the directory's filters that concern `subtype`; with `qualified`, under their
    /// qualified names (`collections.name`).
    #[pyo3(signature = (subtype, *, qualified))]
    fn _filters_for<'py>(
        slf: &Bound<'py, Self>,
        subtype: &str,
        qualified: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let list = PyList::empty(slf.py());
        for filter in slf.getattr("_filters")?.try_iter()? {
            let filter = filter?;
            let attribute: String = filter.get_item(0)?.extract()?;
            match attribute.split_once('.') {
                Some((kind, name)) if !name.is_empty() => {
                    if kind != subtype {
                        continue;
                    }
                    if qualified {
                        list.append(filter)?;
                    } else {
                        let bare = PyList::new(slf.py(), [name])?;
                        for rest in filter.try_iter()?.skip(1) {
                            bare.append(rest?)?;
                        }
                        list.append(bare)?;
                    }
                }
                _ => list.append(filter)?,
            }
        }
        Ok(list.try_iter()?.into_any())
    }

    /// Last change, in seconds since the epoch.
    fn mtime<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.getattr("_mtime")
    }

    /// Whether something can be changed in it.
    fn writable(&self) -> bool {
        false
    }

    /// Saves what was changed.
    fn flush(&self) {}

    /// Whether changes to what it shows are told by events.
    fn want_event_subscribe(&self) -> PyResult<bool> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Makes an empty file.
    #[allow(unused_variables)]
    fn create(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Makes a directory.
    #[allow(unused_variables)]
    fn mkdir(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Removes a file.
    #[allow(unused_variables)]
    fn unlink(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Removes a directory.
    #[allow(unused_variables)]
    fn rmdir(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Moves `name_old` of directory `src` to `name_new` in this one.
    #[allow(unused_variables)]
    fn rename(
        &self,
        name_old: &Bound<'_, PyAny>,
        name_new: &Bound<'_, PyAny>,
        src: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }
}

fn forward_slash_subst(slf: &Bound<'_, DirectoryNode>) -> PyResult<Option<String>> {
    let subst = slf.getattr("inodes")?.call_method0("forward_slash_subst")?;
    if subst.is_instance_of::<PyString>() { subst.extract().map(Some) } else { Ok(None) }
}
