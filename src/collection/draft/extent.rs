// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Extents: what a range of a file shows. A range without one is a hole.

use std::sync::Arc;

use super::blocks::{BlockRef, Piece, Pieces};
use super::chunk::Chunk;
use crate::collection::{NodeId, Tree};

/// What a range of a file shows. None is empty.
#[derive(Clone)]
pub(super) enum Extent {
    /// A part of a chunk, stored or not.
    Chunk(Part),
    /// A part of a block.
    Stored { block: BlockRef, offset: u32, len: u32 },
    /// A part of a file of the snapshot: one extent, whatever its blocks are.
    Tree { tree: Arc<Tree>, file: NodeId, offset: u64, len: u64 },
}

/// A part of a chunk, counted in what is shown of the chunk.
pub(super) struct Part {
    chunk: Arc<Chunk>,
    offset: u32,
    len: u32,
}

impl Extent {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Chunk(part) => u64::from(part.len),
            Self::Stored { len, .. } => u64::from(*len),
            Self::Tree { len, .. } => *len,
        }
    }

    /// `len` bytes of it from `skipped` on.
    pub(super) fn slice(&self, skipped: u64, len: u64) -> Self {
        match self {
            // Both fit: the extent's own length has 32 bits.
            Self::Chunk(part) => Self::Chunk(part.slice(skipped as u32, len as u32)),
            Self::Stored { block, offset, .. } => Self::Stored {
                block: block.clone(),
                offset: offset + skipped as u32,
                len: len as u32,
            },
            Self::Tree { tree, file, offset, .. } => {
                Self::Tree { tree: Arc::clone(tree), file: *file, offset: offset + skipped, len }
            }
        }
    }

    /// The part of it that is a chunk's.
    pub(super) fn part(&self) -> Option<&Part> {
        match self {
            Self::Chunk(part) => Some(part),
            _ => None,
        }
    }

    /// Appends what `len` bytes of it from `skipped` on are.
    pub(super) fn pieces(&self, skipped: u64, len: u64, into: &mut Pieces) {
        match self {
            Self::Chunk(part) => {
                part.chunk.piece(part.offset + skipped as u32, len as u32).push_to(into);
            }
            Self::Stored { block, offset, .. } => {
                let (block, offset) = (block.clone(), offset + skipped as u32);
                Piece::Stored { block, offset, len: len as u32 }.push_to(into);
            }
            Self::Tree { tree, file, offset, .. } => {
                for range in tree.plan(*file, offset + skipped, len) {
                    let block = BlockRef::Tree(Arc::clone(tree), range.block);
                    Piece::Stored { block, offset: range.offset, len: range.len }.push_to(into);
                }
            }
        }
    }

    /// A part of a stored chunk as a part of its block, which keeps the chunk no longer.
    pub(super) fn settled(self) -> Self {
        let Self::Chunk(part) = &self else { return self };
        match part.chunk.place() {
            Some((block, begin)) => {
                Self::Stored { block, offset: begin + part.offset, len: part.len }
            }
            None => self,
        }
    }

    /// Takes in `next`, which follows it in the file, where it goes on in the same place.
    pub(super) fn extend(&mut self, next: &Self) -> bool {
        match (self, next) {
            (
                Self::Stored { block, offset, len },
                Self::Stored { block: next, offset: begin, len: more },
            ) if offset.checked_add(*len) == Some(*begin) && block.is_same(next) => {
                *len += more;
                true
            }
            (
                Self::Tree { tree, file, offset, len },
                Self::Tree { tree: next, file: other, offset: begin, len: more },
            ) if *offset + *len == *begin && file == other && Arc::ptr_eq(tree, next) => {
                *len += more;
                true
            }
            _ => false,
        }
    }
}

impl Part {
    /// All of a chunk.
    pub(super) fn whole(chunk: Arc<Chunk>) -> Self {
        let len = chunk.len();
        chunk.show(len);
        Self { chunk, offset: 0, len }
    }

    pub(super) fn slice(&self, skipped: u32, len: u32) -> Self {
        self.chunk.show(len);
        Self { chunk: Arc::clone(&self.chunk), offset: self.offset + skipped, len }
    }

    pub(super) fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    /// Where it begins in the chunk.
    pub(super) fn offset(&self) -> u32 {
        self.offset
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Whether it is all of its chunk.
    pub(super) fn is_whole(&self) -> bool {
        self.len == self.chunk.len()
    }

    /// Its bytes, as [`Chunk::waiting`] has them.
    pub(super) fn waiting(&self) -> Option<bytes::Bytes> {
        let bytes = self.chunk.waiting()?;
        Some(bytes.slice(self.offset as usize..(self.offset + self.len) as usize))
    }
}

impl Clone for Part {
    fn clone(&self) -> Self {
        self.slice(0, self.len)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.chunk.hide(self.len);
    }
}
