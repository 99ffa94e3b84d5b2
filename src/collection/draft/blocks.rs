// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Where bytes are, as a read sees them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::collection::{BlockId, Tree};
use crate::types::{Locator, Md5};

/// A stored block.
#[derive(Clone)]
pub enum BlockRef {
    /// A block of a snapshot, whose signatures are renewed with it.
    Tree(Arc<Tree>, BlockId),
    /// A block that was uploaded.
    Own(Arc<Locator>),
}

impl BlockRef {
    /// The block's locator, with the newest signature known.
    #[must_use]
    pub fn locator(&self) -> Locator {
        match self {
            Self::Tree(tree, id) => tree.locator(*id),
            Self::Own(locator) => Locator::clone(locator),
        }
    }

    /// Digest of the block.
    #[must_use]
    pub fn md5(&self) -> Md5 {
        match self {
            Self::Tree(tree, id) => tree.block(*id).md5,
            Self::Own(locator) => locator.md5(),
        }
    }

    /// Length of the block in bytes.
    #[must_use]
    pub fn size(&self) -> u32 {
        match self {
            Self::Tree(tree, id) => tree.block(*id).size,
            Self::Own(locator) => locator.size(),
        }
    }

    /// Whether both have the same content; their signatures may differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.md5() == other.md5() && self.size() == other.size()
    }
}

/// Without hints: a signature is a permission, and has no place in a log.
impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.md5(), self.size())
    }
}

/// A part of a file, as a read sees it. None is empty.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes of a stored block.
    Stored {
        /// The block.
        block: BlockRef,
        /// Where the bytes begin in the block.
        offset: u32,
        /// How many there are.
        len: u32,
    },
    /// Bytes that are not stored yet; they stay as they are, whatever is written to the file.
    Buffered(Bytes),
    /// So many zeros.
    Hole(u64),
}

/// Neighbouring pieces: one or two in nearly all reads.
pub type Pieces = SmallVec<[Piece; 2]>;

impl Piece {
    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> u64 {
        match self {
            Self::Stored { len, .. } => u64::from(*len),
            Self::Buffered(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    /// Appends it to its neighbours; what goes on where the last one ends becomes one with it.
    pub(super) fn push_to(self, pieces: &mut Pieces) {
        match (pieces.last_mut(), &self) {
            (
                Some(Self::Stored { block: before, offset: begin, len: until }),
                Self::Stored { block, offset, len },
            ) if begin.checked_add(*until) == Some(*offset) && before.is_same(block) => {
                *until += len;
            }
            (Some(Self::Hole(before)), Self::Hole(len)) => *before += len,
            _ => pieces.push(self),
        }
    }
}
