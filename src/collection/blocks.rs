// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The blocks of a collection: each locator once, where the streams put them, and their hints.
//!
//! Hints are apart from digests and sizes because they alone change: when signatures are renewed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::hints::Hints;
use super::tree::Tree;
use crate::types::{Locator, LocatorRef, Md5};

/// A block of one tree: one for each different locator of its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// What a block holds: its content's digest and its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Digest of the content.
    pub md5: Md5,
    /// Length in bytes.
    pub size: u32,
}

#[derive(Default)]
pub(super) struct Blocks {
    pub list: Box<[Block]>,
    /// Where each block of each stream begins, if all streams are put one after another.
    pub starts: Box<[u64]>,
    /// Which block that is.
    pub placed: Box<[BlockId]>,
    /// Read for each block that is fetched, written when signatures are renewed. Held for the
    /// copying of one reference only; no other lock is taken under it.
    pub hints: RwLock<Arc<Hints>>,
}

impl Blocks {
    pub(super) fn heap(&self) -> usize {
        size_of_val(&*self.list)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.placed)
            // An Arc keeps two counts beside its content.
            + 2 * size_of::<usize>()
            + size_of::<Hints>()
            + self.hints.read().heap()
    }

    pub(super) fn current_hints(&self) -> Arc<Hints> {
        Arc::clone(&self.hints.read())
    }
}

impl Tree {
    /// How many blocks there are: each locator that differs counts once. Their ids are `0..count`.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.blocks.list.len()
    }

    /// The block's digest and length.
    #[must_use]
    pub fn block(&self, id: BlockId) -> Block {
        self.blocks.list[id.0 as usize]
    }

    /// The block's locator, with the newest signature known.
    #[must_use]
    pub fn locator(&self, id: BlockId) -> Locator {
        let Block { md5, size } = self.block(id);
        let hints = self.blocks.current_hints().of(id).to_string();
        LocatorRef { md5, size, hints: &hints }.to_locator()
    }

    /// When the first of the signatures ends, in seconds since 1970. `None`: none is signed.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.blocks.hints.read().expires_at()
    }

    /// The blocks by what they hold.
    #[must_use]
    pub fn block_ids(&self) -> HashMap<Block, BlockId> {
        self.blocks.list.iter().copied().zip((0..).map(BlockId)).collect()
    }

    /// Takes the hints of `newer`'s locators for the blocks that both have, for every holder of
    /// this tree at once. Returns for how many of this tree's blocks there were any.
    pub fn renew_locators(&self, newer: &Tree) -> usize {
        let theirs = newer.blocks.current_hints();
        if self.blocks.list == newer.blocks.list {
            *self.blocks.hints.write() = theirs;
            return self.block_count();
        }
        let found = newer.block_ids();
        let ours = self.blocks.current_hints();
        let mut renewed = 0;
        let texts: Vec<String> = self
            .blocks
            .list
            .iter()
            .zip((0..).map(BlockId))
            .map(|(block, id)| match found.get(block) {
                Some(same) => {
                    renewed += 1;
                    theirs.of(*same).to_string()
                }
                None => ours.of(id).to_string(),
            })
            .collect();
        let locators = self.blocks.list.iter().zip(&texts);
        let hints = Hints::gather(locators.map(|(block, hints)| LocatorRef {
            md5: block.md5,
            size: block.size,
            hints,
        }));
        *self.blocks.hints.write() = Arc::new(hints);
        renewed
    }
}
