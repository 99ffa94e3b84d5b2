// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Reading an open file of a mounted collection.
//!
//! What is at hand is answered at once, in the calling thread. What is not is fetched by the Keep
//! client, and answered from its threads when every block has arrived and was verified. Blocks
//! that a sequential reader will want are asked for ahead, by the file's own block list.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::snapshot::Snapshot;
use super::{CollectionNode, DraftFile, Drafted, Host, Resolved};
use crate::cluster_clock;
use crate::collection::draft::{BlockRef, Piece, Pieces};
use crate::collection::{self, BlockId, BlockRange, NodeId, Tree};
use crate::fs::any_node::AnyNode;
use crate::fs::errno::Refusal;
use crate::fs::node::{Deliver, Outcome, Read, Reader};
use crate::fs::read_data::{BlockSlice, PooledBuffer, ReadData};
use crate::keep::{Block, Failure, FilesAhead, KeepClient, KeepError, Priority, ReadAhead, Stale};
use crate::report::{phrases, report};
use crate::types::Locator;

/// How often a read is begun again because a cache file was changed under it.
const ATTEMPTS: u32 = 4;

/// An open file of a mounted collection.
pub struct FileReader<H> {
    entry: CollectionNode<H>,
    keep: Arc<KeepClient>,
    ahead: Mutex<Option<Ahead>>,
}

/// The block list of the version that is read, and how it is being read.
struct Ahead {
    snapshot: Arc<Snapshot>,
    /// Blocks in the file's order, each with the offset in the file at which it ends.
    list: Box<[(u64, BlockId)]>,
    state: ReadAhead,
    /// The reader came to the end.
    ended: bool,
}

impl<H: Host> FileReader<H> {
    /// A file that was just opened.
    #[must_use]
    pub fn new(entry: CollectionNode<H>, keep: Arc<KeepClient>) -> Self {
        FileReader { entry, keep, ahead: Mutex::default() }
    }

    /// Reads a version of a file of the draft.
    fn read_draft(&self, file: &DraftFile, offset: u64, size: u32) -> Read {
        let pieces = {
            let contents = file.contents.lock();
            let len = contents.len().saturating_sub(offset).min(u64::from(size));
            contents.pieces(offset, len)
        };
        let stored = pieces.iter().filter_map(|piece| match piece {
            Piece::Stored { block, .. } => Some((block.md5(), block.size())),
            Piece::Buffered(_) | Piece::Hole(_) => None,
        });
        let at_hand = stored.map(|(md5, size)| self.keep.at_hand(md5, size)).collect();
        if let Some(blocks) = at_hand
            && let Ok(data) = put_together(&pieces, blocks)
        {
            return Read::Now(data);
        }
        self.later(offset, pieces)
    }

    fn later(&self, offset: u64, pieces: Pieces) -> Read {
        let wanted = ReadRequest {
            entry: self.entry.clone(),
            keep: Arc::clone(&self.keep),
            offset,
            len: pieces.iter().map(Piece::len).sum(),
            pieces,
            attempts: ATTEMPTS,
            renewed: false,
        };
        Read::Later(Box::new(move |deliver| wanted.fetch(deliver)))
    }

    fn prefetch(&self, snapshot: &Arc<Snapshot>, file: NodeId, offset: u64, len: u64) {
        let tree = snapshot.tree();
        let mut ahead = self.ahead.lock();
        let ahead = match &mut *ahead {
            Some(ahead) if Arc::ptr_eq(&ahead.snapshot, snapshot) => ahead,
            other => {
                let (list, state) = (block_list(tree, file), ReadAhead::default());
                let snapshot = Arc::clone(snapshot);
                let ahead = other.insert(Ahead { snapshot, list, state, ended: false });
                if let Some((end, block)) = ahead.list.first().filter(|_| offset == 0) {
                    self.prefetch_files(&ahead.snapshot, file, *block, *end);
                }
                ahead
            }
        };
        if ahead.list.len() < 2 {
            return;
        }
        let last = ahead.list.partition_point(|(end, _)| *end < offset + len);
        if let [.., (begin, _), (end, block)] = &*ahead.list
            && last + 1 == ahead.list.len()
            && !std::mem::replace(&mut ahead.ended, true)
        {
            self.prefetch_files(snapshot, file, *block, end - begin);
        }
        let list = &ahead.list;
        let size_of = |at: usize| list.get(at).map(|(_, id)| u64::from(tree.block(*id).size));
        let room = || self.keep.room_ahead();
        for (_, block) in &ahead.list[ahead.state.on_read(offset, len, last, room, size_of)] {
            self.keep.prefetch(&tree.locator(*block));
        }
    }
}

