// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Bytes on their way into a block.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::blocks::{BlockRef, Piece};

/// The longest chunk, in bytes. It is what at most is copied at once, and what a block can lack to
/// be full.
pub(super) const MAX_CHUNK: usize = 1 << 20;

/// Bytes that are not stored yet, or were stored meanwhile: shared by all extents that show a part
/// of them. They never change; when they are stored, the buffer is released.
pub struct Chunk {
    len: u32,
    /// The file that it was written to, and where: what belongs together in a block.
    file: u64,
    position: u64,
    /// Bytes that extents show; more than `len` where some show the same.
    shown: AtomicU64,
    state: Mutex<State>,
    gauge: Option<Arc<Gauge>>,
}

enum State {
    /// For others to be put into a block with.
    Waiting(Bytes),
    /// In a pack.
    Uploading(Bytes),
    /// In a block, from that offset on.
    Stored(BlockRef, u32),
}

/// How many bytes of memory the buffers of chunks take: those of all files that count with it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The bytes at present.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Chunk {
    pub(super) fn new(
        bytes: Bytes,
        (file, position): (u64, u64),
        gauge: Option<Arc<Gauge>>,
    ) -> Arc<Self> {
        let len = bytes.len() as u32;
        if let Some(gauge) = &gauge {
            gauge.0.fetch_add(u64::from(len), Relaxed);
        }
        let state = Mutex::new(State::Waiting(bytes));
        Arc::new(Self { len, file, position, shown: AtomicU64::new(0), state, gauge })
    }

    /// Its length in bytes: 1 to 1 MiB.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Where it is stored: the block, and where it begins there. `None`: not yet.
    #[must_use]
    pub fn place(&self) -> Option<(BlockRef, u32)> {
        match &*self.state.lock() {
            State::Stored(block, offset) => Some((block.clone(), *offset)),
            _ => None,
        }
    }

    /// Whether it is stored.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(&*self.state.lock(), State::Stored(..))
    }

    /// Whether it is in a pack, which is neither stored nor failed.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        matches!(&*self.state.lock(), State::Uploading(_))
    }

    /// Whether a file shows any of it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.shown.load(Relaxed) > 0
    }

    /// The file that it was written to, by number, and where.
    pub(super) fn origin(&self) -> (u64, u64) {
        (self.file, self.position)
    }

    /// Whether more than a quarter of its buffer is not shown.
    pub(super) fn is_wasteful(&self) -> bool {
        self.shown.load(Relaxed) < u64::from(self.len - self.len / 4)
    }

    /// The bytes, unless they are stored or in a pack: what may be copied into another chunk
    /// without being uploaded twice.
    pub(super) fn waiting(&self) -> Option<Bytes> {
        match &*self.state.lock() {
            State::Waiting(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Whether [`waiting`](Self::waiting) would have the bytes.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&*self.state.lock(), State::Waiting(_))
    }

    pub(super) fn piece(&self, offset: u32, len: u32) -> Piece {
        match &*self.state.lock() {
            State::Waiting(bytes) | State::Uploading(bytes) => {
                Piece::Buffered(bytes.slice(offset as usize..(offset + len) as usize))
            }
            State::Stored(block, begin) => {
                Piece::Stored { block: block.clone(), offset: begin + offset, len }
            }
        }
    }

    pub(super) fn show(&self, len: u32) {
        self.shown.fetch_add(u64::from(len), Relaxed);
    }

    pub(super) fn hide(&self, len: u32) {
        self.shown.fetch_sub(u64::from(len), Relaxed);
    }

    /// Goes into a pack; `None` where it is in one already, or stored.
    pub(super) fn begin_upload(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        let State::Waiting(bytes) = &*state else { return None };
        let bytes = bytes.clone();
        *state = State::Uploading(bytes.clone());
        Some(bytes)
    }

    /// Its pack was not stored.
    pub(super) fn end_upload(&self) {
        let mut state = self.state.lock();
        if let State::Uploading(bytes) = &*state {
            *state = State::Waiting(bytes.clone());
        }
    }

    /// Its pack was stored.
    pub(super) fn store(&self, block: BlockRef, offset: u32) {
        let before = std::mem::replace(&mut *self.state.lock(), State::Stored(block, offset));
        if !matches!(before, State::Stored(..)) {
            self.released();
        }
    }

    fn released(&self) {
        if let Some(gauge) = &self.gauge {
            gauge.0.fetch_sub(u64::from(self.len), Relaxed);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if !matches!(self.state.get_mut(), State::Stored(..)) {
            self.released();
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shown.load(Relaxed);
        write!(f, "Chunk({} bytes, {shown} shown, at {:?})", self.len, self.place())
    }
}
