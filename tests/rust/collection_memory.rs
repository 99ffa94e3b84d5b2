// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a tree costs: `Tree::memory` is the truth, and it stays within 120 bytes a file.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use arvados_fuse::collection::Tree;

struct Counting;

static HEAP: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe to be; this one only counts")]
// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIGNATURE: &str = "+A0123456789abcdef0123456789abcdef01234567@65f00000";

/// Files of 100 bytes, `in_dir` to a directory and `in_block` to a block.
fn manifest(files: usize, in_dir: usize, in_block: usize, hints: &str) -> String {
    let mut text = String::new();
    for dir in (0..files).step_by(in_dir) {
        let here = in_dir.min(files - dir);
        write!(text, "./d{dir:07}").expect("a String takes it");
        for block in (0..here).step_by(in_block) {
            let size = 100 * in_block.min(here - block);
            write!(text, " {:032x}+{size}{hints}", dir + block).expect("a String takes it");
        }
        for file in 0..here {
            write!(text, " {}:100:f{file:06}", file * 100).expect("a String takes it");
        }
        text.push('\n');
    }
    text
}

// One test alone, so that no other thread allocates meanwhile.
#[test]
fn memory_is_counted_truly_and_stays_small() {
    let other = "+A0123456789abcdef0123456789abcdef01234567@65f00000+K@zzzzz";
    let cases = [
        ("1,000 files in a directory, one block", manifest(10_000, 1000, 1000, SIGNATURE), 45),
        ("a signed block for each file", manifest(10_000, 1000, 1, SIGNATURE), 100),
        ("a directory and a signed block for each file", manifest(10_000, 1, 1, SIGNATURE), 120),
        ("hints of any kind", manifest(10_000, 1000, 1, other), 140),
        ("no hints", manifest(10_000, 10, 10, ""), 50),
    ];
    for (what, text, most) in cases {
        let before = HEAP.load(Ordering::Relaxed);
        let tree = Tree::parse(&text).expect("well formed");
        let taken = HEAP.load(Ordering::Relaxed) - before + size_of::<Tree>();
        assert_eq!(tree.memory(), taken, "{what}");
        let a_file = taken / tree.file_count();
        assert!(a_file <= most, "{what}: {a_file} bytes a file");
        drop(tree);
        assert_eq!(HEAP.load(Ordering::Relaxed), before, "{what}: all is given back");
    }
    // Many tokens that each span many blocks: linear in the text all the same.
    let blocks = (0..1000).map(|n| format!("{n:032x}+1000"));
    let tokens = (0..1000).map(|n| format!("0:1000000:f{n}"));
    let words: Vec<String> = blocks.chain(tokens).collect();
    let text = format!(". {}\n", words.join(" "));
    assert!(Tree::parse(&text).expect("well formed").memory() < 2 * text.len());
}
