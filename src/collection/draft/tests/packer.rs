// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;

use bytes::Bytes;

use crate::collection::draft::{BlockRef, Contents, Gauge, Pack, Packer, Piece};
use crate::types::{Locator, Md5};

const KIB: usize = 1 << 10;

fn filled(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

fn write(packer: &mut Packer, contents: &mut Contents, offset: usize, data: Bytes) {
    contents.write(offset as u64, data).into_iter().for_each(|chunk| packer.add(chunk));
}

fn store(pack: Pack) -> String {
    let data = pack.data().concat();
    assert_eq!(data.len(), pack.len() as usize);
    let locator = format!("{}+{}", Md5::of(&data), data.len());
    pack.stored(Arc::new(locator.parse::<Locator>().expect("a locator")));
    locator
}

/// The blocks of a file, each with where its bytes are there.
fn places(contents: &Contents) -> Vec<(String, u32, u32)> {
    let place = |piece| match piece {
        Piece::Stored { block: BlockRef::Own(locator), offset, len } => {
            (locator.to_string(), offset, len)
        }
        other => panic!("{other:?}"),
    };
    contents.pieces(0, u64::MAX).into_iter().map(place).collect()
}

#[test]
fn a_large_file_fills_blocks_of_its_own_while_another_is_written() {
    let mut packer = Packer::with_block_size(1 << 20);
    let (mut a, mut b, mut small) = (Contents::empty(), Contents::empty(), Contents::empty());
    let mut blocks = Vec::new();
    write(&mut packer, &mut small, 0, filled(3, 100));
    for at in 0..16 {
        write(&mut packer, &mut a, at * 128 * KIB, filled(1, 128 * KIB));
        write(&mut packer, &mut b, at * 128 * KIB, filled(2, 128 * KIB));
        while let Some(pack) = packer.full() {
            assert_eq!(pack.len(), 1 << 20);
            blocks.push(store(pack));
        }
    }
    assert_eq!(blocks.len(), 4);
    assert_eq!(places(&a), [(blocks[0].clone(), 0, 1 << 20), (blocks[2].clone(), 0, 1 << 20)]);
    assert_eq!(places(&b), [(blocks[1].clone(), 0, 1 << 20), (blocks[3].clone(), 0, 1 << 20)]);
    assert_eq!((small.buffered_bytes(), packer.bytes()), (100, 100));
}

#[test]
fn small_files_share_a_block_in_their_order() {
    let mut packer = Packer::with_block_size(1 << 20);
    let mut files: Vec<_> = (0..300).map(|_| Contents::empty()).collect();
    let mut blocks = Vec::new();
    for (n, file) in files.iter_mut().enumerate() {
        // Written back to front.
        write(&mut packer, file, 2 * KIB, filled(n as u8, 2 * KIB));
        write(&mut packer, file, 0, filled(n as u8, 2 * KIB));
        blocks.extend(packer.full().map(store));
    }
    assert_eq!(blocks.len(), 1);
    let rest = packer.drain();
    assert_eq!(rest.iter().map(Pack::len).collect::<Vec<_>>(), [(1200 - 1024) << 10]);
    blocks.extend(rest.into_iter().map(store));
    for (n, file) in files.iter().enumerate() {
        let (block, n) = (blocks[n / 256].clone(), n as u32 % 256);
        assert_eq!(places(file), [(block, n * 4096, 4096)]);
    }
    assert!(packer.drain().is_empty() && packer.bytes() == 0);
}

#[test]
fn many_files_of_medium_size_do_not_wait_for_ever() {
    let mut packer = Packer::with_block_size(1 << 20);
    let mut files: Vec<_> = (0..10).map(|_| Contents::empty()).collect();
    let mut packs = Vec::new();
    for at in 0..4 {
        for file in &mut files {
            write(&mut packer, file, at * 128 * KIB, filled(1, 128 * KIB));
            packs.extend(packer.full());
            assert!(packer.bytes() <= 4 << 20);
        }
    }
    assert!(!packs.is_empty());
    assert!(packs.iter().all(|pack| pack.len() == 1 << 20));
    // Short of memory: what is most.
    let left = packer.bytes();
    assert!(packer.longest().is_some_and(|pack| pack.len() >= 1 << 19));
    assert!(packer.bytes() < left);
}

#[test]
fn what_was_overwritten_is_not_uploaded() {
    let mut packer = Packer::new();
    let mut contents = Contents::empty();
    for byte in 0..200 {
        write(&mut packer, &mut contents, 0, filled(byte, 1 << 20));
        assert!(packer.full().is_none());
    }
    write(&mut packer, &mut Contents::empty(), 0, filled(1, 1 << 20));
    let packs = packer.drain();
    assert_eq!(packs.iter().map(Pack::data).collect::<Vec<_>>(), [[filled(199, 1 << 20)]]);
    // What is overwritten afterwards need not be.
    contents.truncate(0);
    assert!(packs.iter().all(|pack| !pack.is_shown()));
}

#[test]
fn chunks_that_are_gone_take_no_memory() {
    let mut packer = Packer::new();
    let mut contents = Contents::empty();
    for _ in 0..10_000 {
        write(&mut packer, &mut contents, 0, filled(1, 10));
        write(&mut packer, &mut Contents::empty(), 0, filled(1, 10));
        let _ = packer.full();
    }
    assert!(packer.bytes() < 64 * 10 + 1024 * 10, "{packer:?}");
}

#[test]
fn a_stored_chunk_is_read_from_its_block_wherever_it_is_shown() {
    let gauge = Arc::new(Gauge::default());
    let mut packer = Packer::new();
    let mut a = Contents::empty().counted_by(&gauge);
    let mut b = Contents::empty();
    for at in 0..3 {
        write(&mut packer, &mut a, at * 200 * KIB, filled(at as u8, 200 * KIB));
    }
    b.splice(0, a.copy_range(100, 500 * 1024));
    let version = a.pieces(0, 10);
    let [pack] = packer.drain().try_into().expect("one");
    // Changed while it is uploaded: nothing of what is in the pack is copied.
    write(&mut packer, &mut a, 0, filled(9, 150 * KIB));
    assert_eq!(a.copied_bytes(), 0);
    let block = store(pack);
    assert_eq!(places(&b), [(block.clone(), 100, 500 << 10)]);
    assert_eq!(a.extent_count(), 4);
    assert_eq!(a.buffered_bytes(), 150 << 10);
    assert_eq!(gauge.bytes(), 150 << 10);
    assert!(matches!(&version[0], Piece::Buffered(bytes) if bytes.len() == 10));
    packer.drain().into_iter().for_each(|pack| drop(store(pack)));
    assert_eq!(places(&a)[1..], [(block.clone(), 150 << 10, 450 << 10)]);
    assert!(a.settle().is_empty());
    assert_eq!((a.extent_count(), gauge.bytes()), (2, 0));
    assert_eq!(places(&a)[1..], [(block, 150 << 10, 450 << 10)]);
}

#[test]
fn what_is_uploaded_is_not_copied() {
    let mut packer = Packer::new();
    let mut contents = Contents::empty();
    write(&mut packer, &mut contents, 0, filled(1, 200 * KIB));
    for at in 0..20 {
        write(&mut packer, &mut contents, 200 * KIB + at, filled(2, 1));
    }
    let packs = packer.drain();
    // Neither because little of it is shown, nor because it is one of many.
    contents.punch_hole(100, 150 << 10);
    for at in 20..32 {
        write(&mut packer, &mut contents, 200 * KIB + at, filled(2, 1));
    }
    assert_eq!(contents.copied_bytes(), 0);
    assert_eq!(contents.chunks().filter(|chunk| chunk.is_uploading()).count(), 21);
    packs.into_iter().for_each(|pack| drop(store(pack)));
    contents.punch_hole(0, 50);
    assert_eq!(contents.buffered_bytes(), 12);
}

#[test]
fn extents_of_a_block_become_one_by_themselves() {
    let mut packer = Packer::new();
    let mut contents = Contents::empty();
    // Two rows that meet in the block, not in the file, when each part is written.
    let parts = (0..4000).map(|at| 2 * at).chain((0..4000).map(|at| 2 * at + 1));
    for at in parts {
        write(&mut packer, &mut contents, at * 8 * KIB, filled(1, 8 * KIB));
    }
    packer.drain().into_iter().for_each(|pack| drop(store(pack)));
    assert_eq!(contents.extent_count(), 8000);
    for at in 0..300 {
        write(&mut packer, &mut contents, (8000 + 2 * at) * 8 * KIB, filled(1, 8 * KIB));
    }
    assert!(contents.extent_count() < 400, "{}", contents.extent_count());
}

#[test]
fn a_chunk_that_something_else_keeps_is_not_uploaded_for_it() {
    let mut packer = Packer::with_block_size(1 << 20);
    let mut contents = Contents::empty();
    let kept = contents.write(0, filled(1, 1 << 20));
    packer.add(Arc::clone(&kept[0]));
    contents.truncate(0);
    assert!(packer.drain().is_empty());
    // Nor does one in another's pack fill a block.
    let mut other = Packer::with_block_size(1 << 20);
    let uploading = contents.write(0, filled(1, 1 << 20));
    packer.add(Arc::clone(&uploading[0]));
    other.add(Arc::clone(&uploading[0]));
    let _pack = packer.drain();
    write(&mut other, &mut contents, 1 << 20, filled(1, 10));
    assert!(other.full().is_none());
    assert_eq!(other.bytes(), 10);
}

#[test]
fn a_block_that_failed_is_made_again() {
    let mut packer = Packer::new();
    let mut contents = Contents::empty();
    write(&mut packer, &mut contents, 0, filled(1, 10));
    write(&mut packer, &mut contents, 10, filled(2, 10));
    let [pack] = packer.drain().try_into().expect("one");
    assert!(packer.drain().is_empty());
    contents.truncate(10);
    let again = pack.failed();
    assert_eq!(again.len(), 1);
    again.into_iter().for_each(|chunk| packer.add(chunk));
    let [pack] = packer.drain().try_into().expect("one");
    assert_eq!(pack.data(), [filled(1, 10)]);
    // Dropped, it failed as well. A chunk that was added twice is uploaded once.
    assert!(contents.chunks().all(|chunk| chunk.is_uploading()));
    drop(pack);
    for chunk in contents.chunks().chain(contents.chunks()) {
        packer.add(Arc::clone(chunk));
    }
    let packs = packer.drain();
    assert_eq!(packs.iter().map(Pack::len).collect::<Vec<_>>(), [10]);
    packs.into_iter().for_each(|pack| drop(store(pack)));
    assert_eq!(contents.chunks().count(), 0);
}

#[test]
fn a_chunk_of_two_packers_is_in_one_block() {
    let (mut one, mut other) = (Packer::new(), Packer::new());
    let mut contents = Contents::empty();
    for chunk in contents.write(0, filled(1, 10)) {
        one.add(Arc::clone(&chunk));
        other.add(chunk);
    }
    assert_eq!(one.drain().len(), 1);
    // The first was dropped, so that the other may have it.
    let packs = other.drain();
    assert_eq!((packs.len(), one.drain().len()), (1, 0));
}
