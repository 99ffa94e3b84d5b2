// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the SDK's Keep client counts, so that crunchstat and metrics can be fed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals since the client was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Blocks asked for, prefetches that went to a service included.
    pub gets: AtomicU64,
    /// Of these, answered from the cache or by a fetch that was already under way.
    pub hits: AtomicU64,
    /// Of these, fetched.
    pub misses: AtomicU64,
    /// Bytes of bodies received from services, wrong ones included.
    pub bytes_downloaded: AtomicU64,
    /// Bytes of cache files that were hashed before they were trusted. The SDK has no such count.
    pub bytes_verified: AtomicU64,
}

impl Counters {
    pub(super) fn hit(&self) {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn downloaded(&self, bytes: usize) {
        self.bytes_downloaded.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn verified(&self, bytes: usize) {
        self.bytes_verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
