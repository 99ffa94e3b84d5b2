// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Files that are being written: what they contain, and how it gets into blocks.
//!
//! Data only: no I/O, no threads. A [`Contents`] is one file's extents, in a lock of its owner's. What
//! is written to it is [`Chunk`]s, which a [`Packer`] gathers into blocks. The owner uploads each
//! [`Pack`] and says where it is stored; from then on every extent that shows one of its chunks, in
//! whichever file, reads from the block. [`write_manifest`] writes files of which all is stored.
//!
//! No lock is taken but a chunk's own, for the copying of a reference.

mod blocks;
mod chunk;
mod contents;
mod extent;
mod manifest;
mod merge;
mod packer;
mod repack;

pub use blocks::{BlockRef, Piece, Pieces};
pub use chunk::{Chunk, Gauge};
pub use contents::{Contents, Excerpt, MAX_LEN};
pub use manifest::{Directory, Unwritable, UnwritableReason, write_manifest, zeros, zeros_len};
pub use packer::{Pack, Packer};
pub use repack::{Gathered, Repacked};

#[cfg(test)]
mod tests;
