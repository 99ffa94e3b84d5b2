// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What is in a file or directory that is a Python object.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes};

use super::ObjectNode;
use crate::fs::collection::draft::TOP;
use crate::fs::flags::{Position, RenameMode};
use crate::fs::node::{
    DirectoryNode, FileNode, Listing, Outcome, Reader, Saving, ToSave, Truncated, Written,
};
use crate::fs::{Bytes, ReadData, Refusal};
use crate::py::llfuse::lock;
use crate::py::nodes::any_node::AnyNode;
use crate::py::nodes::collection_host::PythonCollection;
use crate::py::nodes::overrides::Name;

struct FromPython(PyBackedBytes);

impl Bytes for FromPython {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn bytes_of(data: Bound<'_, PyAny>) -> PyResult<ReadData> {
    let bytes = if data.is_instance_of::<PyBytes>() || data.is_instance_of::<PyByteArray>() {
        data.extract::<PyBackedBytes>()?
    } else if let Ok(text) = data.extract::<String>() {
        PyBytes::new(data.py(), text.as_bytes()).extract()?
    } else {
        data.py().get_type::<PyBytes>().call1((data,))?.extract()?
    };
    Ok(ReadData::Shared(Box::new(FromPython(bytes))))
}

impl ObjectNode {
    /// None where Python has to be asked.
    #[allow(clippy::option_option, reason = "not known here is another answer than not there")]
    fn child_here(&self, name: &str) -> Option<Option<AnyNode>> {
        if let Some(core) = self.answering(&[Name::GetItem, Name::Contains]) {
            let mounted = core.collection();
            let found = match &mounted {
                Some(mounted) => mounted.top(name).map(AnyNode::Collection),
                None => core.entries().and_then(|table| table.get(name)),
            };
            // What a mounted collection lacks is not there, but for the names that are not its own.
            let final_miss = core.own(Name::GetItem) && core.own(Name::Contains)
                || mounted.is_some_and(|mounted| !mounted.is_reserved(name));
            // Contents that are dropped are marked stale before: that is no miss.
            let still = || self.answering(&[Name::GetItem, Name::Contains]).is_some();
            if found.is_some() || final_miss && still() {
                return Some(found);
            }
        }
        None
    }
    fn items_here(&self) -> Option<Box<dyn Listing<AnyNode>>> {
        let core = self.answering(&[Name::Items])?;
        if !core.state.listing_complete.load(Relaxed) {
            return None;
        }
        let listing: Box<dyn Listing<AnyNode>> = match core.collection() {
            Some(mounted) => mounted.top_listing(),
            None => Box::new(core.entries()?.snapshot()),
        };
        // Contents that are dropped are marked stale before: what was listed may be what was left.
        self.answering(&[Name::Items])?;
        Some(listing)
    }
}

impl ObjectNode {
    /// The collection that the directory shows, where changes to it are made without Python: its methods
    /// of these names are the shipped ones.
    pub(super) fn writing(&self, names: &[Name]) -> Outcome<Option<Arc<PythonCollection>>> {
        let Some(core) = self.0.core.as_ref().filter(|_| self.is_shipped(names)) else {
            return Ok(None);
        };
        let Some(mounted) = core.collection().filter(|mounted| mounted.is_written_here()) else {
            return Ok(None);
        };
        // Somebody may want to see it in Python from now on.
        Ok(mounted.may_change_here()?.then_some(mounted))
    }

    /// What is to be saved before a change of the collection is told as made.
    fn changed(&self, mounted: &Arc<PythonCollection>) -> Outcome<ToSave> {
        match mounted.saving(false) {
            Some(saving) => Ok(Some(saving)),
            None => self.saved(mounted).map(|()| None),
        }
    }

