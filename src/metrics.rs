// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Every number that a process tells of its mounts: [`TABLE`] says what there is.
//!
//! Whoever counts (a mount, a Keep client) has a group of its own from [`register`]. [`snapshot`]
//! reads the sum of all groups and takes nothing away, so that any number of readers see the same
//! totals; who wants differences keeps the snapshot before. What a group counted stays in the totals
//! when its owner is gone.
//!
//! Counting is one or two relaxed atomic additions: no lock, no allocation. Reading takes the lock
//! of the list of groups, which is a leaf. Two numbers of a snapshot may be apart by what was being
//! counted at that moment.

mod histogram;
mod op;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use histogram::{BOUNDS, BUCKETS, Histogram, HistogramValue};
pub use op::Op;

/// What a metric's number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// Durations by [`Op`]: how many, in which [`BOUNDS`], and their sum.
    Histogram,
}

impl Kind {
    /// The word for it, as in Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric as [`TABLE`] defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, as in Prometheus.
    pub name: &'static str,
    /// What its number does.
    pub kind: Kind,
    /// What its number counts.
    pub unit: &'static str,
    /// A sentence about it, without its full stop.
    pub help: &'static str,
}

/// A value in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a histogram: one for each of [`Op::ALL`], in that order.
    Operations(Vec<HistogramValue>),
}

/// The totals at one moment, by name: one for each row of [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, Value>);

impl Snapshot {
    fn empty() -> Self {
        let nothing = |row: &Description| match row.kind {
            Kind::Counter | Kind::Gauge => Value::Number(0),
            Kind::Histogram => Value::Operations(vec![HistogramValue::default(); Op::ALL.len()]),
        };
        Snapshot(TABLE.iter().map(|row| (row.name, nothing(row))).collect())
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    /// A counter or gauge by its name; 0 for any other name.
    #[must_use]
    pub fn number(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// How long requests of one kind took.
    #[must_use]
    pub fn operation(&self, op: Op) -> HistogramValue {
        match self.0.get(OPERATIONS) {
            Some(Value::Operations(by_op)) => by_op[op as usize],
            _ => HistogramValue::default(),
        }
    }

    fn number_mut(&mut self, name: &str) -> Option<&mut u64> {
        match self.0.get_mut(name) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }
}

/// Something that the table has a row for.
trait Metric: Default {
    const KIND: Kind;

    /// Adds its value to the total of that name.
    fn add_to(&self, totals: &mut Snapshot, name: &str);
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;

    fn add_to(&self, totals: &mut Snapshot, name: &str) {
        if let Some(total) = totals.number_mut(name) {
            *total = total.wrapping_add(self.get());
        }
    }
}

/// A number of what is there at the moment.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more, until what this returns is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub struct Held<'g>(&'g Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn add_to(&self, totals: &mut Snapshot, name: &str) {
        if let Some(total) = totals.number_mut(name) {
            *total += self.get();
        }
    }
}

/// A histogram for each of [`Op::ALL`].
#[derive(Debug)]
pub struct Operations([Histogram; Op::ALL.len()]);

impl Default for Operations {
    fn default() -> Self {
        Operations(std::array::from_fn(|_| Histogram::default()))
    }
}

impl Operations {
    /// Counts one `op` that took so long.
    pub fn observe(&self, op: Op, taken: Duration) {
        self.0[op as usize].observe(taken);
    }

    /// What was counted for `op`.
    #[must_use]
    pub fn get(&self, op: Op) -> HistogramValue {
        self.0[op as usize].get()
    }
}

impl Metric for Operations {
    const KIND: Kind = Kind::Histogram;

    fn add_to(&self, totals: &mut Snapshot, name: &str) {
        if let Some(Value::Operations(by_op)) = totals.0.get_mut(name) {
            for (total, histogram) in by_op.iter_mut().zip(&self.0) {
                *total += histogram.get();
            }
        }
    }
}

/// Metrics that have one owner.
pub trait Group: Default + Send + Sync + 'static {
    #[doc(hidden)]
    fn add_to(&self, totals: &mut Snapshot, only_lasting: bool);
}

