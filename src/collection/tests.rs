// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Small trees, each for one rule; tests/rust/collection.rs tries random ones.

use super::*;
use crate::manifest::{ManifestError, Reason};

const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
const BAR: &str = "37b51d194a7513e45b56f6524f2d51f2+3";
const EMPTY: &str = "d41d8cd98f00b204e9800998ecf8427e+0";

fn tree(text: &str) -> Tree {
    Tree::parse(text).expect("a well-formed manifest")
}

fn refused(text: &str) -> ManifestError {
    Tree::parse(text).expect_err("a malformed manifest")
}

fn at(tree: &Tree, path: &str) -> NodeId {
    tree.find(path).unwrap_or_else(|| panic!("{path} is there"))
}

/// Paths of all nodes but the root; those of directories end in `/`.
fn paths(tree: &Tree) -> Vec<String> {
    let ids = (1..tree.len() as u32).map(NodeId);
    ids.map(|id| tree.path(id) + if tree.is_dir(id) { "/" } else { "" }).collect()
}

/// What a file is made of: locator, offset and length of each segment.
fn segments(tree: &Tree, path: &str) -> Vec<(String, u32, u32)> {
    tree.segments(at(tree, path))
        .map(|p| (tree.locator(p.block).stripped().to_string(), p.offset, p.len))
        .collect()
}

#[test]
fn nothing_is_an_empty_root() {
    for text in ["", "\n", " \n\n"] {
        let tree = tree(text);
        assert_eq!((tree.len(), tree.file_count(), tree.block_count()), (1, 0, 0));
        assert!(tree.is_dir(NodeId::ROOT));
        assert_eq!(tree.children(NodeId::ROOT).len(), 0);
        assert_eq!(tree.normalized(), "");
        assert_eq!(tree.portable_data_hash().to_string(), EMPTY);
    }
}

#[test]
fn children_are_sorted_whatever_the_order_of_the_text() {
    let tree = tree(&format!(
        "./z {FOO} 0:3:b 0:0:a/x\n. {FOO} 0:3:zz 0:3:B 0:1:\u{e9}\n./a {FOO} 0:3:c\n"
    ));
    assert_eq!(paths(&tree), ["B", "a/", "z/", "zz", "\u{e9}", "a/c", "z/a/", "z/b", "z/a/x"]);
    let root = tree.children(NodeId::ROOT);
    assert_eq!(root.len(), 5);
    assert_eq!(root.get(3), tree.child(NodeId::ROOT, "zz"));
    assert_eq!(root.get(5), None);
    assert_eq!(tree.child(NodeId::ROOT, "y"), None);
    assert_eq!(tree.child(at(&tree, "zz"), "y"), None);
    assert_eq!(tree.parent(at(&tree, "z/a/x")), at(&tree, "z/a"));
    assert_eq!(tree.parent(NodeId::ROOT), NodeId::ROOT);
}

#[test]
fn parts_of_one_file_follow_the_text() {
    let tree = tree(&format!(
        ". {FOO} {BAR} 2:2:a 0:1:a 0:0:e 5:1:a\n./d {BAR} 0:3:x\n. {BAR} 0:0:a 1:1:a\n"
    ));
    let expected = [(FOO, 2, 1), (BAR, 0, 1), (FOO, 0, 1), (BAR, 2, 1), (BAR, 1, 1)]
        .map(|(l, o, n)| (l.to_string(), o, n));
    assert_eq!(segments(&tree, "a"), expected);
    assert_eq!(tree.size(at(&tree, "a")), 5);
    assert_eq!((tree.size(at(&tree, "e")), tree.size(at(&tree, "d"))), (0, 0));
    let blocks: Vec<_> = tree.file_blocks(at(&tree, "a")).map(|b| b.0).collect();
    assert_eq!(blocks, [0, 1, 0, 1]);
    let from: Vec<_> = tree.file_blocks_from(at(&tree, "a"), 2).map(|b| b.0).collect();
    assert_eq!(from, [0, 1]);
    assert_eq!(
        tree.normalized(),
        format!(". {FOO} {BAR} 2:2:a 0:1:a 5:1:a 4:1:a 0:0:e\n./d {BAR} 0:3:x\n")
    );
}

#[test]
fn empty_blocks_are_skipped_in_reading_and_kept_in_writing() {
    let tree = tree(&format!(". {EMPTY} {FOO} {EMPTY} {BAR} {EMPTY} 0:6:all 3:3:bar 0:0:none\n"));
    let plan: Vec<_> = tree.plan(at(&tree, "all"), 0, 100).map(|p| (p.offset, p.len)).collect();
    assert_eq!(plan, [(0, 3), (0, 3)]);
    assert_eq!(segments(&tree, "all").len(), 3);
    assert_eq!(segments(&tree, "bar"), [(BAR.to_string(), 0, 3)]);
    assert_eq!(tree.normalized(), format!(". {FOO} {EMPTY} {BAR} 0:6:all 3:3:bar 0:0:none\n"));
}

