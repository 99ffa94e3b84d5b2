// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Small blocks that saves left, put together: each costs a reader a request.
//!
//! A program that closes or syncs file after file leaves a block with each. After some of them the next
//! save takes one block along that has what files show of those, and where it is: `replace_segments` of the API,
//! which changes no file whose bytes are others by then. They are in the cache, so nothing is read from Keep; and
//! nothing is done to what others stored, who would see their files change. A block is small no longer when
//! it has become 1 MiB.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::capture::Captured;
use super::reader::is_own_and_ends;
use super::{Host, MountedCollection};
use crate::collection::draft::{Gathered, Repacked};
use crate::keep::KeepClient;
use crate::types::Md5;

/// Blocks of fewer bytes are small.
const SMALL: u32 = 1 << 20;
/// After how many, where [`super::Settings::repacked`] does not say.
const MANY: usize = 32;
/// How many are known at most.
const MOST: usize = 4096;
/// Bytes that are put together at most.
const MOST_BYTES: u32 = 32 << 20;

/// The small blocks that were stored since small ones were last put together; None once they are left as
/// they are.
pub(super) struct SmallBlocks(Mutex<Option<HashSet<Md5>>>);

impl Default for SmallBlocks {
    fn default() -> Self {
        SmallBlocks(Mutex::new(Some(HashSet::new())))
    }
}

impl SmallBlocks {
    /// A block of so many bytes was stored.
    pub(super) fn note(&self, md5: Md5, len: u32) {
        if let Some(blocks) = &mut *self.0.lock()
            && len < SMALL
            && blocks.len() < MOST
        {
            blocks.insert(md5);
        }
    }

    /// All of them, if they are so many; then there are none.
    fn take(&self, many: usize) -> Option<HashSet<Md5>> {
        let mut blocks = self.0.lock();
        blocks.as_mut().filter(|blocks| blocks.len() >= many).map(std::mem::take)
    }

    /// They were not put together.
    pub(super) fn are_left(&self, left: Option<HashSet<Md5>>) {
        if let (Some(blocks), Some(left)) = (&mut *self.0.lock(), left) {
            blocks.extend(left);
        }
    }

    /// They stay as they are from now on.
    pub(super) fn give_up(&self) {
        *self.0.lock() = None;
    }
}

impl<H: Host> MountedCollection<H> {
    /// What is captured of small blocks, in one that is stored, and those blocks; None where it does not pay. Takes
    /// as long as the collection is large.
    pub(super) fn repacked(&self, captured: &Captured) -> Option<(Arc<Repacked>, HashSet<Md5>)> {
        let many = self.settings.repacked.unwrap_or(MANY);
        let small = self.uploads.small.take(many)?;
        let mut gathered = Gathered::new(MOST_BYTES);
        for pieces in captured.all_pieces() {
            // A file that is being written may need the block in the record, for its next signature.
            let stays = is_own_and_ends;
            gathered.add(&pieces, |block| small.contains(&block.md5()) && !stays(block));
        }
        if gathered.blocks() < many.div_ceil(2) {
            return None;
        }
        let keep = self.host.store();
        let bytes = bytes_of(&gathered, &keep)?;
        match keep.put_blocking(vec![bytes], self.uploads.options()) {
            Ok(locator) => {
                log::debug!("{} small blocks become one of {}", gathered.blocks(), gathered.len());
                self.uploads.small.note(locator.md5(), locator.size());
                Some((Arc::new(gathered.stored(Arc::new(locator))), small))
            }
            Err(error) => {
                // They stay as they are.
                log::debug!("small blocks stay: {error}");
                None
            }
        }
    }
}

/// The bytes, as long as the cache has them.
fn bytes_of(gathered: &Gathered, keep: &KeepClient) -> Option<Bytes> {
    let mut bytes = vec![0; gathered.len() as usize];
    let mut rest = &mut bytes[..];
    for (block, offset, len) in gathered.parts() {
        let (part, after) = rest.split_at_mut(len as usize);
        let block = keep.at_hand(block.md5(), block.size())?;
        block.read_into(offset as usize, part).ok()?;
        rest = after;
    }
    Some(bytes.into())
}
