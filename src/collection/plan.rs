// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! From a file and a range of bytes to the ranges of blocks that hold them.

use std::iter::FusedIterator;

use super::blocks::{BlockId, Blocks};
use super::tree::{Extent, NodeId, Tree};

/// Bytes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// The block.
    pub block: BlockId,
    /// Where the range begins in the block.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Tree {
    /// The ranges that hold `len` bytes of the file from `offset` on, in order; what lies past the
    /// file's end is left out. None of them is empty. The first takes as long as the logarithm of
    /// the number of segments, each further one no longer than that.
    #[must_use]
    pub fn plan(&self, file: NodeId, offset: u64, len: u64) -> Plan<'_> {
        Plan::new(self, file, offset, len, false)
    }

    /// All segments of the file as the SDK lists them: also the empty ones, which stand for blocks
    /// of length 0 between others.
    #[must_use]
    pub fn segments(&self, file: NodeId) -> Plan<'_> {
        Plan::new(self, file, 0, u64::MAX, true)
    }

    /// The blocks of the file, in its order. A block that is left and entered again comes again.
    #[must_use]
    pub fn file_blocks(&self, file: NodeId) -> BlockIds<'_> {
        self.file_blocks_from(file, 0)
    }

    /// The blocks of the file from the one on that holds the byte at `offset`.
    #[must_use]
    pub fn file_blocks_from(&self, file: NodeId, offset: u64) -> BlockIds<'_> {
        BlockIds { ranges: self.plan(file, offset, u64::MAX), last: None }
    }
}

/// Pieces of a file, in order.
#[derive(Clone)]
pub struct Plan<'t> {
    blocks: &'t Blocks,
    /// Spans of the file that are not begun.
    extents: &'t [Extent],
    /// Where the extent that is begun goes on, and ends, in the blocks of all streams.
    position: u64,
    end: u64,
    /// The placed block that comes next.
    place: usize,
    /// Bytes of the file still wanted after this extent, and where the next extent begins in the file.
    wanted_end: u64,
    next_begin: u64,
    with_empty: bool,
}

impl<'t> Plan<'t> {
    fn new(tree: &'t Tree, file: NodeId, offset: u64, len: u64, with_empty: bool) -> Self {
        let extents = tree.file_extents(file);
        let first = extents.partition_point(|extent| extent.end <= offset);
        let mut plan = Self {
            blocks: &tree.blocks,
            next_begin: first.checked_sub(1).map_or(0, |before| extents[before].end),
            extents: &extents[first..],
            position: 0,
            end: 0,
            place: 0,
            wanted_end: offset.saturating_add(len),
            with_empty,
        };
        if offset < plan.wanted_end {
            plan.enter_span(offset);
        } else {
            plan.extents = &[];
        }
        plan
    }

    /// Begins the next extent at `offset` of the file, which lies in it.
    fn enter_span(&mut self, offset: u64) {
        let Some((extent, rest)) = self.extents.split_first() else { return };
        self.extents = rest;
        self.position = extent.position + (offset - self.next_begin);
        self.end = extent.position + (extent.end.min(self.wanted_end) - self.next_begin);
        self.next_begin = extent.end;
        if extent.end >= self.wanted_end {
            self.extents = &[];
        }
        let holds = |place: usize| {
            let begin = self.blocks.starts.get(place).copied();
            let next = self.blocks.starts.get(place + 1).copied().unwrap_or(u64::MAX);
            begin.is_some_and(|begin| begin <= self.position && self.position < next)
        };
        // Spans often go on where the last one ended: in its block, or in the one after it.
        if self.place > 0 && holds(self.place - 1) {
            self.place -= 1;
        } else if !holds(self.place) {
            // Empty blocks begin where the next one does: the last that begins here is not empty.
            self.place = self.blocks.starts.partition_point(|start| *start <= self.position) - 1;
        }
    }
}

impl Iterator for Plan<'_> {
    type Item = BlockRange;

    fn next(&mut self) -> Option<BlockRange> {
        loop {
            if self.position == self.end {
                if self.extents.is_empty() {
                    return None;
                }
                self.enter_span(self.next_begin);
            }
            let (begin, block) = (self.blocks.starts[self.place], self.blocks.placed[self.place]);
            let size = self.blocks.list[block.0 as usize].size;
            let end = self.end.min(begin + u64::from(size));
            let range = BlockRange {
                block,
                // Both are at most the block's size, which has 32 bits.
                offset: (self.position - begin) as u32,
                len: (end - self.position) as u32,
            };
            self.place += 1;
            self.position = end;
            if range.len > 0 || self.with_empty {
                return Some(range);
            }
        }
    }
}

impl FusedIterator for Plan<'_> {}

/// The blocks of a file, in its order.
#[derive(Clone)]
pub struct BlockIds<'t> {
    ranges: Plan<'t>,
    last: Option<BlockId>,
}

impl Iterator for BlockIds<'_> {
    type Item = BlockId;

    fn next(&mut self) -> Option<BlockId> {
        let last = self.last;
        let next = self.ranges.by_ref().map(|range| range.block).find(|id| Some(*id) != last);
        self.last = next.or(last);
        next
    }
}

impl FusedIterator for BlockIds<'_> {}
