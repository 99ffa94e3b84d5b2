// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Ranges of files of a mounted collection: room for them, holes in them, copies of them.
//!
//! As in [`super::writing`], None says that nothing was done here.

use std::sync::Arc;

use super::{CollectionNode, DraftFile, Host, MountedCollection, State};
use crate::collection::draft::{Contents, Excerpt, MAX_LEN};
use crate::fs::any_node::AnyNode;
use crate::fs::errno::Refusal;
use crate::fs::flags::{Allocation, Seek};
use crate::fs::node::Outcome;

/// Where a range ends.
fn end_of(offset: u64, len: u64) -> Result<u64, Refusal> {
    offset.checked_add(len).filter(|end| *end <= MAX_LEN).ok_or(Refusal::TooLarge)
}

impl State {
    /// A range of a file as it is now.
    fn excerpt(&self, ino: u64, offset: u64, len: u64) -> Option<Excerpt> {
        if let Some(file) = self.draft_file(ino) {
            return Some(file.contents.lock().copy_range(offset, len));
        }
        let (snapshot, id) = match self.orphans.get(&ino) {
            Some(orphan) => (&orphan.snapshot, orphan.id),
            None => (&self.current, self.in_snapshot(ino)?),
        };
        Some(Contents::of_tree(snapshot.tree(), id).copy_range(offset, len))
    }
}

impl DraftFile {
    /// The first byte from `offset` on that is data, or in a hole.
    ///
    /// # Errors
    /// `ENXIO` where there is none, and past the end.
    pub fn seek(&self, offset: u64, what: Seek) -> Result<u64, Refusal> {
        let contents = self.contents.lock();
        match what {
            _ if offset >= contents.len() => Err(Refusal::NotFurther),
            Seek::Data => contents.next_data(offset).ok_or(Refusal::NotFurther),
            Seek::Hole => Ok(contents.next_hole(offset)),
        }
    }
}

impl<H: Host> MountedCollection<H> {
    /// Reserves room for a range of a file, or makes it a hole. Room costs nothing: what is not written is
    /// a hole.
    ///
    /// # Errors
    /// `EFBIG` past the end of the largest file.
    pub fn allocate(
        &self,
        ino: u64,
        offset: u64,
        len: u64,
        how: Allocation,
    ) -> Outcome<Option<()>> {
        let end = end_of(offset, len)?;
        let changed = self.change_file(ino, |file| {
            let mut contents = file.contents.lock();
            let chunks = match how {
                Allocation::Reserve { keep_size: false } if contents.len() < end => {
                    contents.truncate(end)
                }
                Allocation::Reserve { .. } => Vec::new(),
                Allocation::PunchHole | Allocation::ZeroRange { keep_size: true } => {
                    contents.punch_hole(offset, len)
                }
                Allocation::ZeroRange { keep_size: false } => contents.zero_range(offset, len),
            };
            drop(contents);
            self.uploads.add(chunks)
        })?;
        Ok(changed.map(|(full, _)| {
            self.start(full);
            self.buffer.changed();
        }))
    }

    /// Puts `len` bytes of `source`, from an offset on, at an offset of `target`; answers how many there
    /// were. The bytes are shared. None also where there is no room for the few that are not: whoever writes
    /// them waits for it.
    ///
    /// # Errors
    /// `EINVAL` for ranges of one file that overlap; `EFBIG`.
    pub fn copy_range(
        &self,
        (source, from): (u64, u64),
        (target, to): (u64, u64),
        len: u64,
    ) -> Outcome<Option<u64>> {
        let Some(excerpt) = self.state.read().excerpt(source, from, len) else {
            return Ok(None);
        };
        let copied = excerpt.len();
        if excerpt.is_empty() {
            return Ok(Some(0));
        }
        let end = end_of(to, copied)?;
        if source == target && from < end && to < from + copied {
            return Err(Refusal::Overlapping.into());
        }
        let loose = excerpt.loose_bytes();
        if loose > 0 && !self.buffer.has_room(loose) {
            return Ok(None);
        }
        let changed = self.change_file(target, |file| {
            let chunks = file.contents.lock().splice(to, excerpt.clone());
            self.uploads.add(chunks)
        })?;
        Ok(changed.map(|(full, _)| {
            self.start(full);
            self.buffer.changed();
            copied
        }))
    }
}

impl<H: Host> CollectionNode<H> {
    pub(super) fn allocate_here(&self, offset: u64, len: u64, how: Allocation) -> Outcome<()> {
        let done = if self.is_changed_here()? {
            self.collection().allocate(self.ino(), offset, len, how)?
        } else {
            None
        };
        done.ok_or_else(|| Refusal::NotSupported.into())
    }

    pub(super) fn copy_here(
        &self,
        to: u64,
        source: &AnyNode<H>,
        from: u64,
        len: u64,
    ) -> Outcome<u64> {
        let copied = match source {
            AnyNode::Collection(file)
                if Arc::ptr_eq(file.collection(), self.collection())
                    && self.is_changed_here()? =>
            {
                self.collection().copy_range((file.ino(), from), (self.ino(), to), len)?
            }
            _ => None,
        };
        copied.ok_or_else(|| Refusal::CrossCollection.into())
    }
}
