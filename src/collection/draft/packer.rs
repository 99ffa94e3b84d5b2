// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Gathers chunks into blocks.
//!
//! Each file's chunks are a run. A run that is as long as a block becomes one; short runs share. Lists
//! are looked through for chunks that nothing shows any more when they have doubled, or before a
//! block is made of them: each chunk costs the same, however often it is overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::blocks::BlockRef;
use super::chunk::Chunk;
use crate::types::Locator;

/// Length of a full block in bytes; one lacks less than 1 MiB of it.
const BLOCK_SIZE: u32 = 64 << 20;
/// Lists shorter than this are not looked through.
const FEW: usize = 64;
/// Fewer files than this are not looked through.
const FEW_RUNS: usize = 1024;

/// Gathers the chunks of a collection's files into blocks of up to 64 MiB.
///
/// A chunk that is overwritten before it is in a pack is never uploaded: the packer does not keep
/// it. Chunks of one file stand in a block in order of the file.
///
/// ```
/// use std::sync::Arc;
/// use arvados_fuse::collection::draft::{Contents, Packer, Piece};
/// use arvados_fuse::types::Locator;
///
/// let (mut contents, mut packer) = (Contents::empty(), Packer::new());
/// for chunk in contents.write(0, "foo".into()) {
///     packer.add(chunk);
/// }
/// assert!(packer.full().is_none());
/// for pack in packer.drain() {
///     assert_eq!(pack.data(), ["foo"]);
///     let locator: Locator = "acbd18db4cc2f85cedef654fccc4a4d8+3".parse()?;
///     pack.stored(Arc::new(locator));
/// }
/// assert!(matches!(&*contents.pieces(0, 3), [Piece::Stored { offset: 0, len: 3, .. }]));
/// # Ok::<(), arvados_fuse::types::LocatorError>(())
/// ```
pub struct Packer {
    /// By the file's number.
    runs: BTreeMap<u64, Run>,
    /// Runs that may fill a block.
    ready: BTreeSet<u64>,
    /// Bytes of all runs.
    total: u64,
    /// At how many bytes, and how many runs, they are looked through for a block to share.
    look_at: (u64, usize),
    block_size: u64,
}

/// The chunks of a file, of which some may be gone.
struct Run {
    chunks: Vec<Weak<Chunk>>,
    /// What they were in all when they came.
    bytes: u64,
    /// At how many chunks it is looked through, and at how many bytes it is ready.
    sweep_at: usize,
    ready_at: u64,
}

impl Run {
    /// Leaves out chunks that are gone, nobody shows, or are in a pack; the others, in order.
    fn sweep(&mut self, block_size: u64) -> Vec<Arc<Chunk>> {
        let mut chunks: Vec<Arc<Chunk>> = self.chunks.iter().filter_map(Weak::upgrade).collect();
        chunks.retain(|chunk| chunk.is_shown() && chunk.is_waiting());
        chunks.sort_by_key(|chunk| (chunk.origin().1, Arc::as_ptr(chunk)));
        chunks.dedup_by(|a, b| Arc::ptr_eq(a, b));
        self.set(&chunks, block_size);
        chunks
    }

    fn set(&mut self, chunks: &[Arc<Chunk>], block_size: u64) {
        self.chunks = chunks.iter().map(Arc::downgrade).collect();
        self.bytes = chunks.iter().map(|chunk| u64::from(chunk.len())).sum();
        self.sweep_at = FEW.max(2 * chunks.len());
        self.ready_at = self.ready_at.min(self.later(block_size));
    }