#[test]
fn empty_directories_stay() {
    let text = format!("./a {EMPTY} 0:0:\\056\n./b/c {EMPTY} 0:0:\\056\n");
    let first = tree(&text);
    assert_eq!(paths(&first), ["a/", "b/", "b/c/"]);
    assert_eq!(first.normalized(), text);
    let within = tree(&format!(". {EMPTY} 0:0:d/. 0:0:. 0:0:e/f/\\056\n"));
    assert_eq!(paths(&within), ["d/", "e/", "e/f/"]);
}

#[test]
fn names_are_unescaped_and_odd_ones_told() {
    let spaced = tree(&format!("./a\\040b {FOO} 0:3:c\\134\\072d 0:3:x:y\n"));
    assert_eq!(paths(&spaced), ["a b/", "a b/c\\:d", "a b/x:y"]);
    assert!(!spaced.has_odd_names());
    assert_eq!(spaced.normalized(), format!("./a\\040b {FOO} 0:3:c\\134\\072d 0:3:x\\072y\n"));
    let long = "x".repeat(256);
    for odd in ["a\\000", "./..", "./b/./c", "../x", &long] {
        let tree = tree(&format!(". {FOO} 0:3:{odd}\n"));
        assert!(tree.has_odd_names(), "{odd}");
        let again = self::tree(&tree.normalized());
        assert_eq!(paths(&again), paths(&tree));
    }
}

