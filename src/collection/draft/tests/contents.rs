// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;

use bytes::Bytes;

use crate::collection::Tree;
use crate::collection::draft::{BlockRef, Contents, Gauge, MAX_LEN, Piece};

const MIB: usize = 1 << 20;

fn filled(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

/// The bytes of a file of which nothing is stored.
fn bytes(contents: &Contents) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in contents.pieces(0, u64::MAX) {
        match piece {
            Piece::Buffered(bytes) => all.extend_from_slice(&bytes),
            Piece::Hole(len) => all.resize(all.len() + len as usize, 0),
            Piece::Stored { .. } => panic!("nothing is stored"),
        }
    }
    all
}

fn counted() -> (Contents, Arc<Gauge>) {
    let gauge = Arc::new(Gauge::default());
    (Contents::empty().counted_by(&gauge), gauge)
}

#[test]
fn a_write_is_kept_as_it_is_and_a_split_shares_it() {
    let mut contents = Contents::empty();
    let data = filled(1, MIB);
    let chunks = contents.write(0, data.clone());
    assert_eq!((chunks.len(), chunks[0].len()), (1, 1 << 20));
    contents.write(1000, filled(2, 10));
    let pieces = contents.pieces(0, u64::MAX);
    let [Piece::Buffered(left), Piece::Buffered(_), Piece::Buffered(right)] = &*pieces else {
        panic!("{pieces:?}")
    };
    assert_eq!(left.as_ptr(), data.as_ptr());
    assert_eq!(right.as_ptr(), data[1010..].as_ptr());
    assert!(contents.pieces(500, 0).is_empty());
    assert_eq!(contents.copied_bytes(), 0);
    assert_eq!(contents.chunks().count(), 2);
    assert_eq!(contents.buffered_bytes(), 1 << 20);
}

#[test]
fn a_version_stays_as_it_was() {
    let mut contents = Contents::empty();
    contents.write(0, Bytes::from_static(b"before"));
    let pieces = contents.pieces(0, 6);
    contents.write(0, Bytes::from_static(b"after!"));
    contents.truncate(0);
    assert!(matches!(&*pieces, [Piece::Buffered(bytes)] if &**bytes == b"before"));
}

#[test]
fn holes_are_zeros_and_told_as_holes() {
    let mut contents = Contents::empty();
    contents.write(10, filled(1, 10));
    contents.truncate(30);
    contents.write(40, filled(2, 5));
    contents.punch_hole(12, 3);
    let holes: Vec<_> = contents.holes().collect();
    assert_eq!(holes, [0..10, 12..15, 20..40]);
    let expected = [&[0; 10][..], &[1; 2], &[0; 3], &[1; 5], &[0; 20], &[2; 5]].concat();
    assert_eq!(bytes(&contents), expected);
    assert_eq!(contents.next_data(0), Some(10));
    assert_eq!(contents.next_data(14), Some(15));
    assert_eq!(contents.next_hole(10), 12);
    assert_eq!(contents.next_hole(15), 20);
    assert_eq!(contents.next_hole(41), 45);
    assert_eq!((contents.next_data(45), contents.next_hole(100)), (None, 45));
    contents.punch_hole(0, u64::MAX);
    assert_eq!((contents.len(), contents.next_data(0)), (45, None));
    contents.zero_range(44, 6);
    assert_eq!(contents.len(), 50);
    assert!(contents.holes().eq(std::iter::once(0..50)));
}