impl<H: Host> FileReader<H> {
    /// Somebody begins to read a file, or comes to its end: so many bytes of it, in that block.
    fn prefetch_files(&self, snapshot: &Arc<Snapshot>, file: NodeId, block: BlockId, bytes: u64) {
        let tree = snapshot.tree();
        let size_of =
            |id| (id < tree.block_count() as u32).then(|| tree.block(BlockId(id)).size.into());
        let mut ahead = self.entry.collection().files_ahead.lock();
        if !std::ptr::eq(ahead.0.as_ptr(), Arc::as_ptr(snapshot)) {
            *ahead = (Arc::downgrade(snapshot), FilesAhead::default());
        }
        let room = || self.keep.room_ahead();
        let wanted = ahead.1.on_file(file.0, (block.0, bytes), room, size_of);
        drop(ahead);
        for id in wanted {
            self.keep.prefetch(&tree.locator(BlockId(id)));
        }
    }
}

fn block_list(tree: &Tree, file: NodeId) -> Box<[(u64, BlockId)]> {
    let mut list: Vec<(u64, BlockId)> = Vec::new();
    let mut end = 0;
    for range in tree.plan(file, 0, u64::MAX) {
        end += u64::from(range.len);
        match list.last_mut() {
            Some((until, block)) if *block == range.block => *until = end,
            _ => list.push((end, range.block)),
        }
    }
    list.into()
}

impl<H: Host> Reader for FileReader<H> {
    fn read(&self, offset: u64, size: u32) -> Outcome<Option<Read>> {
        let (snapshot, file) = match self.entry.resolve() {
            Resolved::Here(snapshot, file) => (snapshot, file),
            Resolved::Draft(Drafted::File(file)) => {
                return Ok(Some(self.read_draft(&file, offset, size)));
            }
            Resolved::Successor(AnyNode::Collection(moved)) => {
                return FileReader::new(moved, Arc::clone(&self.keep)).read(offset, size);
            }
            Resolved::Successor(AnyNode::Host(_)) => return Ok(None),
            Resolved::Draft(_) | Resolved::Gone => return Err(Refusal::NotFound.into()),
        };
        let tree = snapshot.tree();
        let len = tree.size(file).saturating_sub(offset).min(u64::from(size));
        if len == 0 {
            return Ok(Some(Read::Now(ReadData::Empty)));
        }
        self.prefetch(&snapshot, file, offset, len);
        let at_hand = |range: BlockRange| {
            let block = tree.block(range.block);
            self.keep.at_hand(block.md5, block.size).map(|block| (range, block))
        };
        let gathered: Option<Gathered> = tree.plan(file, offset, len).map(at_hand).collect();
        if let Some(gathered) = gathered
            && let Ok(data) = assemble(gathered)
        {
            return Ok(Some(Read::Now(data)));
        }
        Ok(Some(self.later(offset, pieces_of(tree, file, offset, len))))
    }
}

/// Pieces of a read with their blocks: one, or two where it crosses a block's end, in nearly all.
type Gathered = SmallVec<[(BlockRange, Block); 2]>;

