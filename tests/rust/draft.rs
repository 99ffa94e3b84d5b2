// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Files that are written, against plain bytes: random changes, copies, uploads that succeed or fail
//! while the files are changed, saves.

mod seed;

use std::collections::HashMap;
use std::sync::Arc;

use arvados_fuse::collection::Tree;
use arvados_fuse::collection::draft::{
    BlockRef, Chunk, Contents, Directory, Gauge, MAX_LEN, Pack, Packer, Piece, Pieces,
    write_manifest, zeros, zeros_len,
};
use arvados_fuse::types::{Locator, Md5};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use seed::seed;

/// Where the last change of a file may begin; small, so that changes meet.
const REACH: u64 = 12_000;
const FILES: usize = 3;
/// A block is full early.
const BLOCK: u32 = 8_000;

#[derive(Clone, Debug)]
enum Op {
    Write { file: usize, offset: u64, len: usize, byte: u8 },
    Append { file: usize, count: usize, len: usize },
    Truncate { file: usize, len: u64 },
    Punch { file: usize, offset: u64, len: u64 },
    ZeroRange { file: usize, offset: u64, len: u64 },
    Copy { from: usize, offset: u64, len: u64, to: usize, at: u64 },
    Settle,
    Full,
    Longest,
    Drain,
    Stored { pack: usize },
    Failed { pack: usize },
    Dropped { pack: usize },
    Remember { file: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0..FILES;
    let offset =
        || prop_oneof![3 => 0..REACH, 2 => (0..REACH / 512).prop_map(|n| n * 512), 1 => 0..50u64];
    let len = || prop_oneof![3 => 1..20u64, 2 => 1..2_000u64, 1 => 1..9_000u64, 1 => Just(512), 1 => Just(0)];
    let pack = || 0..8usize;
    prop_oneof![
        30 => (file(), offset(), len(), any::<u8>())
            .prop_map(|(file, offset, len, byte)| Op::Write { file, offset, len: len as usize, byte }),
        6 => (file(), 1..80usize, 1..300usize)
            .prop_map(|(file, count, len)| Op::Append { file, count, len }),
        4 => (file(), offset()).prop_map(|(file, len)| Op::Truncate { file, len }),
        5 => (file(), offset(), len()).prop_map(|(file, offset, len)| Op::Punch { file, offset, len }),
        3 => (file(), offset(), len())
            .prop_map(|(file, offset, len)| Op::ZeroRange { file, offset, len }),
        8 => (file(), offset(), len(), file(), offset())
            .prop_map(|(from, offset, len, to, at)| Op::Copy { from, offset, len, to, at }),
        2 => Just(Op::Settle),
        4 => Just(Op::Full),
        1 => Just(Op::Longest),
        2 => Just(Op::Drain),
        6 => pack().prop_map(|pack| Op::Stored { pack }),
        2 => pack().prop_map(|pack| Op::Failed { pack }),
        1 => pack().prop_map(|pack| Op::Dropped { pack }),
        2 => file().prop_map(|file| Op::Remember { file }),
    ]
}

/// A file. Whole slices are compared, so that the test is quick where it is not optimised.
#[derive(Clone, Debug, Default)]
struct Plain {
    /// Zeros in holes.
    bytes: Vec<u8>,
    /// 1 for a byte that is in no hole, otherwise 0.
    data: Vec<u8>,
}

impl Plain {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.data.resize(len, 0);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.data.resize(self.bytes.len(), 1);
    }

    fn range(&self, offset: u64, len: u64) -> Plain {
        let (begin, end) = (offset as usize, (offset + len) as usize);
        let (begin, end) = (self.len().min(begin), self.len().min(end));
        Plain { bytes: self.bytes[begin..end].to_vec(), data: self.data[begin..end].to_vec() }
    }

    fn put(&mut self, offset: u64, part: &Plain) {
        if part.len() > 0 {
            let (begin, end) = (offset as usize, offset as usize + part.len());
            self.resize(self.len().max(end));
            self.bytes[begin..end].copy_from_slice(&part.bytes);
            self.data[begin..end].copy_from_slice(&part.data);
        }
    }

    /// Whether all from `begin` to `end` is data, or all holes.
    fn is_all(&self, begin: u64, end: u64, data: u8) -> bool {
        let range = &self.data[begin as usize..end as usize];
        range == vec![data; range.len()]
    }
}

