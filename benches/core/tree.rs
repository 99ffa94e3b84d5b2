// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection: reading its manifest, finding a path in it, planning a read.

use std::fmt::Write;
use std::hint::black_box;

use arvados_fuse::collection::{NodeId, Tree};
use criterion::{BenchmarkId, Criterion, Throughput};

const BLOCK: &str = "0123456789abcdef0123456789abcdef+67108864";

/// So many files of 4 KiB, a thousand a directory: 14 bytes of manifest a file.
fn flat(files: u64) -> String {
    let mut text = String::new();
    for first in (0..files).step_by(1000) {
        let _ = write!(text, "./d{:04} {BLOCK}", first / 1000);
        for file in first..files.min(first + 1000) {
            let _ = write!(text, " {}:4096:f{:05}", file % 1000 * 4096, file % 100_000);
        }
        text.push('\n');
    }
    text
}

/// One file of so many segments, in the order opposite to that of the blocks.
fn segmented(segments: u64) -> String {
    let mut text = String::from(".");
    for _ in 0..segments.div_ceil(1 << 14) {
        let _ = write!(text, " {BLOCK}");
    }
    for segment in (0..segments).rev() {
        let _ = write!(text, " {}:4096:file", segment * 4096);
    }
    text.push('\n');
    text
}

fn tree(text: &str) -> Tree {
    Tree::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest_parse");
    group.sample_size(20);
    for files in [1_000, 10_000, 100_000] {
        let text = flat(files);
        group.throughput(Throughput::Elements(files));
        group.bench_function(BenchmarkId::from_parameter(files), |bencher| {
            bencher.iter(|| tree(black_box(&text)));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("path_lookup");
    for files in [1_000, 100_000, 1_000_000] {
        let tree = tree(&flat(files));
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(files), |bencher| {
            bencher.iter_batched(
                || {
                    at = (at + 618_033) % files;
                    format!("d{:04}/f{:05}", at / 1000, at % 100_000)
                },
                |path| assert!(tree.find(black_box(&path)).is_some()),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("segment_planning");
    for segments in [1, 1_000, 100_000] {
        let tree = tree(&segmented(segments));
        let file = tree.child(NodeId::ROOT, "file").unwrap_or(NodeId::ROOT);
        let mut at = 0;
        // 128 KiB, as the kernel reads ahead.
        group.bench_function(BenchmarkId::from_parameter(segments), |bencher| {
            bencher.iter(|| {
                at = (at + 618_033) % tree.size(file);
                tree.plan(file, black_box(at), 1 << 17)
                    .map(|range| u64::from(range.len))
                    .sum::<u64>()
            });
        });
    }
    group.finish();
}
