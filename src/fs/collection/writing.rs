// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Changing a mounted collection: names, and the contents of files.
//!
//! Everything here answers None, and has done nothing, where the layer above is to make the change:
//! because the collection is not written here, or because it was or is about to be superseded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::draft::{DraftFile, TOP};
use super::upload::Begun;
use super::{CollectionNode, Host, MountedCollection, State};
use crate::collection::draft::{Contents, MAX_LEN};
use crate::fs::any_node::AnyNode;
use crate::fs::attr::{Ino, Timestamp};
use crate::fs::errno::Refusal;
use crate::fs::flags::Position;
use crate::fs::node::{Outcome, Truncated, Written};
use crate::fs::write_buffer::Unsaved;

/// How many inode numbers are reserved together.
const NUMBERS: u64 = 256;

impl<H: Host> MountedCollection<H> {
    /// Whether files and names are changed here, and not in the layer above.
    #[must_use]
    pub fn is_written_here(&self) -> bool {
        self.settings.stored.is_some() && self.settings.writable && !self.is_superseded()
    }

    /// Whether some of its numbers are other collections' now.
    pub(super) fn has_given_away(&self) -> bool {
        self.gave_away.load(Ordering::Acquire)
    }

    /// As [`MountedCollection::is_written_here`], after a look at whether the layer above wants to be asked;
    /// nor does it want to where it reads blocks itself.
    ///
    /// # Errors
    /// What the layer above raises.
    pub fn may_change_here(&self) -> Outcome<bool> {
        self.host.look()?;
        Ok(self.is_written_here() && self.host.keep().is_some())
    }

    /// Whether the layer above makes changes, or is about to.
    pub(super) fn is_handed_over(&self, state: &State) -> bool {
        state.draft.frozen || !self.is_written_here()
    }

    /// By which number the draft knows a directory, whose inode number this is.
    #[must_use]
    pub fn key_of(&self, dir: u64) -> u64 {
        if self.root().inode() == Some(dir) { TOP } else { dir }
    }

    /// By which number the draft knows a directory, if it is one of this collection.
    #[must_use]
    pub fn directory(self: &Arc<Self>, node: &AnyNode<H>) -> Option<u64> {
        match node {
            AnyNode::Host(node) => {
                let shown = H::shown_by(node)?;
                Arc::ptr_eq(&shown, self).then_some(TOP)
            }
            AnyNode::Collection(node) => Arc::ptr_eq(node.collection(), self).then(|| node.ino()),
        }
    }

    /// The entry of that name in a directory, draft and all.
    #[must_use]
    pub fn child_of(self: &Arc<Self>, dir: u64, name: &str) -> Option<CollectionNode<H>> {
        let state = self.state.read();
        let ino = state.find(dir, name)?;
        let dir = state.is_dir(ino)?;
        drop(state);
        Some(CollectionNode::new(Arc::clone(self), ino, dir))
    }

    /// An inode number for what is made here.
    pub(super) fn new_number(self: &Arc<Self>) -> Outcome<u64> {
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.next() {
            return Ok(number);
        }
        let table = self.host.table().ok_or(Refusal::Lost)?;
        let first = table.reserve(NUMBERS);
        self.add_numbers(first, NUMBERS, &table);
        *numbers = first + 1..first + NUMBERS;
        Ok(first)
    }