fn hole(len: u64) -> Plain {
    Plain { bytes: vec![0; len as usize], data: vec![0; len as usize] }
}

/// What a server would keep.
#[derive(Default)]
struct Blocks(HashMap<(Md5, u32), Vec<u8>>);

impl Blocks {
    fn put(&mut self, data: Vec<u8>) -> Arc<Locator> {
        let (md5, size) = (Md5::of(&data), data.len() as u32);
        self.0.insert((md5, size), data);
        Arc::new(format!("{md5}+{size}").parse().expect("a locator"))
    }

    fn read(&self, pieces: &Pieces) -> Plain {
        let mut all = Plain::default();
        for piece in pieces {
            assert!(piece.len() > 0, "{piece:?}");
            match piece {
                Piece::Buffered(bytes) => all.push(bytes),
                Piece::Hole(len) => all.resize(all.len() + *len as usize),
                Piece::Stored { block, offset, len } => {
                    assert_eq!(block.locator().md5(), block.md5());
                    let data = &self.0[&(block.md5(), block.size())];
                    all.push(&data[*offset as usize..(*offset + *len) as usize]);
                }
            }
        }
        all
    }
}

struct World {
    files: Vec<(Contents, Plain)>,
    packer: Packer,
    packs: Vec<Pack>,
    blocks: Blocks,
    gauge: Arc<Gauge>,
    remembered: Vec<(Pieces, Plain)>,
    written: u64,
}

impl World {
    /// Files, of which the last has what a snapshot has.
    fn new() -> Self {
        let (gauge, mut blocks) = (Arc::new(Gauge::default()), Blocks::default());
        let a = blocks.put((0..7000u32).map(|n| n as u8).collect());
        let b = blocks.put((0..5000u32).map(|n| (n / 3) as u8).collect());
        let text = format!(". {a} {b} 100:9000:f 0:50:f 11000:1000:f\n");
        let tree = Arc::new(Tree::parse(&text).expect("well formed"));
        let file = Contents::of_tree(&tree, tree.find("f").expect("there"));
        let plain = blocks.read(&file.pieces(0, MAX_LEN));
        let mut files: Vec<_> =
            (1..FILES).map(|_| (Contents::empty().counted_by(&gauge), Plain::default())).collect();
        files.push((file.counted_by(&gauge), plain));
        let packer = Packer::with_block_size(BLOCK);
        let (packs, remembered, written) = (Vec::new(), Vec::new(), 0);
        World { files, packer, packs, blocks, gauge, remembered, written }
    }

    fn add(&mut self, chunks: Vec<Arc<Chunk>>) {
        for chunk in chunks {
            assert!(chunk.is_shown() && !chunk.is_stored());
            self.packer.add(chunk);
        }
    }

