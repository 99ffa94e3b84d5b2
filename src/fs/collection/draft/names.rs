// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that change places, and files with several names.
//!
//! A manifest has no hard links. While a file is in the draft it may have several names, under one
//! inode number; to whoever saves it or takes it over it is a file of each name, with the same contents.

use std::sync::atomic::Ordering;

use super::{Content, DraftNode, State, View};
use crate::fs::attr::Timestamp;
use crate::fs::errno::Refusal;

/// A directory, and a name in it.
pub(in crate::fs::collection) type Dentry<'n> = (u64, &'n str);

impl DraftNode {
    fn is_first(&self, (dir, name): Dentry<'_>) -> bool {
        self.parent == Some(dir) && *self.name == *name
    }

    fn other(&self, (dir, name): Dentry<'_>) -> Option<usize> {
        self.others.iter().position(|(parent, other)| *parent == dir && **other == *name)
    }

    /// One of its names leads to it from elsewhere.
    pub(super) fn moved(&mut self, from: Dentry<'_>, (dir, name): Dentry<'_>) {
        if self.is_first(from) {
            (self.parent, self.name) = (Some(dir), name.into());
        } else if let Some(at) = self.other(from) {
            self.others[at] = (dir, name.into());
        }
    }

    /// Takes one of several names from it; answers false where it has no other.
    pub(super) fn unnamed(&mut self, dentry: Dentry<'_>) -> bool {
        if self.others.is_empty() {
            return false;
        }
        if self.is_first(dentry) {
            let (dir, name) = self.others.remove(0);
            (self.parent, self.name) = (Some(dir), name);
        } else if let Some(at) = self.other(dentry) {
            self.others.remove(at);
        }
        self.count_names();
        true
    }

    /// Says how many names there are, where stat(2) looks.
    pub(super) fn count_names(&self) {
        if let Content::File(file) = &self.content {
            let names = usize::from(self.parent.is_some()) + self.others.len();
            file.nlink.store(u32::try_from(names).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }
}

impl State {
    /// Has a name lead to a file that has one already.
    pub(in crate::fs::collection) fn link(
        &mut self,
        ino: u64,
        (dir, name): Dentry<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.must_be_there(dir)?;
        if self.find(dir, name).is_some() {
            return Err(Refusal::Exists);
        }
        if self.dir_of(ino).is_none() {
            return Err(Refusal::NotFound);
        }
        if self.is_dir(ino) != Some(false) {
            return Err(Refusal::NotPermitted);
        }
        self.take_up(ino).ok_or(Refusal::NotFound)?;
        self.lead(dir, name, Some(ino), now)?;
        if let Some(node) = self.draft.nodes.get_mut(&ino) {
            node.others.push((dir, name.into()));
            node.count_names();
        }
        Ok(())
    }

    /// A name does not lead to a node any more; answers whether that was its last.
    pub(in crate::fs::collection) fn unname(&mut self, ino: u64, dentry: Dentry<'_>) -> bool {
        !self.draft.nodes.get_mut(&ino).is_some_and(|node| node.unnamed(dentry))
    }

    /// Two names change places; answers whether they led to different nodes.
    pub(in crate::fs::collection) fn exchange(
        &mut self,
        one: Dentry<'_>,
        other: Dentry<'_>,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let here = self.find(one.0, one.1).ok_or(Refusal::NotFound)?;
        let there = self.find(other.0, other.1).ok_or(Refusal::NotFound)?;
        if here == there {
            return Ok(false);
        }
        if self.is_within(other.0, here) || self.is_within(one.0, there) {
            return Err(Refusal::IntoItself);
        }
        self.take_up(here).ok_or(Refusal::NotFound)?;
        self.take_up(there).ok_or(Refusal::NotFound)?;
        self.lead(one.0, one.1, Some(there), now)?;
        self.lead(other.0, other.1, Some(here), now)?;
        for (ino, from, to) in [(here, one, other), (there, other, one)] {
            if let Some(node) = self.draft.nodes.get_mut(&ino) {
                node.moved(from, to);
            }
        }
        Ok(true)
    }

    /// Whether a name that leads to a file is not its first.
    pub(in crate::fs::collection) fn is_further(&self, ino: u64, dentry: Dentry<'_>) -> bool {
        self.view().is_further(ino, dentry)
    }

    /// The further names of files, all of them.
    pub(in crate::fs::collection) fn further_names(&self) -> impl Iterator<Item = Dentry<'_>> {
        let nodes = self.draft.nodes.values();
        nodes.flat_map(|node| node.others.iter().map(|(dir, name)| (*dir, &**name)))
    }
}

impl View<'_> {
    /// Whether a name that leads to a file is not its first.
    pub(in crate::fs::collection) fn is_further(&self, ino: u64, dentry: Dentry<'_>) -> bool {
        self.draft.nodes.get(&ino).is_some_and(|node| node.other(dentry).is_some())
    }
}
