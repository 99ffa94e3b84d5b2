// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::histogram::{BOUNDS, BUCKETS, Histogram};
use super::{Keep, Kind, Mount, Op, Registry, Snapshot, TABLE};

fn registry() -> Registry {
    Registry::default()
}

#[test]
fn each_metric_is_defined_once() {
    let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), TABLE.len());
    let snapshot: Vec<_> = Snapshot::empty().iter().map(|(name, _)| name).collect();
    assert_eq!(snapshot, names.into_iter().collect::<Vec<_>>());
    for row in TABLE {
        assert!(row.name.starts_with("arvmount_") && !row.unit.is_empty(), "{}", row.name);
        assert!(!row.help.is_empty() && !row.help.ends_with('.'), "{}", row.name);
        assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
    }
}

#[test]
fn names_lead_to_their_own_operation() {
    for (number, op) in Op::ALL.iter().enumerate() {
        assert_eq!((*op as usize, Op::named(op.name())), (number, Some(*op)));
    }
    assert_eq!(Op::named("no_such"), None);
    assert!(Op::REQUESTS.contains(&Op::Write) && !Op::REQUESTS.contains(&Op::OnEvent));
}

#[test]
fn a_bucket_has_what_is_no_longer_than_its_bound() {
    assert_eq!((BOUNDS[0], BOUNDS[BUCKETS - 2]), (256, 1 << 36));
    for (at, bound) in BOUNDS.into_iter().enumerate() {
        for (nanos, bucket) in [(bound, at), (bound + 1, at + 1)] {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(nanos));
            assert_eq!(histogram.get().buckets[bucket], 1, "{nanos} ns");
        }
    }
    let histogram = Histogram::default();
    histogram.observe(Duration::ZERO);
    histogram.observe(Duration::from_secs(1000));
    let value = histogram.get();
    assert_eq!((value.buckets[0], value.buckets[BUCKETS - 1]), (1, 1));
}

#[test]
fn count_and_sum_are_exact_from_several_threads() {
    const EACH: u64 = 10_000;
    let histogram = Histogram::default();
    std::thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let histogram = &histogram;
            scope.spawn(move || {
                for taken in 0..EACH {
                    histogram.observe(Duration::from_nanos(taken * thread));
                }
            });
        }
    });
    let value = histogram.get();
    assert_eq!(value.count(), 4 * EACH);
    assert_eq!(value.nanos, (1 + 2 + 3 + 4) * EACH * (EACH - 1) / 2);
    assert!((value.seconds() * 1e9 - value.nanos as f64).abs() < 1.0);
}

#[test]
fn a_snapshot_takes_nothing_away() {
    let mut registry = registry();
    let mount = registry.register::<Mount>();
    mount.time(Op::Lookup, || ());
    mount.read.add(5);
    let first = registry.snapshot();
    assert_eq!(registry.snapshot(), first);
    assert_eq!(first.number("arvmount_read_bytes_total"), 5);
    assert_eq!((first.operation(Op::Lookup).count(), first.operation(Op::Open).count()), (1, 0));
    mount.time(Op::Lookup, || ());
    assert_eq!(registry.snapshot().operation(Op::Lookup).count(), 2);
    assert_eq!(first.operation(Op::Lookup).count(), 1);
}

#[test]
fn totals_are_of_all_groups_and_stay_when_one_is_gone() {
    let mut registry = registry();
    let (one, other) = (registry.register::<Mount>(), registry.register::<Mount>());
    let keep = registry.register::<Keep>();
    for mount in [&one, &other] {
        mount.time(Op::Read, || ());
        mount.read_ops.add(1);
    }
    keep.hit();
    keep.miss();
    let held = keep.requests.hold();
    let before = registry.snapshot();
    assert_eq!(before.operation(Op::Read).count(), 2);
    assert_eq!(before.number("arvmount_reads_total"), 2);
    assert_eq!(before.number("arvmount_keep_gets_total"), 2);
    assert_eq!(before.number("arvmount_keep_requests"), 1);
    drop(held);
    // Somebody else may still count for the mount.
    let still = Arc::clone(&other);
    drop((one, other, keep));
    still.time(Op::Read, || ());
    drop(still);
    let after = registry.snapshot();
    assert_eq!(after.operation(Op::Read).count(), 3);
    assert_eq!(after.number("arvmount_reads_total"), 2);
    assert_eq!(after.number("arvmount_keep_hits_total"), 1);
    assert_eq!(after.number("arvmount_keep_requests"), 0);
    assert!(registry.groups.is_empty());
}

#[test]
fn a_request_counts_once_whatever_it_calls() {
    // The totals of the process: of an operation that no other test here has.
    let op = Op::Removexattr;
    let before = super::snapshot().operation(op).count();
    let mount = super::register::<Mount>();
    mount.time_handler(op, || {
        mount.time_handler(Op::Link, || ());
        super::observe(op, Duration::from_nanos(1));
    });
    assert_eq!(mount.operations.get(op).count(), 1);
    assert_eq!(super::snapshot().operation(op).count(), before + 1);
    super::observe(op, Duration::from_nanos(1));
    assert_eq!(super::snapshot().operation(op).count(), before + 2);
}