    fn write(&mut self, file: usize, offset: u64, bytes: Vec<u8>) {
        let (contents, plain) = &mut self.files[file];
        plain.put(offset, &Plain { data: vec![1; bytes.len()], bytes: bytes.clone() });
        self.written += bytes.len() as u64;
        let made = contents.write(offset, Bytes::from(bytes));
        self.add(made);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Write { file, offset, len, byte } => {
                let bytes = (0..len).map(|n| byte.wrapping_add(n as u8)).collect();
                self.write(file, offset, bytes);
            }
            Op::Append { file, count, len } => {
                for n in 0..count {
                    let end = self.files[file].0.len();
                    if end < 2 * REACH {
                        self.write(file, end, vec![n as u8; len]);
                    }
                }
            }
            Op::Truncate { file, len } => {
                let (contents, plain) = &mut self.files[file];
                plain.resize(len as usize);
                let made = contents.truncate(len);
                self.add(made);
            }
            Op::Punch { file, offset, len } => {
                let (contents, plain) = &mut self.files[file];
                let inside = plain.range(offset, len).len() as u64;
                plain.put(offset, &hole(inside));
                let made = contents.punch_hole(offset, len);
                self.add(made);
            }
            Op::ZeroRange { file, offset, len } => {
                let (contents, plain) = &mut self.files[file];
                plain.put(offset, &hole(len));
                let made = contents.zero_range(offset, len);
                self.add(made);
            }
            Op::Copy { from, offset, len, to, at } => {
                let (contents, plain) = &self.files[from];
                let (excerpt, part) = (contents.copy_range(offset, len), plain.range(offset, len));
                assert_eq!(excerpt.len(), part.len() as u64);
                let (contents, plain) = &mut self.files[to];
                plain.put(at, &part);
                let made = contents.splice(at, excerpt);
                self.add(made);
            }
            Op::Settle => self.settle(),
            Op::Full => self.packs.extend(self.packer.full()),
            Op::Longest => self.packs.extend(self.packer.longest()),
            Op::Drain => self.packs.extend(self.packer.drain()),
            Op::Stored { pack } if pack < self.packs.len() => {
                let pack = self.packs.swap_remove(pack);
                self.store(pack);
            }
            Op::Failed { pack } if pack < self.packs.len() => {
                let chunks = self.packs.swap_remove(pack).failed();
                self.add(chunks);
            }
            Op::Dropped { pack } if pack < self.packs.len() => {
                drop(self.packs.swap_remove(pack));
                for (contents, _) in &self.files {
                    contents.chunks().for_each(|chunk| self.packer.add(Arc::clone(chunk)));
                }
            }
            Op::Stored { .. } | Op::Failed { .. } | Op::Dropped { .. } => {}
            Op::Remember { file } => {
                let (contents, plain) = &self.files[file];
                self.remembered.push((contents.pieces(0, MAX_LEN), plain.clone()));
            }
        }
        assert!(self.packs.iter().all(|pack| pack.len() <= BLOCK.max(1 << 20)));
    }

    fn store(&mut self, pack: Pack) {
        let data = pack.data().concat();
        assert_eq!(data.len(), pack.len() as usize);
        pack.stored(self.blocks.put(data));
    }

    /// Looks through all files: then what memory they take is bounded.
    fn settle(&mut self) {
        for file in 0..FILES {
            let made = self.files[file].0.settle();
            self.add(made);
        }
        if self.packs.is_empty() {
            let shown: u64 = self.files.iter().map(|(contents, _)| contents.buffered_bytes()).sum();
            let held = self.gauge.bytes();
            assert!(held <= shown + shown / 3 + 3, "{held} for {shown}");
        }
    }

    fn check(&self, offset: u64, len: u64) {
        let mut shown = 0;
        for (contents, plain) in &self.files {
            assert_eq!(contents.len(), plain.len() as u64);
            let all = contents.pieces(0, MAX_LEN);
            assert_same(&self.blocks.read(&all), plain);
            for pair in all.windows(2) {
                assert!(!matches!(pair, [Piece::Hole(_), Piece::Hole(_)]));
            }
            let part = plain.range(offset, len);
            assert_same(&self.blocks.read(&contents.pieces(offset, len)), &part);
            let end = contents.len();
            for at in [0, offset, offset + part.len() as u64, end, end + 1] {
                let next = contents.next_data(at);
                assert!(plain.is_all(at.min(end), next.unwrap_or(end), 0));
                assert!(next.is_none_or(|next| plain.data[next as usize] == 1));
                let next = contents.next_hole(at);
                assert!(plain.is_all(at.min(end), next, 1));
                assert!(next == end || plain.data[next as usize] == 0);
            }
            let mut data = 0;
            for hole in contents.holes() {
                assert!(plain.is_all(data, hole.start, 1) && data <= hole.start);
                assert!(plain.is_all(hole.start, hole.end, 0) && !hole.is_empty());
                data = hole.end;
            }
            assert!(plain.is_all(data, end, 1));
            let buffered = |piece: &Piece| matches!(piece, Piece::Buffered(_));
            let buffered: u64 = all.iter().filter(|piece| buffered(piece)).map(Piece::len).sum();
            assert_eq!(contents.buffered_bytes(), buffered);
            assert_eq!(contents.chunks().next().is_some(), buffered > 0);
            shown += buffered;
        }
        assert!(shown == 0 || self.gauge.bytes() > 0);
        for (pieces, plain) in self.remembered.iter().rev().take(3) {
            assert_same(&self.blocks.read(pieces), plain);
        }
    }

    /// Stores what is left, and reads all of it back from a manifest.
    fn save(&mut self) {
        let left: Vec<Pack> = self.packs.drain(..).chain(self.packer.drain()).collect();
        left.into_iter().for_each(|pack| self.store(pack));
        self.settle();
        self.check(0, MAX_LEN / 2);
        assert_eq!((self.packer.bytes(), self.gauge.bytes()), (0, 0));
        let holes = self.files.iter().flat_map(|(contents, _)| contents.holes());
        let longest = holes.map(|hole| hole.end - hole.start).max().unwrap_or(0);
        let zeros = zeros(zeros_len(longest)).concat();
        let zeros = BlockRef::Own(self.blocks.put(zeros));
        let names: Vec<String> = (0..FILES).map(|n| format!("f {n}")).collect();
        let file = |(name, (contents, _)): (_, &(Contents, _))| (name, contents.pieces(0, MAX_LEN));
        let files = names.iter().map(String::as_str).zip(&self.files).map(file).collect();
        let directories = vec![
            Directory { path: "a/b", files },
            Directory::default(),
            Directory { path: "empty", files: Vec::new() },
        ];
        let text = write_manifest(directories, Some(&zeros)).expect("all is stored");
        let tree = Arc::new(Tree::parse(&text).expect("well formed"));
        assert_eq!(tree.normalized(), text);
        for (name, (_, plain)) in names.iter().zip(&self.files) {
            let file = tree.find(&format!("a/b/{name}")).expect("there");
            let read = self.blocks.read(&Contents::of_tree(&tree, file).pieces(0, MAX_LEN));
            assert!(read.bytes == plain.bytes && plain.len() == read.len());
        }
        assert!(tree.is_dir(tree.find("empty").expect("there")));
    }
}