/// The bytes of ranges, whose blocks these are.
fn assemble(mut gathered: Gathered) -> Result<ReadData, Stale> {
    if let [(range, block)] = &*gathered
        && block.as_slice().is_some()
    {
        let (offset, len) = (range.offset as usize, range.len as usize);
        let block = gathered.pop().map(|(_, block)| block).ok_or(Stale)?;
        return BlockSlice::new(block, offset, len).map(ReadData::Slice).ok_or(Stale);
    }
    let len = gathered.iter().map(|(range, _)| range.len as usize).sum();
    let mut buffer = PooledBuffer::take(len);
    let mut rest = buffer.bytes_mut();
    for (range, block) in &gathered {
        let (into, after) = rest.split_at_mut(range.len as usize);
        block.read_into(range.offset as usize, into)?;
        rest = after;
    }
    Ok(ReadData::Buffer(buffer))
}

/// The parts of a snapshot's file.
pub(super) fn pieces_of(tree: &Arc<Tree>, file: NodeId, offset: u64, len: u64) -> Pieces {
    tree.plan(file, offset, len)
        .map(|range| Piece::Stored {
            block: BlockRef::Tree(Arc::clone(tree), range.block),
            offset: range.offset,
            len: range.len,
        })
        .collect()
}

/// The same pieces; what was stored from here, and has a signature that ends soon, is the block that `tree`
/// has, if it does.
pub(super) fn renewed(pieces: Pieces, tree: &Arc<Tree>) -> Pieces {
    let is_renewed =
        |piece: &Piece| matches!(piece, Piece::Stored { block, .. } if is_own_and_ends(block));
    if !pieces.iter().any(is_renewed) {
        return pieces;
    }
    let ids = tree.block_ids();
    let renew = |mut piece: Piece| {
        if let Piece::Stored { block, .. } = &mut piece
            && is_own_and_ends(block)
            && let Some(id) = ids.get(&collection::Block { md5: block.md5(), size: block.size() })
        {
            *block = BlockRef::Tree(Arc::clone(tree), *id);
        }
        piece
    };
    pieces.into_iter().map(renew).collect()
}

/// The bytes of pieces: `blocks` are those of the stored ones, in their order.
fn put_together(pieces: &[Piece], blocks: Vec<Block>) -> Result<ReadData, Stale> {
    let len = pieces.iter().map(|piece| piece.len() as usize).sum();
    if len == 0 {
        return Ok(ReadData::Empty);
    }
    let mut blocks = blocks.into_iter();
    let mut buffer = PooledBuffer::take(len);
    let mut rest = buffer.bytes_mut();
    for piece in pieces {
        let (into, after) = rest.split_at_mut(piece.len() as usize);
        match piece {
            Piece::Stored { offset, .. } => {
                blocks.next().ok_or(Stale)?.read_into(*offset as usize, into)?;
            }
            Piece::Buffered(bytes) => into.copy_from_slice(bytes),
            Piece::Hole(_) => into.fill(0),
        }
        rest = after;
    }
    Ok(ReadData::Buffer(buffer))
}

/// A read that waits for blocks.
struct ReadRequest<H> {
    entry: CollectionNode<H>,
    keep: Arc<KeepClient>,
    offset: u64,
    len: u64,
    /// What that was when it was asked for.
    pieces: Pieces,
    attempts: u32,
    renewed: bool,
}

type Arrived = Box<dyn FnOnce(Result<Vec<Block>, KeepError>) + Send>;

/// Blocks on their way, and what is to be done when the last has arrived.
struct PendingRead {
    blocks: Vec<Option<Block>>,
    missing: usize,
    failed: Option<KeepError>,
    done: Option<Arrived>,
}

impl PendingRead {
    /// Block number `at` has arrived; answers what to do where it was the last.
    fn arrived(
        &mut self,
        at: usize,
        result: Result<Block, KeepError>,
    ) -> Option<impl FnOnce() + use<>> {
        match result {
            Ok(block) => self.blocks[at] = Some(block),
            Err(error) => self.failed = Some(error),
        }
        self.missing -= 1;
        if self.missing > 0 {
            return None;
        }
        let done = self.done.take()?;
        let blocks: Option<Vec<Block>> = std::mem::take(&mut self.blocks).into_iter().collect();
        let result = match (blocks, self.failed.take()) {
            (Some(blocks), None) => Ok(blocks),
            (_, Some(error)) => Err(error),
            // A block is missing only where an error was told.
            (None, None) => return None,
        };
        Some(move || done(result))
    }
}

