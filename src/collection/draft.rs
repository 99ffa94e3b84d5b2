// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Files that are being written: what they contain, and how it gets into blocks.
//!
//! Data only: no I/O, no threads. A [`Contents`] is one file's extents, in a lock of its owner's. What
//! is written to it is [`Chunk`]s, which are gathered into blocks. Once a chunk is stored, every extent
//! that shows it, in whichever file, reads from the block.
//!
//! No lock is taken but a chunk's own, for the copying of a reference.

mod blocks;
#[expect(dead_code, reason = "for the packer, which follows")]
mod chunk;
mod contents;
mod extent;
mod merge;

pub use blocks::{BlockRef, Piece, Pieces};
pub use chunk::{Chunk, Gauge};
pub use contents::{Contents, Excerpt, MAX_LEN};

#[cfg(test)]
mod tests;
