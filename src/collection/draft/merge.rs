// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Keeps chunks few and their buffers shown, at a cost that is bounded.
//!
//! - Crowd: `CROWD` neighbours in `MERGED` bytes or less become one chunk. A call adds two extents at
//!   most, so that it pays for copying at most 2/31 of 128 KiB.
//! - Waste: what is shown of a chunk is copied once less than 3/4 is: for each byte that was cut off,
//!   three are copied at most, and as much again of small chunks in between.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::chunk::{Chunk, MAX_CHUNK};
use super::contents::{Contents, Touched, touch};
use super::extent::{Extent, Part};

/// How many neighbours are too many.
const CROWD: usize = 32;
/// How long a chunk of them gets at most, in bytes. Writes of this length are left as they are.
const MERGED: u64 = 128 << 10;
/// A chunk below this length is taken into its neighbour's copy.
const SMALL: u32 = 16 << 10;

/// Neighbours to be copied into one chunk: where each begins, and its bytes.
#[derive(Default)]
struct Group {
    members: Vec<u64>,
    bytes: Vec<Bytes>,
    end: u64,
    len: usize,
    /// Whether it has a part of what is to be released.
    wanted: bool,
}

impl Group {
    fn add(&mut self, at: u64, bytes: Bytes, wanted: bool) {
        self.end = at + bytes.len() as u64;
        self.len += bytes.len();
        self.members.push(at);
        self.bytes.push(bytes);
        self.wanted |= wanted;
    }

    fn takes(&self, at: u64, bytes: &Bytes) -> bool {
        self.members.is_empty() || (self.end == at && self.len + bytes.len() <= MAX_CHUNK)
    }
}

impl Contents {
    /// A part that should not keep its chunk: its bytes, to be copied.
    pub(super) fn loose(part: &Part) -> Option<Bytes> {
        let few = u64::from(part.len()) <= MERGED && part.len() < part.chunk().len() / 2;
        if few { part.waiting() } else { None }
    }

    /// Makes one of many neighbours of what was written at `offset`.
    pub(super) fn merge_crowd(
        &mut self,
        offset: u64,
        touched: &mut Touched,
        made: &mut Vec<Arc<Chunk>>,
    ) {
        let Some(range) = self.crowd(offset) else { return };
        let mut groups = Vec::new();
        let mut group = Group::default();
        for (at, extent) in self.extents.range(range) {
            match extent.part().and_then(Part::waiting) {
                Some(bytes) => group.add(*at, bytes, true),
                None => groups.push(std::mem::take(&mut group)),
            }
        }
        groups.push(group);
        for group in groups.into_iter().filter(|group| group.members.len() >= CROWD / 2) {
            self.merge(group, touched, made);
        }
    }

    /// The longest row of neighbours around `offset`, of at most `MERGED` bytes, if it is a crowd.
    fn crowd(&self, offset: u64) -> Option<Range<u64>> {
        let (mut begin, mut end) = (offset, offset);
        let mut row: SmallVec<[(u64, u64); 2 * CROWD]> = SmallVec::new();
        for (at, extent) in self.extents.range(..offset).rev().take(CROWD) {
            if at + extent.len() != begin || extent.part().is_none() || offset - at > MERGED {
                break;
            }
            begin = *at;
            row.push((*at, extent.len()));
        }
        row.reverse();
        for (at, extent) in self.extents.range(offset..).take(CROWD) {
            if *at != end || extent.part().is_none() || at + extent.len() - offset > MERGED {
                break;
            }
            end = at + extent.len();
            row.push((*at, extent.len()));
        }
        let mut longest: &[(u64, u64)] = &[];
        let mut first = 0;
        for (last, (at, len)) in row.iter().enumerate() {
            while at + len - row[first].0 > MERGED {
                first += 1;
            }
            if last + 1 - first > longest.len() {
                longest = &row[first..=last];
            }
        }
        match longest {
            [(begin, _), .., (last, len)] if longest.len() >= CROWD => Some(*begin..last + len),
            _ => None,
        }
    }

    /// Copies what is shown of a chunk, if that is too little, out of its buffer, together with small
    /// chunks in between. `window`: where in the file the chunk is.
    pub(super) fn compact(
        &mut self,
        chunk: &Arc<Chunk>,
        window: Range<u64>,
        made: &mut Vec<Arc<Chunk>>,
    ) {
        if !chunk.is_wasteful() || !chunk.is_shown() || !chunk.is_waiting() {
            return;
        }
        let mut groups = Vec::new();
        let mut group = Group::default();
        for (at, extent) in self.extents.range(window) {
            let joins = |part: &&Part| {
                Arc::ptr_eq(part.chunk(), chunk) || (part.is_whole() && part.len() < SMALL)
            };
            let part = extent.part().filter(joins);
            let bytes = part.and_then(Part::waiting);
            let wanted = part.is_some_and(|part| Arc::ptr_eq(part.chunk(), chunk));
            if bytes.as_ref().is_none_or(|bytes| !group.takes(*at, bytes)) {
                groups.push(std::mem::take(&mut group));
            }
            if let Some(bytes) = bytes {
                group.add(*at, bytes, wanted);
            }
        }
        groups.push(group);
        let mut touched = Touched::new();
        for group in groups.into_iter().filter(|group| group.wanted) {
            self.merge(group, &mut touched, made);
        }
    }

    /// Copies neighbours into one chunk.
    fn merge(&mut self, group: Group, touched: &mut Touched, made: &mut Vec<Arc<Chunk>>) {
        let Some(first) = group.members.first().copied() else { return };
        for at in group.members {
            let extent: Option<Extent> = self.extents.remove(&at);
            touch(touched, at, extent);
        }
        made.push(self.copy(first, &group.bytes));
    }
}
