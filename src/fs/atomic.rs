// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Times and periods that several threads may read and write.
//!
//! Atomic loads and stores without ordering with other memory: each value stands alone.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::attr::Timestamp;

/// A [`Timestamp`], kept in 64 bits: from 1677 to 2262, what is outside at the end nearest to it.
#[derive(Debug, Default)]
pub struct AtomicTimestamp(AtomicI64);

impl AtomicTimestamp {
    /// Begins as `value`.
    #[must_use]
    pub fn new(value: Timestamp) -> Self {
        AtomicTimestamp(AtomicI64::new(clamped(value)))
    }

    /// The value last stored.
    #[must_use]
    pub fn load(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed).into())
    }

    /// Replaces the value.
    pub fn store(&self, value: Timestamp) {
        self.0.store(clamped(value), Ordering::Relaxed);
    }
}

fn clamped(value: Timestamp) -> i64 {
    i64::try_from(value.0).unwrap_or(if value.0 < 0 { i64::MIN } else { i64::MAX })
}

/// A period in nanoseconds, of at most 584 years.
#[derive(Debug, Default)]
pub struct AtomicDuration(AtomicU64);

impl AtomicDuration {
    /// Begins as `value`.
    #[must_use]
    pub fn new(value: Duration) -> Self {
        AtomicDuration(AtomicU64::new(nanos(value)))
    }

    /// The value last stored.
    #[must_use]
    pub fn load(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Replaces the value.
    pub fn store(&self, value: Duration) {
        self.0.store(nanos(value), Ordering::Relaxed);
    }
}

fn nanos(value: Duration) -> u64 {
    u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
}