    /// Saves what names in it lead to.
    fn saved(&self, mounted: &Arc<PythonCollection>) -> Outcome<()> {
        if mounted.saved()? { Ok(()) } else { self.flush() }
    }
}

impl FileNode<AnyNode> for ObjectNode {
    fn reader(&self) -> Outcome<Option<Box<dyn Reader>>> {
        Ok(None)
    }
    fn readfrom(&self, offset: u64, size: u32, num_retries: u32) -> Outcome<ReadData> {
        self.call(|o| bytes_of(o.call_method1("readfrom", (offset, size, num_retries))?))
    }
    fn writeto(&self, at: Position, data: &[u8], num_retries: u32) -> Outcome<Written> {
        self.call(|o| {
            let data = PyBytes::new(o.py(), data);
            let written = o.call_method1("writeto", (at.offset(), data, num_retries))?;
            Ok(Written::Bytes(if written.is_none() { 0 } else { written.extract()? }))
        })
    }
    fn truncate(&self, size: u64) -> Outcome<Truncated> {
        self.call(|o| {
            let file = o.getattr("arvfile")?.unbind();
            lock::released(o.py(), || {
                Python::attach(|py| {
                    file.call_method1(py, "truncate", (size,))?;
                    let size = file.call_method0(py, "size")?.extract(py)?;
                    Ok(Truncated { size, mtime: None })
                })
            })?
        })
    }
    fn flush(&self) -> Outcome<()> {
        if self.own(&[Name::Flush]).is_some() {
            return Ok(());
        }
        if let Some(mounted) = self.writing(&[Name::Flush])?
            && mounted.saved()?
        {
            return Ok(());
        }
        self.call(|o| o.call_method0("flush").map(drop))
    }
    fn sync(&self) -> Outcome<()> {
        if let Some(mounted) = self.writing(&[Name::Flush])?
            && mounted.save()?
        {
            return Ok(());
        }
        self.flush()
    }
    fn saving(&self, forced: bool) -> Outcome<Option<Arc<dyn Saving>>> {
        let mounted = self.writing(&[Name::Flush])?;
        Ok(mounted.and_then(|mounted| mounted.saving(forced)))
    }
}

impl DirectoryNode<AnyNode> for ObjectNode {
    fn child(&self, name: &str) -> Outcome<Option<AnyNode>> {
        if let Some(answer) = self.child_here(name) {
            return Ok(answer);
        }
        self.call(|o| {
            if self.is_shipped(&[Name::GetItem, Name::Contains]) {
                o.call_method0("checkupdate")?;
                if let Some(answer) = self.child_here(name) {
                    return Ok(answer);
                }
            }
            if !o.contains(name)? {
                return Ok(None);
            }
            match o.get_item(name) {
                Ok(node) => AnyNode::new(&node).map(Some),
                Err(error) if error.is_instance_of::<PyKeyError>(o.py()) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
    fn items(&self) -> Outcome<Box<dyn Listing<AnyNode>>> {
        if let Some(listing) = self.items_here() {
            return Ok(listing);
        }
        self.call(|o| {
            if self.is_shipped(&[Name::Items]) {
                o.call_method0("checkupdate")?;
                if let Some(listing) = self.items_here() {
                    return Ok(listing);
                }
            }
            let mut items: Vec<(Box<str>, AnyNode)> = Vec::new();
            for pair in o.call_method0("items")?.try_iter()? {
                let (name, node): (String, Bound<'_, PyAny>) = pair?.extract()?;
                items.push((name.into(), AnyNode::new(&node)?));
            }
            Ok(Box::new(items) as Box<dyn Listing<AnyNode>>)
        })
    }
    fn create(&self, name: &str) -> Outcome<()> {
        if let Some(mounted) = self.writing(&[Name::Create])?
            && let Some(()) = mounted.create(TOP, name)?
        {
            return Ok(());
        }
        self.call(|o| o.call_method1("create", (name,)).map(drop))
    }
    fn mkdir(&self, name: &str) -> Outcome<()> {
        if let Some(mounted) = self.writing(&[Name::Mkdir])?
            && let Some(()) = mounted.mkdir(TOP, name)?
        {
            return Ok(());
        }
        self.call(|o| o.call_method1("mkdir", (name,)).map(drop))
    }
    fn unlink(&self, name: &str) -> Outcome<ToSave> {
        if let Some(mounted) = self.writing(&[Name::Unlink])?
            && let Some(()) = mounted.remove(TOP, name, false)?
        {
            return self.changed(&mounted);
        }
        self.call(|o| o.call_method1("unlink", (name,)).map(|_| None))
    }
    fn rmdir(&self, name: &str) -> Outcome<ToSave> {
        if let Some(mounted) = self.writing(&[Name::Rmdir])?
            && let Some(()) = mounted.remove(TOP, name, true)?
        {
            return self.changed(&mounted);
        }
        self.call(|o| o.call_method1("rmdir", (name,)).map(|_| None))
    }
    fn rename(&self, old: &str, new: &str, source: &AnyNode, mode: RenameMode) -> Outcome<ToSave> {
        if let Some(mounted) = self.writing(&[Name::Rename])?
            && let Some(()) = mounted.rename_from(source, old, (TOP, new), mode)?
        {
            return self.changed(&mounted);
        }
        match mode {
            // Python's own method replaces what is there.
            RenameMode::Exchange => return Err(Refusal::NoExchange.into()),
            // From here on in one hold of the lock. The kernel has both directories locked, besides.
            RenameMode::NoReplace => {
                self.call(|_| Ok(()))?;
                if self.child(new)?.is_some() {
                    return Err(Refusal::Exists.into());
                }
            }
            RenameMode::Replace => {}
        }
        self.call(|o| o.call_method1("rename", (old, new, source.object(o.py())?)).map(|_| None))
    }
    fn link(&self, name: &str, node: &AnyNode) -> Outcome<()> {
        match self.writing(&[Name::Create])? {
            Some(mounted) => {
                mounted.link_node(node, (TOP, name))?;
                self.saved(&mounted)
            }
            None => Err(Refusal::NotPermitted.into()),
        }
    }
}