macro_rules! metrics {
    ($($(#[$about:meta])* $group:ident {
        $($field:ident: $type:ident = $name:expr, $unit:literal, $help:literal;)*
    })*) => {
        /// Every metric.
        pub const TABLE: &[Description] = &[$($(Description {
            name: $name,
            kind: <$type as Metric>::KIND,
            unit: $unit,
            help: $help,
        },)*)*];

        $(
            $(#[$about])*
            #[derive(Debug, Default)]
            pub struct $group { $(#[doc = $help] pub $field: $type,)* }

            impl Group for $group {
                fn add_to(&self, totals: &mut Snapshot, only_lasting: bool) {
                    $(if !(only_lasting && <$type as Metric>::KIND == Kind::Gauge) {
                        Metric::add_to(&self.$field, totals, $name);
                    })*
                }
            }
        )*
    };
}

/// The name of the histogram of operations.
pub const OPERATIONS: &str = "arvmount_fuse_operations_seconds";

metrics! {
    /// What a mount counts.
    Mount {
        operations: Operations = OPERATIONS, "seconds",
            "Time spent during FUSE operations";
        read: Counter = "arvmount_read_bytes_total", "bytes",
            "Bytes that programs read from files";
        write: Counter = "arvmount_written_bytes_total", "bytes",
            "Bytes that programs wrote to files";
        read_ops: Counter = "arvmount_reads_total", "requests",
            "Read requests that were answered with data, or whose data was on its way";
        write_ops: Counter = "arvmount_writes_total", "requests",
            "Write requests that were carried out";
    }
    /// What a Keep client counts.
    Keep {
        gets: Counter = "arvmount_keep_gets_total", "blocks",
            "Blocks asked for, prefetches that went to a service included";
        hits: Counter = "arvmount_keep_hits_total", "blocks",
            "Of these, answered from the cache or by a fetch that was already under way";
        misses: Counter = "arvmount_keep_misses_total", "blocks",
            "Of these, fetched";
        bytes_downloaded: Counter = "arvmount_keep_received_bytes_total", "bytes",
            "Bytes of blocks received from services, wrong ones included";
        puts: Counter = "arvmount_keep_puts_total", "blocks",
            "Blocks to be written";
        bytes_uploaded: Counter = "arvmount_keep_sent_bytes_total", "bytes",
            "Bytes of blocks that services took, once for each service";
        bytes_verified: Counter = "arvmount_keep_verified_bytes_total", "bytes",
            "Bytes of cache files that were hashed before they were trusted";
        requests: Gauge = "arvmount_keep_requests", "requests",
            "Requests to services under way";
    }
}

thread_local! {
    /// Whether this thread runs a handler that [`Mount::time_handler`] counts.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

impl Mount {
    /// Runs `body` and counts it as one `op`.
    pub fn time<T>(&self, op: Op, body: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = body();
        self.operations.observe(op, begin.elapsed());
        result
    }

    /// As [`Mount::time`], for a request that is answered by calling something that may itself
    /// [`observe`]: the request counts once, whatever it calls.
    pub fn time_handler<T>(&self, op: Op, body: impl FnOnce() -> T) -> T {
        struct Restore(bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                COUNTED.set(self.0);
            }
        }
        self.time(op, || {
            let _restore = Restore(COUNTED.replace(true));
            body()
        })
    }
}

impl Keep {
    pub(crate) fn hit(&self) {
        self.gets.add(1);
        self.hits.add(1);
    }

    pub(crate) fn miss(&self) {
        self.gets.add(1);
        self.misses.add(1);
    }
}

/// Counts one `op`, which nobody's request was: what is called directly, or is no request at all.
/// Within a request that is counted already it counts nothing.
pub fn observe(op: Op, taken: Duration) {
    static DIRECT: LazyLock<Arc<Mount>> = LazyLock::new(register);
    if !COUNTED.get() {
        DIRECT.operations.observe(op, taken);
    }
}

trait AnyGroup: Send + Sync {
    fn add_to(&self, totals: &mut Snapshot, only_lasting: bool);
}

impl<G: Group> AnyGroup for G {
    fn add_to(&self, totals: &mut Snapshot, only_lasting: bool) {
        Group::add_to(self, totals, only_lasting);
    }
}

/// The groups of a process.
#[derive(Default)]
struct Registry {
    groups: Vec<Arc<dyn AnyGroup>>,
    /// What groups counted that nobody has any more.
    gone: Option<Snapshot>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { groups: Vec::new(), gone: None });

impl Registry {
    /// Takes over what was counted by groups that nobody else has any more.
    fn collect(&mut self) {
        let gone = self.gone.get_or_insert_with(Snapshot::empty);
        self.groups.retain_mut(|group| {
            // Whoever had it has counted before: `get_mut` sees that.
            let alone = Arc::get_mut(group).is_some();
            if alone {
                group.add_to(gone, true);
            }
            !alone
        });
    }

    fn register<G: Group>(&mut self) -> Arc<G> {
        self.collect();
        let group = Arc::new(G::default());
        self.groups.push(Arc::clone(&group) as Arc<dyn AnyGroup>);
        group
    }

    fn snapshot(&mut self) -> Snapshot {
        self.collect();
        let mut totals = self.gone.clone().unwrap_or_else(Snapshot::empty);
        for group in &self.groups {
            group.add_to(&mut totals, false);
        }
        totals
    }
}

/// A group that is in every [`snapshot`] from now on.
#[must_use]
pub fn register<G: Group>() -> Arc<G> {
    REGISTRY.lock().register()
}

/// The totals of the process.
#[must_use]
pub fn snapshot() -> Snapshot {
    REGISTRY.lock().snapshot()
}