/// Says where they differ, and not all that they are.
#[track_caller]
fn assert_same(read: &Plain, plain: &Plain) {
    if (&read.bytes, &read.data) != (&plain.bytes, &plain.data) {
        let both = read.bytes.iter().zip(&read.data).zip(plain.bytes.iter().zip(&plain.data));
        let differ = both.enumerate().find(|(_, (a, b))| a != b);
        panic!("{} bytes are to be {}; {differ:?}", read.len(), plain.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        cases: 150,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_file_is_what_was_written_to_it(
        ops in prop::collection::vec((op(), 0..REACH, prop_oneof![9 => 0..REACH, 1 => Just(0)]), 1..150),
    ) {
        let mut world = World::new();
        for (op, offset, len) in ops {
            world.step(op);
            world.check(offset, len);
        }
        world.save();
        let copied: u64 = world.files.iter().map(|(contents, _)| contents.copied_bytes()).sum();
        prop_assert!(copied < 100 * world.written + (1 << 22), "{copied} for {}", world.written);
    }

    #[test]
    fn no_number_makes_it_panic(
        calls in prop::collection::vec((0..6u8, extreme(), extreme(), extreme()), 1..40),
    ) {
        let mut contents = Contents::empty();
        for (call, offset, len, at) in calls {
            match call {
                0 => drop(contents.write(offset, Bytes::from(vec![1; (len % 5000) as usize]))),
                1 => drop(contents.truncate(len)),
                2 => drop(contents.punch_hole(offset, len)),
                3 => drop(contents.zero_range(offset, len)),
                4 => drop(contents.splice(at, contents.copy_range(offset, len))),
                _ => drop(contents.settle()),
            }
            prop_assert!(contents.len() <= MAX_LEN);
            let pieces = contents.pieces(offset, len);
            let end = offset.saturating_add(len).min(contents.len());
            prop_assert_eq!(pieces.iter().map(Piece::len).sum::<u64>(), end.saturating_sub(offset));
            if let Some(data) = contents.next_data(offset) {
                prop_assert!(data >= offset && contents.next_hole(data) > data);
            }
            prop_assert!(contents.next_hole(offset) <= contents.len());
            let holes: u64 = contents.holes().map(|hole| hole.end - hole.start).sum();
            prop_assert_eq!(holes + contents.buffered_bytes(), contents.len());
        }
    }
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..10_000u64,
        (0..10_000u64).prop_map(|n| MAX_LEN.wrapping_add(n).wrapping_sub(5000)),
        (0..10_000u64).prop_map(|n| u64::MAX - n),
        any::<u64>(),
    ]
}
