// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The bound of the bytes that were written and are not stored yet: one for the whole process, where
//! nobody says otherwise.
//!
//! Who writes beyond it waits, without a thread, until others were stored. What holds the room is asked
//! to store it early.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use crate::collection::draft::Gauge;

/// The bound where nobody says otherwise, in bytes.
pub const DEFAULT_LIMIT: u64 = 256 << 20;

/// Called, once, when there may be room.
pub type Waiter = Box<dyn FnOnce() + Send>;

/// What has unsaved bytes.
pub trait Unsaved: Send + Sync {
    /// Has everything stored that is not, also what would fill no block.
    fn store_early(&self);
}

/// Counts the bytes, and knows who waits.
pub struct WriteBuffer {
    limit: AtomicU64,
    gauge: Arc<Gauge>,
    unsaved: Mutex<Vec<Weak<dyn Unsaved>>>,
    waiting: Mutex<VecDeque<Waiter>>,
    /// Blocks that are being stored.
    under_way: AtomicU64,
    /// The last that ended was not stored.
    failed: AtomicBool,
}

impl WriteBuffer {
    /// One of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        WriteBuffer {
            limit: AtomicU64::new(limit),
            gauge: Arc::default(),
            unsaved: Mutex::default(),
            waiting: Mutex::default(),
            under_way: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// The process's.
    #[must_use]
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: LazyLock<Arc<WriteBuffer>> =
            LazyLock::new(|| Arc::new(WriteBuffer::new(DEFAULT_LIMIT)));
        &SHARED
    }

    /// Sets the bound, in bytes.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.wake();
    }

    /// What counts the bytes of files.
    #[must_use]
    pub fn gauge(&self) -> &Arc<Gauge> {
        &self.gauge
    }

    /// Has `unsaved` asked when room is short.
    pub fn register(&self, unsaved: Weak<dyn Unsaved>) {
        let mut all = self.unsaved.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(unsaved);
    }

    /// Whether `len` bytes more are within the bound. What is larger than that fits where nothing else
    /// is.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        let used = self.gauge.bytes();
        used == 0 || used.saturating_add(len) <= self.limit.load(Ordering::Relaxed)
    }

    /// Calls `waiter` when there may be room for `len` bytes: at once where there is some now.
    pub fn when_room(&self, len: u64, waiter: Waiter) {
        self.waiting.lock().push_back(waiter);
        // Room that came just before was told to those who waited then.
        if self.has_room(len) {
            return self.wake();
        }
        for unsaved in self.unsaved() {
            // What one gives back may be enough.
            if self.waiting.lock().is_empty() {
                return;
            }
            unsaved.store_early();
        }
    }

    /// Asks all who have unsaved bytes to store them.
    pub fn store_early(&self) {
        for unsaved in self.unsaved() {
            unsaved.store_early();
        }
    }

    fn unsaved(&self) -> Vec<Arc<dyn Unsaved>> {
        self.unsaved.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// So many blocks more are being stored.
    pub fn begin(&self, blocks: u64) {
        self.under_way.fetch_add(blocks, Ordering::AcqRel);
    }

    /// A block was stored, or could not be.
    pub fn end(&self, is_stored: bool) {
        self.failed.store(!is_stored, Ordering::Release);
        self.under_way.fetch_sub(1, Ordering::AcqRel);
        self.wake();
    }

    /// Whether there is nothing to wait for: the last block could not be stored, and none is on its way.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0 && self.failed.load(Ordering::Acquire)
    }

    /// Tells those who wait that bytes came or went otherwise than by being stored: they look again.
    pub fn changed(&self) {
        let awaited = !self.waiting.lock().is_empty();
        if awaited {
            self.wake();
        }
    }

    /// Calls all who wait: something was stored, or cannot be.
    pub fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for waiter in waiting {
            waiter();
        }
    }
}

impl fmt::Debug for WriteBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.load(Ordering::Relaxed);
        write!(f, "WriteBuffer({} of {limit} bytes)", self.gauge.bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use bytes::Bytes;

    use super::{Unsaved, WriteBuffer};
    use crate::collection::draft::Contents;

    #[derive(Default)]
    struct Asked(AtomicUsize);

    impl Unsaved for Asked {
        fn store_early(&self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn who_finds_no_room_waits_until_others_give_it_back() {
        let buffer = WriteBuffer::new(10);
        let asked = Arc::new(Asked::default());
        buffer.register(Arc::downgrade(&asked) as _);
        assert!(buffer.has_room(100), "where nothing else is");
        let mut file = Contents::empty().counted_by(buffer.gauge());
        drop(file.write(0, Bytes::from_static(b"12345678")));
        assert!(buffer.has_room(2) && !buffer.has_room(3));
        let called = Arc::new(AtomicUsize::new(0));
        let waiter = || {
            let called = Arc::clone(&called);
            Box::new(move || {
                called.fetch_add(1, SeqCst);
            })
        };
        buffer.when_room(2, waiter());
        assert_eq!((called.load(SeqCst), asked.0.load(SeqCst)), (1, 0));
        buffer.when_room(3, waiter());
        assert_eq!((called.load(SeqCst), asked.0.load(SeqCst)), (1, 1));
        drop(file);
        assert_eq!(buffer.gauge().bytes(), 0);
        buffer.wake();
        assert_eq!(called.load(SeqCst), 2);
    }
}