#[test]
fn nothing_overflows_at_the_end_of_what_can_be_said() {
    let mut contents = Contents::empty();
    assert!(contents.write(u64::MAX, filled(1, 10)).is_empty());
    assert!(contents.write(MAX_LEN, filled(1, 10)).is_empty());
    assert_eq!(contents.len(), 0);
    assert_eq!(contents.write(MAX_LEN - 3, filled(1, 10))[0].len(), 3);
    assert_eq!(contents.len(), MAX_LEN);
    let rest = contents.copy_range(MAX_LEN - 5, u64::MAX);
    assert_eq!(rest.len(), 5);
    contents.splice(u64::MAX, rest.clone());
    contents.splice(MAX_LEN - 4, rest);
    assert!(
        matches!(&*contents.pieces(MAX_LEN - 4, u64::MAX), [Piece::Hole(2), Piece::Buffered(b)] if b.len() == 2)
    );
    contents.punch_hole(MAX_LEN - 1, u64::MAX);
    contents.zero_range(u64::MAX, u64::MAX);
    contents.truncate(u64::MAX);
    assert_eq!(contents.len(), MAX_LEN);
    assert!(contents.pieces(u64::MAX, u64::MAX).is_empty());
    assert_eq!(contents.next_hole(u64::MAX), MAX_LEN);
    assert!(contents.write(5, Bytes::new()).is_empty());
}

#[test]
fn a_file_of_a_snapshot_is_one_extent_and_its_blocks_are_read_through_it() {
    let (foo, bar) = ("acbd18db4cc2f85cedef654fccc4a4d8+3", "37b51d194a7513e45b56f6524f2d51f2+3");
    let text = format!(". {foo} {bar} 1:4:f 0:0:e 5:1:f 0:1:f\n");
    let tree = Arc::new(Tree::parse(&text).expect("well formed"));
    let file = tree.find("f").expect("there");
    let mut contents = Contents::of_tree(&tree, file);
    assert_eq!((contents.len(), contents.extent_count()), (6, 1));
    let places = |contents: &Contents| -> Vec<_> {
        let place = |piece| match piece {
            Piece::Stored { block: BlockRef::Tree(_, id), offset, len } => (id.0, offset, len),
            other => panic!("{other:?}"),
        };
        contents.pieces(0, u64::MAX).into_iter().map(place).collect()
    };
    // Neighbours in a block are one piece.
    assert_eq!(places(&contents), [(0, 1, 2), (1, 0, 3), (0, 0, 1)]);
    let head = contents.copy_range(1, 4);
    contents.truncate(4);
    contents.splice(0, head);
    assert_eq!(places(&contents), [(0, 2, 1), (1, 0, 3)]);
    assert_eq!(contents.buffered_bytes(), 0);
    assert!(Contents::of_tree(&tree, tree.find("e").expect("there")).is_empty());
}

#[test]
fn appends_of_a_byte_become_few_chunks_with_little_copying() {
    let count = 100_000;
    let (mut contents, gauge) = counted();
    let mut chunks = 0;
    for at in 0..count {
        chunks += contents.write(at, Bytes::from(vec![at as u8])).len();
    }
    assert!((0..count).eq(bytes(&contents).iter().scan(0u64, |at, byte| {
        let here = *at;
        *at += 1;
        (*byte == here as u8).then_some(here)
    })));
    assert!(contents.extent_count() < 2 * 32, "{} extents", contents.extent_count());
    assert_eq!(gauge.bytes(), count);
    // At most MERGED bytes for each 31 appends; half of that on average.
    assert!(contents.copied_bytes() < count * (128 << 10) / 31, "{}", contents.copied_bytes());
    // One for each write, and one for each row that became one.
    assert!(chunks as u64 <= count);
}

#[test]
fn large_writes_are_never_copied() {
    let mut contents = Contents::empty();
    for at in 0..100 {
        contents.write(at << 17, filled(at as u8, 1 << 17));
    }
    assert_eq!((contents.copied_bytes(), contents.extent_count()), (0, 100));
}

#[test]
fn rewriting_a_thousand_times_keeps_the_size_of_the_file() {
    let size = 256 << 10;
    let random = fastrand::Rng::with_seed(1);
    for most in [1usize, 100, 4096, 100_000] {
        let (mut contents, gauge) = counted();
        let mut random = random.clone();
        contents.write(0, filled(0, size));
        let (mut written, mut largest, mut calls) = (0, 0, 0u64);
        while written < 1000 * size && calls < 20_000 {
            let len = random.usize(1..=most);
            contents.write(random.u64(..(size - len) as u64), filled(1, len));
            written += len;
            calls += 1;
            largest = largest.max(gauge.bytes());
        }
        assert!(largest <= size as u64 * 4 / 3, "writes of up to {most}: {largest}");
        assert!(contents.extent_count() <= 4 * size / 4096, "{}", contents.extent_count());
        let bound = written as u64 * 4 + calls * (2 * (128 << 10) / 31 + (16 << 10));
        assert!(contents.copied_bytes() <= bound, "{} of {bound}", contents.copied_bytes());
    }
}

