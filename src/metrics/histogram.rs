// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Durations, counted by powers of two.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a histogram. The last takes whatever is longer than [`BOUNDS`].
pub const BUCKETS: usize = 30;

/// 2^8 ns, what a request takes at least that finds everything at hand, is the end of the first
/// bucket; 2^36 ns, 69 seconds, the longest.
const FIRST: u32 = 8;

/// The longest duration, in nanoseconds, of each bucket but the last.
pub const BOUNDS: [u64; BUCKETS - 1] = {
    let mut bounds = [0; BUCKETS - 1];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = 1 << (FIRST as usize + at);
        at += 1;
    }
    bounds
};

/// How often something took how long. The count is exact, and so is the sum, to the nanosecond.
///
/// A duration is two additions: it is counted in its bucket, and the count is what is in all of them.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Histogram {
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

fn bucket_of(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.saturating_sub(1).leading_zeros();
    (bits.saturating_sub(FIRST) as usize).min(BUCKETS - 1)
}

impl Histogram {
    /// Counts one that took so long.
    pub fn observe(&self, taken: Duration) {
        let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn get(&self) -> HistogramValue {
        HistogramValue {
            nanos: self.nanos.load(Ordering::Relaxed),
            buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
        }
    }
}

/// What a [`Histogram`] had counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramValue {
    /// The sum of the durations, in nanoseconds.
    pub nanos: u64,
    /// How many durations each bucket has.
    pub buckets: [u64; BUCKETS],
}

impl HistogramValue {
    /// How many durations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, in seconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

impl AddAssign for HistogramValue {
    fn add_assign(&mut self, other: Self) {
        self.nanos = self.nanos.wrapping_add(other.nanos);
        for (mine, more) in self.buckets.iter_mut().zip(other.buckets) {
            *mine = mine.wrapping_add(more);
        }
    }
}
