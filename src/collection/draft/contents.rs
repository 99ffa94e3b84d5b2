// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a file that is being written contains.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use smallvec::SmallVec;

use super::blocks::{BlockRef, Piece, Pieces};
use super::chunk::{Chunk, Gauge, MAX_CHUNK};
use super::extent::{Extent, Part};
use crate::collection::{NodeId, Tree};

/// The longest that a file can be, in bytes: what an offset of the kernel's can say. What would lie
/// past it is left out, without an error: the caller refuses such requests.
pub const MAX_LEN: u64 = i64::MAX as u64;

/// Fewer extents than this are not looked through for what could be one.
const FEW: usize = 1024;

/// What a file that is being written contains: extents by offset, and holes, which read as zeros.
///
/// Cloning copies the extents and no bytes. Buffers take at most 4/3 of the bytes that are shown of
/// them, and extents of chunks are 4 KiB on average: what is shown of a chunk is copied out of a
/// buffer of which more than a quarter is not, and small neighbours become one. Each call copies
/// a constant times what it writes or cuts off, and some KiB for each extent that it splits. Chunks
/// that are in a pack or stored are never copied.
///
/// Calls that change the file answer the chunks that are new, each to be added to the packer.
///
/// ```
/// use arvados_fuse::collection::draft::{Contents, Piece};
///
/// let mut contents = Contents::empty();
/// let chunks = contents.write(10, "data".into());
/// assert_eq!((contents.len(), chunks.len()), (14, 1));
/// let pieces = contents.pieces(8, 100);
/// assert!(matches!(&*pieces, [Piece::Hole(2), Piece::Buffered(data)] if &**data == b"data"));
/// assert_eq!((contents.next_data(0), contents.next_hole(10)), (Some(10), 14));
/// ```
#[derive(Clone)]
pub struct Contents {
    pub(super) extents: BTreeMap<u64, Extent>,
    len: u64,
    /// A number for the file, which no other has.
    id: u64,
    gauge: Option<Arc<Gauge>>,
    copied: u64,
    edits: u64,
    /// How many extents there are when they are next looked through.
    settle_at: usize,
}

/// A range of a file, to be put elsewhere: extents and holes, no bytes.
#[derive(Clone)]
pub struct Excerpt {
    len: u64,
    /// With where each begins in the range.
    extents: Vec<(u64, Extent)>,
}

impl Excerpt {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes of it [`Contents::splice`] copies, at most.
    #[must_use]
    pub fn loose_bytes(&self) -> u64 {
        let parts = self.extents.iter().filter_map(|(_, extent)| extent.part());
        parts.filter_map(Contents::loose).map(|bytes| bytes.len() as u64).sum()
    }
}

/// A chunk of which less is shown than before, and the range of the file in which the rest is.
pub(super) type Touched = SmallVec<[(Arc<Chunk>, Range<u64>); 2]>;

