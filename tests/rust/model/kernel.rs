// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a kernel believes without asking again: names, sizes and pages. It has to be told when that
//! is no longer so.

use std::collections::HashMap;

use arvados_fuse::fs::Attr;

use super::blocks::Content;
use super::reference::Reference;
use super::world::Notice;

#[derive(Default)]
pub(crate) struct Kernel {
    names: HashMap<(u64, String), u64>,
    /// Size and time of change.
    attrs: HashMap<u64, (u64, i128)>,
    pages: HashMap<u64, Content>,
}

impl Kernel {
    pub(crate) fn remember(&mut self, parent: u64, name: &str, attr: &Attr) {
        if !attr.entry_timeout.is_zero() {
            self.names.insert((parent, name.to_owned()), attr.ino.0);
        }
    }

    pub(crate) fn remember_attr(&mut self, attr: &Attr) {
        if !attr.attr_timeout.is_zero() {
            self.attrs.insert(attr.ino.0, (attr.size, attr.mtime.0));
        }
    }

    pub(crate) fn remember_pages(&mut self, ino: u64, content: &Content) {
        self.pages.insert(ino, content.clone());
    }

    /// It dropped the inode, and everything that hung on it.
    pub(crate) fn forget(&mut self, ino: u64) {
        self.names.retain(|(parent, _), child| *parent != ino && *child != ino);
        self.attrs.remove(&ino);
        self.pages.remove(&ino);
    }

    pub(crate) fn told(&mut self, notice: &Notice) {
        match notice {
            Notice::Inode(ino) => {
                self.attrs.remove(ino);
                self.pages.remove(ino);
            }
            Notice::Name(parent, name) => {
                self.names.remove(&(*parent, name.clone()));
            }
        }
    }

    /// Whether what it believes is so.
    ///
    /// # Errors
    /// What it should have been told.
    pub(crate) fn check(&self, reference: &Reference) -> Result<(), String> {
        let known = |ino| {
            let id = reference.of_ino(ino)?;
            (reference.objects[id].refs > 0).then_some(id)
        };
        for ((parent, name), child) in &self.names {
            let Some(dir) = known(*parent) else { continue };
            let is = reference.child(dir, name).and_then(|id| reference.objects[id].ino);
            if is != Some(*child) {
                return Err(format!(
                    "the kernel believes that {name} in {parent} is {child}; it is {is:?}"
                ));
            }
        }
        for (ino, believed) in &self.attrs {
            let Some(id) = known(*ino) else { continue };
            let object = &reference.objects[id];
            let is = (object.content.as_ref().map_or(0, Content::size), object.mtime);
            if is != *believed {
                return Err(format!("the kernel believes {believed:?} of {ino}; it is {is:?}"));
            }
        }
        for (ino, believed) in &self.pages {
            let Some(id) = known(*ino) else { continue };
            if reference.objects[id].content.as_ref() != Some(believed) {
                return Err(format!("the kernel has pages of {ino} that are out of date"));
            }
        }
        Ok(())
    }
}
