// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The inode cache: marking an entry as used, which every request does, whatever it holds.

use std::hint::black_box;

use arvados_fuse::fs::cache::InodeCache;
use criterion::{BenchmarkId, Criterion};

use crate::node::Weight;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lru_touch");
    for entries in [100_u64, 10_000, 1_000_000] {
        let cache = InodeCache::new(i64::MAX, 0);
        for inode in 1..=entries {
            assert!(cache.update(&Weight { inode, bytes: 1000 }).is_ok());
        }
        // A walk that meets every entry, so that the one touched is seldom the newest.
        let (mut at, step) = (0, (entries * 618 / 1000) | 1);
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter(|| {
                at = (at + step) % entries;
                let node = Weight { inode: at + 1, bytes: 1000 };
                assert!(matches!(cache.touch(black_box(&node)), Ok(true)));
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("lru_oldest");
    for entries in [100_u64, 1_000_000] {
        let cache = InodeCache::new(i64::MAX, 0);
        for inode in 1..=entries {
            assert!(cache.update(&Weight { inode, bytes: 1000 }).is_ok());
        }
        // What an eviction asks for; must not depend on how many are live.
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            bencher.iter(|| black_box(cache.oldest(0, black_box(16))));
        });
    }
    group.finish();
}