impl Contents {
    /// A file of no bytes.
    #[must_use]
    pub fn empty() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        Self {
            extents: BTreeMap::new(),
            len: 0,
            id,
            gauge: None,
            copied: 0,
            edits: id << 32,
            settle_at: FEW,
        }
    }

    /// What the file of a snapshot contains; nothing for a directory. Takes the same time whatever
    /// the file is.
    ///
    /// # Panics
    /// Where `file` is not of that tree.
    #[must_use]
    pub fn of_tree(tree: &Arc<Tree>, file: NodeId) -> Self {
        let mut contents = Self::empty();
        let len = tree.size(file);
        if len > 0 {
            let extent = Extent::Tree { tree: Arc::clone(tree), file, offset: 0, len };
            contents.extents.insert(0, extent);
        }
        contents.len = len;
        contents
    }

    /// Counts the buffers of what is written from now on with others'.
    #[must_use]
    pub fn counted_by(mut self, gauge: &Arc<Gauge>) -> Self {
        self.gauge = Some(Arc::clone(gauge));
        self
    }

    /// Length of the file in bytes, at most [`MAX_LEN`].
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `data` at `offset`, over what is there; past the end of the file, it leaves a hole.
    /// `data` is kept, not copied, up to 1 MiB: it should be all of its buffer.
    pub fn write(&mut self, offset: u64, data: Bytes) -> Vec<Arc<Chunk>> {
        let room = MAX_LEN.saturating_sub(offset).min(data.len() as u64);
        if room == 0 {
            return Vec::new();
        }
        let end = offset + room;
        self.edits += 1;
        let mut touched = self.cut(offset, end);
        let mut made = Vec::with_capacity(1);
        if room as usize <= MAX_CHUNK {
            made.push(self.put(offset, data.slice(..room as usize)));
        } else {
            // A buffer for each, so that each can be released.
            for (at, bytes) in
                (offset..).step_by(MAX_CHUNK).zip(data[..room as usize].chunks(MAX_CHUNK))
            {
                self.copied += bytes.len() as u64;
                made.push(self.put(at, Bytes::copy_from_slice(bytes)));
            }
        }
        self.len = self.len.max(end);
        self.merge_crowd(offset, &mut touched, &mut made);
        self.tidy(touched, made)
    }

    /// Cuts the file off at `len`, or extends it by a hole, up to [`MAX_LEN`].
    pub fn truncate(&mut self, len: u64) -> Vec<Arc<Chunk>> {
        let len = len.min(MAX_LEN);
        self.edits += 1;
        let touched = self.cut(len, self.len);
        self.len = len;
        self.tidy(touched, Vec::new())
    }

    /// Makes a hole of `len` bytes at `offset`. The file's length stays.
    pub fn punch_hole(&mut self, offset: u64, len: u64) -> Vec<Arc<Chunk>> {
        self.edits += 1;
        let touched = self.cut(offset, offset.saturating_add(len));
        self.tidy(touched, Vec::new())
    }

    /// Makes a hole of `len` bytes at `offset`, and the file so long that all of it is inside.
    pub fn zero_range(&mut self, offset: u64, len: u64) -> Vec<Arc<Chunk>> {
        let made = self.punch_hole(offset, len);
        if len > 0 {
            self.len = self.len.max(offset.saturating_add(len).min(MAX_LEN));
        }
        made
    }

    /// The same, but for the versions that it refers to: those can go.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut detached = Self::empty();
        detached.len = self.len;
        for (begin, extent) in &self.extents {
            let mut at = *begin;
            if let Extent::Chunk(_) = extent {
                detached.extents.insert(at, extent.clone().settled());
                continue;
            }
            let mut pieces = Pieces::new();
            extent.pieces(0, extent.len(), &mut pieces);
            for piece in pieces {
                let next = at + piece.len();
                if let Piece::Stored { block, offset, len } = piece {
                    let block = BlockRef::Own(Arc::new(block.locator()));
                    detached.extents.insert(at, Extent::Stored { block, offset, len });
                }
                at = next;
            }
        }
        detached
    }

    /// What `len` bytes from `offset` on are, in order; what lies past the end is left out. Stays
    /// right whatever happens to the file. Takes as long as the logarithm of the number of extents,
    /// and the pieces.
    #[must_use]
    pub fn pieces(&self, offset: u64, len: u64) -> Pieces {
        let end = offset.saturating_add(len).min(self.len);
        let mut pieces = Pieces::new();
        let mut at = offset;
        for (begin, skipped, taken, extent) in self.overlapping(offset, end) {
            if begin > at {
                Piece::Hole(begin - at).push_to(&mut pieces);
            }
            extent.pieces(skipped, taken, &mut pieces);
            at = begin + taken;
        }
        if at < end {
            Piece::Hole(end - at).push_to(&mut pieces);
        }
        pieces
    }

    /// The first byte from `offset` on that is in no hole; `None` if there is none.
    #[must_use]
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.overlapping(offset, self.len).next().map(|(begin, ..)| begin)
    }

    /// The first byte from `offset` on that is in a hole: at the latest the end of the file, which
    /// is the answer past it, too.
    #[must_use]
    pub fn next_hole(&self, offset: u64) -> u64 {
        let mut at = offset.min(self.len);
        for (begin, _, taken, _) in self.overlapping(offset, self.len) {
            if begin > at {
                break;
            }
            at = begin + taken;
        }
        at
    }

    /// The holes, in order. None is empty.
    pub fn holes(&self) -> impl Iterator<Item = Range<u64>> {
        let ends = self.extents.iter().map(|(at, extent)| (*at, at + extent.len()));
        ends.chain([(self.len, self.len)])
            .scan(0, |at, (begin, end)| Some(std::mem::replace(at, end)..begin))
            .filter(|hole| !hole.is_empty())
    }

    /// How many bytes of the file are not stored, holes not counted. Takes as long as there are
    /// extents; a [`Gauge`] knows at once.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        let parts = self.extents.values().filter_map(Extent::part);
        parts.filter(|part| !part.chunk().is_stored()).map(|part| u64::from(part.len())).sum()
    }

    /// The chunks that are not stored, each once, in order of the file.
    pub fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        let mut seen = HashSet::new();
        let chunks = self.extents.values().filter_map(|extent| Some(extent.part()?.chunk()));
        chunks.filter(move |chunk| !chunk.is_stored() && seen.insert(Arc::as_ptr(chunk)))
    }

    /// How many extents there are.
    #[must_use]
    pub fn extent_count(&self) -> usize {
        self.extents.len()
    }

    /// How many bytes were copied since the file was made.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied
    }

    /// A number for what it contains: another one than before tells that it was changed, and no other file's
    /// contents have had it, but those that this was cloned from.
    #[must_use]
    pub fn edits(&self) -> u64 {
        self.edits
    }

    /// What `len` bytes from `offset` on are, to be put elsewhere. What lies past the end is left
    /// out.
    #[must_use]
    pub fn copy_range(&self, offset: u64, len: u64) -> Excerpt {
        let end = offset.saturating_add(len).min(self.len);
        let extents = self
            .overlapping(offset, end)
            .map(|(begin, skipped, taken, extent)| (begin - offset, extent.slice(skipped, taken)))
            .collect();
        Excerpt { len: end.saturating_sub(offset), extents }
    }

    /// Puts an excerpt of this or another file at `offset`, over what is there. Its bytes are shared;
    /// copied is only a part of up to 128 KiB that shows less than half of its chunk, so that it does not
    /// keep the rest.
    pub fn splice(&mut self, offset: u64, excerpt: Excerpt) -> Vec<Arc<Chunk>> {
        let end = offset.saturating_add(excerpt.len).min(MAX_LEN);
        if excerpt.is_empty() || offset >= end {
            return Vec::new();
        }
        self.edits += 1;
        let touched = self.cut(offset, end);
        let mut made = Vec::new();
        for (at, extent) in excerpt.extents {
            let Some(at) = offset.checked_add(at).filter(|at| *at < end) else { break };
            let extent = extent.slice(0, extent.len().min(end - at));
            match extent.part().and_then(Self::loose) {
                Some(bytes) => made.push(self.copy(at, &[bytes])),
                None => drop(self.extents.insert(at, extent)),
            }
        }
        self.len = self.len.max(end);
        self.tidy(touched, made)
    }

    /// Looks through all extents: parts of stored chunks become parts of their blocks, neighbours
    /// in a block become one, and buffers of which others stopped to show a part are released. To be
    /// called after a save; happens by itself, too, when the extents have doubled. Takes as long as
    /// there are extents, and copies what is shown of such buffers.
    pub fn settle(&mut self) -> Vec<Arc<Chunk>> {
        let mut made = Vec::new();
        let mut settled: Vec<(u64, Extent)> = Vec::with_capacity(self.extents.len());
        for (at, extent) in std::mem::take(&mut self.extents) {
            let mut extent = extent.settled();
            if let Some(part) = extent.part().filter(|part| part.chunk().is_wasteful())
                && let Some(bytes) = part.waiting()
            {
                let chunk = self.copied_chunk(at, &[bytes]);
                extent = Extent::Chunk(Part::whole(Arc::clone(&chunk)));
                made.push(chunk);
            }
            let goes_on = settled
                .last_mut()
                .is_some_and(|(begin, last)| *begin + last.len() == at && last.extend(&extent));
            if !goes_on {
                settled.push((at, extent));
            }
        }
        self.extents = settled.into_iter().collect();
        self.settle_at = FEW.max(2 * self.extents.len());
        made
    }

    /// What there is between two offsets: where it begins, how much of the extent comes before, how
    /// much of it is meant, and the extent.
    pub(super) fn overlapping(
        &self,
        begin: u64,
        end: u64,
    ) -> impl Iterator<Item = (u64, u64, u64, &Extent)> {
        let before = self.extents.range(..=begin).next_back();
        let first = before.filter(|(at, extent)| *at + extent.len() > begin && begin < end);
        let first = first.map_or(begin, |(at, _)| *at);
        self.extents.range(first..end.max(first)).map(move |(at, extent)| {
            let from = begin.max(*at);
            (from, from - at, end.min(at + extent.len()) - from, extent)
        })
    }

    /// Takes out what is between two offsets.
    fn cut(&mut self, begin: u64, end: u64) -> Touched {
        let mut touched = Touched::new();
        if begin >= end {
            return touched;
        }
        let before = self.extents.range(..begin).next_back();
        if let Some((&at, extent)) = before
            && at + extent.len() > begin
        {
            let kept = extent.slice(0, begin - at);
            let until = at + extent.len();
            let rest = (until > end).then(|| extent.slice(end - at, until - end));
            let cut = self.extents.insert(at, kept);
            self.extents.extend(rest.map(|rest| (end, rest)));
            touch(&mut touched, at, cut);
        }
        while let Some((&at, extent)) = self.extents.range(begin..end).next() {
            let until = at + extent.len();
            let rest = (until > end).then(|| extent.slice(end - at, until - end));
            let cut = self.extents.remove(&at);
            self.extents.extend(rest.map(|rest| (end, rest)));
            touch(&mut touched, at, cut);
        }
        touched
    }

    /// A chunk of these bytes, shown at `offset`, where nothing is.
    fn put(&mut self, offset: u64, bytes: Bytes) -> Arc<Chunk> {
        let chunk = Chunk::new(bytes, (self.id, offset), self.gauge.clone());
        self.extents.insert(offset, Extent::Chunk(Part::whole(Arc::clone(&chunk))));
        chunk
    }

    /// A chunk of copies of these bytes, shown at `offset`, where nothing is.
    pub(super) fn copy(&mut self, offset: u64, bytes: &[Bytes]) -> Arc<Chunk> {
        let chunk = self.copied_chunk(offset, bytes);
        self.extents.insert(offset, Extent::Chunk(Part::whole(Arc::clone(&chunk))));
        chunk
    }

    fn copied_chunk(&mut self, offset: u64, bytes: &[Bytes]) -> Arc<Chunk> {
        let bytes = Bytes::from(bytes.concat());
        self.copied += bytes.len() as u64;
        Chunk::new(bytes, (self.id, offset), self.gauge.clone())
    }

    /// Ends a change: what of it are new chunks.
    fn tidy(&mut self, touched: Touched, mut made: Vec<Arc<Chunk>>) -> Vec<Arc<Chunk>> {
        for (chunk, window) in touched {
            self.compact(&chunk, window, &mut made);
        }
        if self.extents.len() >= self.settle_at {
            made.append(&mut self.settle());
        }
        made.retain(|chunk| chunk.is_shown());
        made
    }
}

/// Notes that an extent is no more, or shorter, where its chunk is still shown.
pub(super) fn touch(touched: &mut Touched, at: u64, extent: Option<Extent>) {
    let Some(Extent::Chunk(part)) = extent else { return };
    let chunk = Arc::clone(part.chunk());
    let begin = at.saturating_sub(u64::from(part.offset()));
    let end = at + u64::from(chunk.len() - part.offset());
    drop(part);
    if chunk.is_shown() && touched.last().is_none_or(|(last, _)| !Arc::ptr_eq(last, &chunk)) {
        touched.push((chunk, begin..end));
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("len", &self.len)
            .field("extents", &self.extents.len())
            .finish_non_exhaustive()
    }
}
