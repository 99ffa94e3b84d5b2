// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A block that is to be written, as its writer gave it: in pieces that all who send, hash or keep
//! it share.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// Bytes that are sent at a time.
const FRAME: usize = 64 << 10;
/// Pieces of fewer bytes are put together before they are sent.
const SMALL: usize = 4 << 10;

/// The bytes of a block. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pieces {
    pieces: Arc<[Bytes]>,
    len: u64,
}

impl Pieces {
    pub(super) fn new(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Pieces { pieces: pieces.into(), len }
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn as_slice(&self) -> &[Bytes] {
        &self.pieces
    }

    /// From the first byte on.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { pieces: self.clone(), at: 0, offset: 0 }
    }
}

/// How far a block has been read by one of those who share it.
pub(super) struct Cursor {
    pieces: Pieces,
    at: usize,
    offset: usize,
}

impl Cursor {
    /// Bytes that are left of the piece.
    fn left(&self) -> usize {
        self.pieces.pieces.get(self.at).map_or(0, |piece| piece.len() - self.offset)
    }

    /// The next bytes of one piece, at most `most`; none at the end.
    fn slice(&mut self, most: usize) -> Bytes {
        let Some(piece) = self.pieces.pieces.get(self.at) else { return Bytes::new() };
        let end = piece.len().min(self.offset + most);
        let slice = piece.slice(self.offset..end);
        if end == piece.len() {
            (self.at, self.offset) = (self.at + 1, 0);
        } else {
            self.offset = end;
        }
        slice
    }

    /// The next `most` bytes, none of them copied; fewer at the end.
    fn part(&mut self, most: usize) -> Vec<Bytes> {
        let (mut part, mut gathered) = (Vec::new(), 0);
        while gathered < most && self.left() > 0 {
            let slice = self.slice(most - gathered);
            gathered += slice.len();
            part.push(slice);
        }
        part
    }

    /// All that is left, in such parts.
    pub(super) fn parts(&mut self, most: usize) -> impl Iterator<Item = Vec<Bytes>> {
        std::iter::from_fn(move || Some(self.part(most)).filter(|part| !part.is_empty()))
    }

    /// The next bytes to send; none at the end. Only where pieces are small they are copied.
    pub(super) fn frame(&mut self) -> Bytes {
        let first = self.slice(FRAME);
        if first.len() >= SMALL || !(1..SMALL).contains(&self.left()) {
            return first;
        }
        let mut joined = BytesMut::with_capacity(FRAME);
        joined.extend_from_slice(&first);
        while joined.len() < FRAME && (1..SMALL).contains(&self.left()) {
            let next = self.slice(FRAME - joined.len());
            joined.extend_from_slice(&next);
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_frames_are_the_bytes_in_order_and_no_more_at_a_time() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let sizes = [0, 1, 100, SMALL - 1, SMALL, FRAME, FRAME + 1, 3 * FRAME];
            let pieces: Vec<Bytes> = (0..random.usize(..20))
                .map(|_| {
                    let mut piece = vec![0; sizes[random.usize(..sizes.len())]];
                    random.fill(&mut piece);
                    piece.into()
                })
                .collect();
            let whole = pieces.concat();
            let pieces = Pieces::new(pieces);
            assert_eq!(pieces.len(), whole.len() as u64);
            let most = random.usize(1..100_000);
            let mut cursor = pieces.cursor();
            let parts: Vec<Vec<u8>> = cursor.parts(most).map(|part| part.concat()).collect();
            assert!(parts.concat() == whole);
            assert!(parts.iter().rev().skip(1).all(|part| part.len() == most));
            let mut cursor = pieces.cursor();
            let frames = std::iter::from_fn(|| Some(cursor.frame()).filter(|f| !f.is_empty()));
            let frames: Vec<Bytes> = frames.collect();
            assert!(frames.concat() == whole && frames.iter().all(|frame| frame.len() <= FRAME));
        }
        let small = Pieces::new(vec![Bytes::from_static(b"abc"); 100_000]);
        let mut cursor = small.cursor();
        assert_eq!(cursor.frame().len(), FRAME);
    }
}
