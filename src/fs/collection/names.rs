// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that change places, and files with several names, in a mounted collection.
//!
//! As in [`super::writing`], None says that nothing was done here.

use std::sync::Arc;

use super::draft::TOP;
use super::draft::names::Dentry;
use super::{CollectionNode, Host, MountedCollection};
use crate::fs::any_node::AnyNode;
use crate::fs::errno::Refusal;
use crate::fs::flags::RenameMode;
use crate::fs::node::Outcome;

impl<H: Host> MountedCollection<H> {
    /// Moves a name within the collection, or has it change places with another.
    ///
    /// # Errors
    /// `EEXIST` where another name is there that is not to be replaced; as
    /// [`MountedCollection::rename`], `EINVAL` also for a directory that would be in itself by an exchange.
    pub fn rename_as(
        &self,
        from: Dentry<'_>,
        to: Dentry<'_>,
        mode: RenameMode,
    ) -> Outcome<Option<()>> {
        if mode != RenameMode::Exchange {
            return self.rename(from, to, mode == RenameMode::Replace);
        }
        let now = self.host.now()?;
        let exchanged = self.change(|state| {
            self.may_name(from.0, from.1)?;
            self.may_name(to.0, to.1)?;
            state.exchange(from, to, now)
        })?;
        Ok(self.renamed(exchanged, &[from.0, to.0], now))
    }

    /// Has a name lead to a file of the collection that has one already.
    ///
    /// # Errors
    /// `EEXIST`; `ENOENT` for a file, or in a directory, that was removed; `EPERM` for a directory.
    pub fn link(&self, ino: u64, to: Dentry<'_>) -> Outcome<Option<()>> {
        let now = self.host.now()?;
        let linked = self.change(|state| {
            self.may_name(to.0, to.1)?;
            state.link(ino, to, now).map(|()| true)
        })?;
        Ok(self.renamed(linked, &[to.0], now))
    }

    /// As [`MountedCollection::link`], for an entry of any kind.
    ///
    /// # Errors
    /// `EXDEV` for a file of another collection; `EPERM` where no file can have several names.
    pub fn link_node(self: &Arc<Self>, node: &AnyNode<H>, to: Dentry<'_>) -> Outcome<()> {
        let AnyNode::Collection(file) = node else {
            return Err(Refusal::NotPermitted.into());
        };
        if !Arc::ptr_eq(file.collection(), self) {
            return Err(Refusal::CrossCollection.into());
        }
        self.link(file.ino(), to)?.ok_or_else(|| Refusal::NotPermitted.into())
    }

    /// The further names of files that have several, each with the inode number of its directory.
    #[must_use]
    pub fn further_names(&self) -> Vec<(u64, String)> {
        let top = self.root().inode().unwrap_or_default();
        let state = self.state.read();
        let names = state.further_names();
        names.map(|(dir, name)| (if dir == TOP { top } else { dir }, name.to_owned())).collect()
    }

    /// The inode number of the entry of that name, for what takes its place: of a file that has several
    /// names, only the first leads to it.
    #[must_use]
    pub fn number_to_keep(&self, dir: u64, name: &str) -> Option<u64> {
        let dir = self.key_of(dir);
        let state = self.state.read();
        let ino = state.find(dir, name)?;
        (!state.is_further(ino, (dir, name))).then_some(ino)
    }
}

impl<H: Host> CollectionNode<H> {
    pub(super) fn link_here(&self, name: &str, node: &AnyNode<H>) -> Outcome<()> {
        match self.writing()? {
            Some(collection) => collection.link_node(node, (self.ino(), name)),
            None => Err(Refusal::NotPermitted.into()),
        }
    }
}