    /// How often something was changed here: another number than before tells that something was.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The state, to be changed; None where that is not to be done here.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, Refusal>,
    ) -> Outcome<Option<T>> {
        if !self.is_written_here() {
            return Ok(None);
        }
        let mut state = self.state.write();
        if self.is_handed_over(&state) {
            return Ok(None);
        }
        let changed = change(&mut state).map(Some)?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(changed)
    }

    pub(super) fn may_name(&self, dir: u64, name: &str) -> Result<(), Refusal> {
        if dir == TOP && self.is_reserved(name) { Err(Refusal::NotPermitted) } else { Ok(()) }
    }

    /// Notes that names in directories were (`changed`) made to lead elsewhere.
    pub(super) fn renamed(
        &self,
        changed: Option<bool>,
        dirs: &[u64],
        now: Timestamp,
    ) -> Option<()> {
        if changed == Some(true) {
            if dirs.contains(&TOP) {
                self.root().mtime.store(now);
            }
            self.buffer.changed();
        }
        changed.map(drop)
    }

    fn empty(&self) -> Contents {
        Contents::empty().counted_by(self.buffer.gauge())
    }

    /// Makes an empty file; one that is there already is left alone.
    ///
    /// # Errors
    /// `EISDIR` where a directory has that name; `ENOENT` in a directory that was removed.
    pub fn create(self: &Arc<Self>, dir: u64, name: &str) -> Outcome<Option<()>> {
        let (ino, now) = (self.new_number()?, self.host.now()?);
        let made = self.change(|state| {
            self.may_name(dir, name)?;
            match state.find(dir, name).and_then(|found| state.is_dir(found)) {
                Some(true) => Err(Refusal::IsDirectory),
                Some(false) => Ok(false),
                None => state.add(dir, name, ino, Some(self.empty()), now).map(|()| true),
            }
        })?;
        self.save_unasked();
        Ok(self.renamed(made, &[dir], now))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `EEXIST`; as [`MountedCollection::create`].
    pub fn mkdir(self: &Arc<Self>, dir: u64, name: &str) -> Outcome<Option<()>> {
        let (ino, now) = (self.new_number()?, self.host.now()?);
        let made = self.change(|state| {
            self.may_name(dir, name)?;
            match state.find(dir, name) {
                Some(_) => Err(Refusal::Exists),
                None => state.add(dir, name, ino, None, now).map(|()| true),
            }
        })?;
        self.save_unasked();
        Ok(self.renamed(made, &[dir], now))
    }

    /// Removes a file or (`directory`) an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn remove(&self, dir: u64, name: &str, directory: bool) -> Outcome<Option<()>> {
        let now = self.host.now()?;
        let removed = self.change(|state| {
            if let Some(ino) = state.remove(dir, name, directory, now)? {
                self.leave_draft(state, ino);
            }
            Ok(true)
        })?;
        Ok(self.renamed(removed, &[dir], now))
    }

    /// Moves a name within the collection; over another where one is there, if that is to be (`replace`).
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`; `EINVAL` for a directory that would be in itself.
    pub fn rename(&self, from: (u64, &str), to: (u64, &str), replace: bool) -> Outcome<Option<()>> {
        let now = self.host.now()?;
        let renamed = self.change(|state| {
            self.may_name(to.0, to.1)?;
            let (found, replaced) = (state.find(from.0, from.1), state.find(to.0, to.1));
            if !replace && found.is_some() && replaced.is_some() {
                return Err(Refusal::Exists);
            }
            let same = found == replaced;
            if let Some(replaced) = state.rename(from, to, now)? {
                self.leave_draft(state, replaced);
            }
            Ok(!same)
        })?;
        Ok(self.renamed(renamed, &[from.0, to.0], now))
    }

    fn leave_draft(&self, state: &mut State, ino: u64) {
        let uses = state.leave_draft(ino);
        self.uses.fetch_sub(uses.into(), Ordering::AcqRel);
    }

    /// The file in the draft, taken there where it was not; None also where it is another collection's.
    fn file(&self, ino: u64) -> Outcome<Option<Arc<DraftFile>>> {
        let file = self.change(|state| match state.file_for_writing(ino) {
            None if !self.has_given_away() => Err(Refusal::NotFound),
            file => Ok(file),
        })?;
        Ok(file.flatten())
    }

    /// Has a change made to a file while nobody can supersede the collection; answers when it was, too.
    pub(super) fn change_file<T>(
        &self,
        ino: u64,
        change: impl Fn(&DraftFile) -> T,
    ) -> Outcome<Option<(T, Timestamp)>> {
        let now = self.host.now()?;
        loop {
            let state = self.state.read();
            let handed_over = self.is_handed_over(&state);
            // What left the collection is nobody else's to change.
            if (handed_over && !state.has_left(ino)) || state.arriving.contains(&ino) {
                return Ok(None);
            }
            if let Some(file) = state.draft_file(ino) {
                let changed = change(file);
                file.mtime.store(now);
                self.changes.fetch_add(1, Ordering::AcqRel);
                return Ok(Some((changed, now)));
            }
            drop(state);
            if self.file(ino)?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Writes. What is appended is at the end of the file as it is, wherever the kernel takes that to be: it
    /// asks again what the file contains where that is elsewhere.
    ///
    /// # Errors
    /// `EFBIG` past the end of the largest file; `EIO` where the mount has no room for more unsaved
    /// bytes and storing them fails.
    pub fn write(
        self: &Arc<Self>,
        ino: u64,
        at: Position,
        data: &[u8],
    ) -> Outcome<Option<Written>> {
        let is_too_far =
            |offset: u64| offset.checked_add(data.len() as u64).is_none_or(|end| end > MAX_LEN);
        if is_too_far(at.offset()) {
            return Err(Refusal::TooLarge.into());
        }
        if data.is_empty() {
            return Ok(Some(Written::Bytes(0)));
        }
        if !self.is_written_here() && !self.state.read().has_left(ino) {
            return Ok(None);
        }
        if !self.buffer.has_room(data.len() as u64) {
            if !self.buffer.is_stuck() {
                return Ok(Some(Written::NoRoom(Arc::clone(&self.buffer))));
            }
            // For whoever writes next.
            self.buffer.store_early();
            return Err(Refusal::Unwritable.into());
        }
        let bytes = Bytes::copy_from_slice(data);
        let written = self.change_file(ino, |file| {
            let mut contents = file.contents.lock();
            let offset = match at {
                Position::At(offset) => offset,
                Position::End(_) => contents.len(),
            };
            if is_too_far(offset) {
                return Err(Refusal::TooLarge);
            }
            let chunks = contents.write(offset, bytes.clone());
            drop(contents);
            Ok((self.uploads.add(chunks), offset))
        })?;
        let Some((written, _)) = written else { return Ok(None) };
        let (full, offset) = written?;
        self.start(full);
        self.buffer.changed();
        if offset != at.offset()
            && let Some(table) = self.host.table()
        {
            table.upcalls().invalidate_inode(Ino(ino));
        }
        Ok(Some(Written::Bytes(data.len() as u32)))
    }

    /// Begins to store packs.
    pub(super) fn start(&self, packs: Vec<Begun>) {
        if !packs.is_empty() {
            self.uploads.start(&self.host.store(), packs);
        }
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// `EFBIG`.
    pub fn truncate(&self, ino: u64, size: u64) -> Outcome<Option<Truncated>> {
        if size > MAX_LEN {
            return Err(Refusal::TooLarge.into());
        }
        let cut = self.change_file(ino, |file| {
            let chunks = file.contents.lock().truncate(size);
            self.uploads.add(chunks)
        })?;
        Ok(cut.map(|(full, now)| {
            self.start(full);
            self.buffer.changed();
            Truncated { size, mtime: Some(now) }
        }))
    }

    /// Sets when a file or directory was last changed.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn set_mtime(&self, ino: u64, mtime: Timestamp) -> Outcome<Option<()>> {
        let mut state = self.state.write();
        let handed_over = self.is_handed_over(&state);
        // What left the collection is nobody else's to change.
        let is_left = state.has_left(ino) && state.is_drafted(ino);
        if (handed_over && !is_left) || state.arriving.contains(&ino) {
            return Ok(None);
        }
        if ino == TOP {
            self.root().mtime.store(mtime);
        } else {
            state.set_mtime(ino, mtime)?;
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        Ok(Some(()))
    }

    /// Nothing is changed here from now on: the layer above is about to take over.
    pub fn freeze(&self, frozen: bool) {
        self.state.write().draft.frozen = frozen;
    }
}

impl<H: Host> Unsaved for MountedCollection<H> {
    fn store_early(&self) {
        self.start(self.uploads.drain_if_idle());
    }
}

impl<H: Host> CollectionNode<H> {
    /// Whether the file is changed here: where others are, and what left the collection always.
    pub(super) fn is_changed_here(&self) -> Outcome<bool> {
        Ok(self.writing()?.is_some() || self.collection().state.read().has_left(self.ino()))
    }

    /// The collection, where changes to it are made here; after a look at whether the layer above wants
    /// to be asked.
    pub(super) fn writing(&self) -> Outcome<Option<&Arc<MountedCollection<H>>>> {
        Ok(self.collection().may_change_here()?.then(|| self.collection()))
    }
}