impl<H: Host> ReadRequest<H> {
    fn fetch(mut self, deliver: Deliver) {
        // Looked up anew: meanwhile there may be a newer version, or newer signatures.
        let pieces = match self.entry.resolve() {
            Resolved::Successor(AnyNode::Collection(moved)) => {
                self.entry = moved;
                return self.fetch(deliver);
            }
            Resolved::Here(snapshot, file) => {
                pieces_of(snapshot.tree(), file, self.offset, self.len)
            }
            Resolved::Draft(Drafted::File(file)) => {
                let pieces = file.contents.lock().pieces(self.offset, self.len);
                renewed(pieces, self.entry.collection().snapshot().tree())
            }
            // Python has it by now, or it is gone.
            _ => self.pieces.clone(),
        };
        self.attempts -= 1;
        let stored = pieces.iter().filter_map(|piece| match piece {
            Piece::Stored { block, .. } => Some(block.locator()),
            Piece::Buffered(_) | Piece::Hole(_) => None,
        });
        let locators: Vec<Locator> = stored.collect();
        let expired = locators.iter().any(|locator| is_expired(locator.expires_at()));
        if locators.is_empty() {
            return self.arrived(&pieces, Ok(Vec::new()), expired, deliver);
        }
        let keep = Arc::clone(&self.keep);
        let pending = Arc::new(Mutex::new(PendingRead {
            blocks: vec![None; locators.len()],
            missing: locators.len(),
            failed: None,
            done: Some(Box::new(move |result| self.arrived(&pieces, result, expired, deliver))),
        }));
        for (at, locator) in locators.iter().enumerate() {
            let pending = Arc::clone(&pending);
            let waiter = Box::new(move |result| {
                let last = pending.lock().arrived(at, result);
                if let Some(done) = last {
                    done();
                }
            });
            keep.get(locator, Priority::Demand, waiter);
        }
    }

    fn arrived(
        mut self,
        pieces: &[Piece],
        result: Result<Vec<Block>, KeepError>,
        expired: bool,
        deliver: Deliver,
    ) {
        let error = match result {
            Ok(blocks) => match put_together(pieces, blocks) {
                Ok(data) => return deliver(Ok(data)),
                Err(Stale) if self.attempts > 0 => return self.fetch(deliver),
                Err(Stale) => {
                    let what = "a block's file in the cache is changed again and again";
                    report(log::Level::Error, &format!("{}: {what}", phrases::UNHANDLED));
                    return deliver(Err(Refusal::Unreadable.errno()));
                }
            },
            Err(error) => error,
        };
        let refused = error.failure() == Failure::Forbidden
            || (expired && error.failure() == Failure::NotFound);
        if !refused || self.renewed || self.attempts == 0 {
            error.report();
            return deliver(Err(Refusal::Unreadable.errno()));
        }
        self.renewed = true;
        let collection = Arc::clone(self.entry.collection());
        collection.renew(Box::new(move |renewed| {
            if renewed {
                self.fetch(deliver);
            } else {
                error.report();
                deliver(Err(Refusal::Unreadable.errno()));
            }
        }));
    }
}

/// For so many seconds a signature has to last that a server is shown: as long as a save may take.
const LASTING: u64 = 60;

fn is_expired(expires_at: Option<u64>) -> bool {
    expires_within(0, expires_at)
}

/// Whether a signature, which ends so many seconds after the epoch, is not worth showing to a server.
pub(super) fn expires_soon(expires_at: Option<u64>) -> bool {
    expires_within(LASTING, expires_at)
}

/// Whether a block was stored from here, and the signature that it got then ends soon.
pub(super) fn is_own_and_ends(block: &BlockRef) -> bool {
    matches!(block, BlockRef::Own(locator) if expires_soon(locator.expires_at()))
}

fn expires_within(seconds: u64, expires_at: Option<u64>) -> bool {
    expires_at.is_some_and(|at| at <= cluster_clock::now() + seconds)
}