    /// When it is to be looked at again, having been found too short for a block.
    fn later(&self, block_size: u64) -> u64 {
        block_size.max(self.bytes + block_size / 8)
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

impl Packer {
    /// A packer without chunks.
    #[must_use]
    pub fn new() -> Self {
        Self::with_block_size(BLOCK_SIZE)
    }

    /// One that makes smaller blocks, for tests: a block is longer only where a chunk is.
    #[must_use]
    pub fn with_block_size(bytes: u32) -> Self {
        let block_size = u64::from(bytes.clamp(1, BLOCK_SIZE));
        Self {
            runs: BTreeMap::new(),
            ready: BTreeSet::new(),
            total: 0,
            look_at: (block_size, FEW_RUNS),
            block_size,
        }
    }

    /// Takes in a chunk. One that is in a pack of this or another packer, or stored, is left out
    /// when a pack is made.
    pub fn add(&mut self, chunk: Arc<Chunk>) {
        let (file, _) = chunk.origin();
        let block_size = self.block_size;
        let run = self.runs.entry(file).or_insert_with(|| Run {
            chunks: Vec::new(),
            bytes: 0,
            sweep_at: FEW,
            ready_at: block_size,
        });
        run.chunks.push(Arc::downgrade(&chunk));
        run.bytes += u64::from(chunk.len());
        self.total += u64::from(chunk.len());
        if run.chunks.len() >= run.sweep_at {
            let before = run.bytes;
            run.sweep(block_size);
            self.total -= before - run.bytes;
        }
        if run.bytes >= run.ready_at {
            self.ready.insert(file);
        }
    }

    /// A full block, to be uploaded at once; to be called after [`add`](Self::add) until there is none.
    /// A file whose chunks fill one has it for itself. Files with less than an eighth of a block share
    /// one, and so do others when more than four blocks' bytes wait.
    pub fn full(&mut self) -> Option<Pack> {
        while let Some(file) = self.ready.pop_first() {
            let block_size = self.block_size;
            if self.sweep(file) >= block_size {
                return self.pack(&[file]);
            }
            if let Some(run) = self.runs.get_mut(&file) {
                run.ready_at = run.later(block_size);
            }
        }
        let (bytes, runs) = self.look_at;
        if self.total < bytes && self.runs.len() < runs {
            return None;
        }
        self.sweep_all();
        let short = |run: &Run| run.bytes < self.block_size / 8;
        let (short, bytes) = self.runs.iter().filter(|(_, run)| short(run)).fold(
            (Vec::new(), 0),
            |(mut files, bytes), (file, run)| {
                files.push(*file);
                (files, bytes + run.bytes)
            },
        );
        if bytes >= self.block_size {
            return self.pack(&short);
        }
        if self.total >= 4 * self.block_size {
            return self.pack(&self.longest_first());
        }
        self.look_at.0 = self.block_size.max(self.total + self.block_size / 8);
        self.look_at.1 = FEW_RUNS.max(2 * self.runs.len());
        None
    }

    /// The longest block that can be made now: for when memory is short, and none is full.
    pub fn longest(&mut self) -> Option<Pack> {
        self.sweep_all();
        self.pack(&self.longest_first())
    }

    /// All that is left, for a save.
    pub fn drain(&mut self) -> Vec<Pack> {
        self.sweep_all();
        self.look_at = (self.block_size, FEW_RUNS);
        let files: Vec<u64> = self.runs.keys().copied().collect();
        std::iter::from_fn(|| self.pack(&files)).collect()
    }

    /// How many bytes wait for a block; chunks that are gone may be counted for a while.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.total
    }

    /// Files, those first that have most bytes.
    fn longest_first(&self) -> Vec<u64> {
        let mut files: Vec<(u64, u64)> =
            self.runs.iter().map(|(file, run)| (run.bytes, *file)).collect();
        files.sort_unstable_by_key(|(bytes, file)| (u64::MAX - bytes, *file));
        files.into_iter().map(|(_, file)| file).collect()
    }

    fn sweep_all(&mut self) {
        let block_size = self.block_size;
        self.runs.retain(|_, run| !run.sweep(block_size).is_empty());
        self.total = self.runs.values().map(|run| run.bytes).sum();
    }

    /// Looks through one run; the bytes that are left.
    fn sweep(&mut self, file: u64) -> u64 {
        let Some(run) = self.runs.get_mut(&file) else { return 0 };
        let before = run.bytes;
        run.sweep(self.block_size);
        self.total -= before - run.bytes;
        run.bytes
    }

    /// A pack of the files' chunks, in that order, until it is full.
    fn pack(&mut self, files: &[u64]) -> Option<Pack> {
        let mut pack = Pack { chunks: Vec::new(), len: 0 };
        for file in files {
            let Some(run) = self.runs.get_mut(file) else { continue };
            let before = run.bytes;
            let chunks = run.sweep(self.block_size);
            let taken = chunks.iter().take_while(|chunk| pack.take(chunk, self.block_size)).count();
            run.set(&chunks[taken..], self.block_size);
            self.total -= before - run.bytes;
            if run.bytes >= self.block_size {
                self.ready.insert(*file);
            }
            if taken < chunks.len() {
                break;
            }
            self.runs.remove(file);
        }
        (!pack.chunks.is_empty()).then_some(pack)
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packer({} files, {} bytes)", self.runs.len(), self.total)
    }
}

/// A block to be uploaded: chunks in order. To be ended by [`stored`](Self::stored) or
/// [`failed`](Self::failed); dropped, it has failed, and its chunks are to be added to a packer again
/// ([`Contents::chunks`](super::Contents::chunks) has them).
pub struct Pack {
    chunks: Vec<(Arc<Chunk>, Bytes)>,
    len: u32,
}

impl Pack {
    /// The block's content, in parts.
    #[must_use]
    pub fn data(&self) -> Vec<Bytes> {
        self.chunks.iter().map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Its length in bytes: 1 to 64 MiB.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether a file shows any of it; otherwise it need not be uploaded.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.chunks.iter().any(|(chunk, _)| chunk.is_shown())
    }

    /// The block is stored. Its content has to be [`data`](Self::data): files that show the chunks read
    /// from it from now on. The chunks' buffers are released.
    pub fn stored(mut self, block: Arc<Locator>) {
        let mut offset = 0;
        for (chunk, _) in self.chunks.drain(..) {
            chunk.store(BlockRef::Own(Arc::clone(&block)), offset);
            offset += chunk.len();
        }
    }

    /// The block could not be stored. Answers the chunks that a file shows, to be added to the
    /// packer again.
    #[must_use]
    pub fn failed(mut self) -> Vec<Arc<Chunk>> {
        self.give_up()
    }

    fn give_up(&mut self) -> Vec<Arc<Chunk>> {
        let mut chunks: Vec<_> = self.chunks.drain(..).map(|(chunk, _)| chunk).collect();
        chunks.iter().for_each(|chunk| chunk.end_upload());
        chunks.retain(|chunk| chunk.is_shown());
        chunks
    }

    /// Takes in a chunk if there is room, or nothing yet. One that is in another pack meanwhile
    /// needs none.
    fn take(&mut self, chunk: &Arc<Chunk>, block_size: u64) -> bool {
        let fits = u64::from(self.len) + u64::from(chunk.len()) <= block_size;
        if !fits && !self.chunks.is_empty() {
            return false;
        }
        if let Some(bytes) = chunk.begin_upload() {
            self.len += chunk.len();
            self.chunks.push((Arc::clone(chunk), bytes));
        }
        true
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pack({} chunks, {} bytes)", self.chunks.len(), self.len)
    }
}