#[test]
fn malformed_manifests_are_refused_with_line_and_reason() {
    let cases = [
        (format!(". {FOO}+ 0:3:a\n"), 1, "hints"),
        (format!(". {FOO} 0:3:a\n.\n. {FOO} 0:3:a\n"), 2, "nothing follows"),
        (format!(". {FOO} 0:3:a\n./b"), 2, "nothing follows the stream's name \"./b\""),
        (". ".to_string(), 1, "nothing follows"),
        (". acbd18db4cc2f85cedef654fccc4a4d8+4294967296 0:3:a\n".to_string(), 1, "larger than any"),
        (format!(". {FOO} 0:3:a\n./b {FOO} 0:3\n"), 2, "position:length:name, not \"0:3\""),
        (format!(". {FOO} 0:3:a {FOO}+Asecret@1\n"), 1, "expected a file segment"),
        (format!(". {FOO} 0:3:\n"), 1, "expected a file segment"),
        (format!(". {FOO} +0:3:a\n"), 1, "expected a file segment"),
        (format!(". {FOO} 0:99999999999999999999:a\n"), 1, "too large"),
        (format!(". {FOO} 1:3:a\n"), 1, "past the 3 bytes"),
        (format!(". {FOO} 0:3:a\n. 0:1:b\n"), 2, "past the 0 bytes"),
        (format!(". {FOO} 18446744073709551615:1:a\n"), 1, "past the 3 bytes"),
        (format!(". {FOO} 0:3:a//b\n"), 1, "empty name in the path \"a//b\""),
        (format!(". {FOO} 0:3:/b\n"), 1, "empty name"),
        (format!(". {FOO} 0:3:b/\n"), 1, "empty name"),
        (format!("/b {FOO} 0:3:a\n"), 1, "empty name"),
        (format!("./b//c {FOO} 0:3:a\n"), 1, "empty name"),
        (format!(". {FOO} 0:3:a\n\n. {FOO} 0:3:b\n"), 1, "white space"),
        (format!(". {FOO} 0:3:a \n. {FOO} 0:3:b\n"), 1, "white space"),
        (format!(". {FOO} 0:3:a\r\n. {FOO} 0:3:b\n"), 1, "white space"),
        (format!(". {FOO} 0:3:a/b\n./a {FOO} 0:3:c\n. {FOO} 0:3:a\n"), 3, "\"a\" is both"),
        (format!("./x {FOO} 0:3:a\n./x/a {FOO} 0:3:c\n"), 2, "\"x/a\" is both"),
        (format!(". {FOO} 0:3:a\n./a {FOO} 0:0:.\n"), 2, "\"a\" is both"),
    ];
    for (text, line, words) in cases {
        let error = refused(&text);
        let message = error.to_string();
        assert_eq!(error.line, line, "{text}");
        assert!(message.contains(words), "{text}: {message}");
        assert!(message.starts_with(&format!("manifest line {line}: ")), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
    let long = format!(". {FOO} 0:3:{}/\n", "x".repeat(5000));
    assert!(refused(&long).to_string().len() < 300);
    let huge = "8".repeat(18);
    let block = |n: usize| format!(" {n:032x}+4294967295");
    let blocks: String = (0..3).map(block).collect();
    assert!(matches!(refused(&format!(".{blocks} 0:{huge}:a")).reason, Reason::PastEnd(..)));
}

#[test]
fn odd_white_space_that_the_sdk_takes_is_taken() {
    for text in [
        format!("  . {FOO}  0:3:a\t3:0:b"),
        format!(". {FOO} 0:3:a 3:0:b \n\n"),
        format!(". {FOO} 0:3:a 3:0:b\r\n"),
        format!("./ {FOO} 0:3:a 0:0:b\n"),
    ] {
        assert_eq!(tree(&text).normalized(), format!(". {FOO} 0:3:a 0:0:b\n"), "{text:?}");
    }
    // Names may hold white space that is not ASCII's.
    assert_eq!(paths(&tree(&format!(". {FOO} 0:3:a\u{a0}b\n"))), ["a\u{a0}b"]);
    assert_eq!(paths(&tree(&format!("x/ {FOO} 0:3:a\n./y/ {FOO}\n"))), ["x/", "y/", "x/a"]);
}

#[test]
fn signatures_are_renewed_for_every_holder() {
    let signed = |a: &str, b: &str| tree(&format!(". {FOO}{a} {BAR}{b} 0:6:f 0:3:g\n"));
    let held = signed("+Aold@10", "+Aold@20");
    assert_eq!(held.expires_at(), Some(16));
    assert_eq!(held.renew_locators(&signed("+Anew@30", "+Anew@40")), 2);
    assert_eq!(held.expires_at(), Some(48));
    assert_eq!(held.locator(BlockId(0)).to_string(), format!("{FOO}+Anew@30"));
    // Another order, another manifest: the blocks that it knows.
    assert_eq!(held.renew_locators(&tree(&format!(". {BAR}+Anewer@50 0:3:f\n"))), 1);
    assert_eq!(held.locator(BlockId(0)).to_string(), format!("{FOO}+Anew@30"));
    assert_eq!(held.locator(BlockId(1)).to_string(), format!("{BAR}+Anewer@50"));
    assert_eq!(held.normalized(), format!(". {FOO}+Anew@30 {BAR}+Anewer@50 0:6:f 0:3:g\n"));
    assert_eq!(held.stripped(), format!(". {FOO} {BAR} 0:6:f 0:3:g\n"));
    assert_eq!(tree(&format!(". {FOO} 0:3:f\n")).expires_at(), None);
}

#[test]
fn locators_that_differ_in_hints_are_one_block_only_when_stripped() {
    let tree = tree(&format!(". {FOO}+A1@1 {FOO}+A2@2 0:6:f\n"));
    assert_eq!(tree.block_count(), 2);
    assert_eq!(tree.normalized(), format!(". {FOO}+A1@1 {FOO}+A2@2 0:6:f\n"));
    assert_eq!(tree.stripped(), format!(". {FOO} 0:3:f 0:3:f\n"));
}

#[test]
fn diff_tells_what_stays_what_changed_and_what_came_and_went() {
    let old = tree(&format!(
        ". {FOO} {BAR} 0:6:same 0:3:edited 0:3:gone 0:3:turned\n./d {FOO} 0:3:x\n./e {FOO} 0:3:x\n"
    ));
    let new = tree(&format!(
        ". {FOO}+A1@1 {BAR} 0:3:same 3:3:same 3:3:edited 0:3:new\n./d {FOO} 0:3:x\n./e {FOO} 0:3:y\n\
         ./turned {FOO} 0:3:z\n"
    ));
    let diff = diff(&old, &new);
    let of_new = |ids: &[NodeId]| ids.iter().map(|id| new.path(*id)).collect::<Vec<_>>();
    assert_eq!(of_new(diff.changed()), ["", "e", "edited"]);
    assert_eq!(of_new(diff.added()), ["new", "turned", "e/y", "turned/z"]);
    let gone: Vec<_> = diff.removed().iter().map(|id| old.path(*id)).collect();
    assert_eq!(gone, ["gone", "turned", "e/x"]);
    assert_eq!(diff.old_of(at(&new, "d/x")), Some(at(&old, "d/x")));
    assert_eq!(diff.old_of(at(&new, "turned")), None);
    assert!(diff.is_same(at(&new, "same")) && diff.is_same(at(&new, "d")));
    assert!(!diff.is_same(at(&new, "e")) && !diff.is_same(at(&new, "new")));
    assert!(!diff.is_empty());
    assert!(super::diff(&new, &tree(&new.stripped())).is_empty());
}