#[test]
fn little_that_is_left_of_a_chunk_does_not_keep_its_buffer() {
    let (mut contents, gauge) = counted();
    contents.write(0, filled(1, MIB));
    let made = contents.punch_hole(10, (1 << 20) - 20);
    // What is left is new, for the packer.
    assert_eq!(made.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [10, 10]);
    assert_eq!(gauge.bytes(), 20);
    drop(made);
    assert_eq!(contents.truncate(5).len(), 1);
    assert_eq!(gauge.bytes(), 5);
    contents.truncate(0);
    assert_eq!(gauge.bytes(), 0);
    // A write longer than a chunk has buffers that go one by one.
    let made = contents.write(0, filled(1, 3 * MIB + 1));
    let lens: Vec<_> = made.iter().map(|chunk| chunk.len()).collect();
    assert_eq!(lens, [1 << 20, 1 << 20, 1 << 20, 1]);
    drop(made);
    contents.truncate(1);
    assert_eq!(gauge.bytes(), 1);
    drop(contents);
    assert_eq!(gauge.bytes(), 0);
}

#[test]
fn a_copied_range_shares_its_chunks() {
    let (mut source, gauge) = counted();
    source.write(5, filled(1, MIB));
    let mut target = Contents::empty().counted_by(&gauge);
    target.write(0, filled(2, 100));
    // New is only what is left of the hundred bytes.
    assert_eq!(target.splice(10, source.copy_range(0, u64::MAX)).len(), 1);
    assert_eq!((target.len(), target.copied_bytes()), (MIB as u64 + 15, 10));
    assert_eq!(&bytes(&target)[8..17], [2, 2, 0, 0, 0, 0, 0, 1, 1]);
    let (all, little) = (source.copy_range(0, u64::MAX), source.copy_range(5, 10));
    assert_eq!((all.loose_bytes(), little.loose_bytes()), (0, 10));
    drop(all);
    // Little of a chunk is copied: it would keep the whole of it.
    assert_eq!(target.splice(0, source.copy_range(5, 10)).len(), 1);
    assert_eq!(target.copied_bytes(), 20);
    source.truncate(0);
    assert_eq!(target.buffered_bytes(), MIB as u64 + 10);
    assert_eq!(gauge.bytes(), MIB as u64 + 10);
}

#[test]
fn what_another_file_released_is_found_when_all_is_looked_through() {
    let (mut source, gauge) = counted();
    source.write(0, filled(1, MIB));
    let mut target = Contents::empty().counted_by(&gauge);
    target.splice(0, source.copy_range(0, 600_000));
    target.truncate(200_000);
    source.truncate(0);
    assert_eq!(gauge.bytes(), 1 << 20);
    assert_eq!(target.settle().len(), 1);
    assert_eq!(gauge.bytes(), 200_000);
    assert!(bytes(&target).iter().all(|byte| *byte == 1));
}

#[test]
fn small_writes_into_a_chunk_become_one_with_it() {
    let mut contents = Contents::empty();
    contents.write(0, filled(1, MIB));
    for at in 0..80u64 {
        contents.write(at * 3 * 4096, filled(2, 4096));
    }
    // Of 161 extents.
    assert!(contents.extent_count() < 60, "{}", contents.extent_count());
    assert!(contents.copied_bytes() < 2 << 20, "{}", contents.copied_bytes());
}

#[test]
fn scattered_writes_cost_the_logarithm() {
    let mut contents = Contents::empty();
    for at in 0..20_000u64 {
        contents.write(at * 7919 % 20_000 * 8192, filled(1, 4096));
    }
    assert_eq!((contents.extent_count(), contents.copied_bytes()), (20_000, 0));
    assert_eq!(contents.holes().count(), 19_999);
}
