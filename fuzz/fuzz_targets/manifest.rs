// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Any text: refused, or a tree whose parts agree with one another and with what it writes.

#![no_main]

use arvados_fuse::collection::{Kind, NodeId, Tree, diff};
use arvados_fuse::manifest::strip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let tree = match Tree::parse(text) {
        Ok(tree) => tree,
        Err(error) => {
            assert!(error.line >= 1 && error.line <= 1 + text.matches('\n').count());
            // An escaped character takes up to ten in the message.
            assert!(error.to_string().len() < 2500);
            return;
        }
    };
    assert!(tree.memory() < 1000 + 40 * text.len());
    for id in (0..tree.len() as u32).map(NodeId) {
        assert_eq!(tree.find(&tree.path(id)), Some(id));
        match tree.kind(id) {
            Kind::Directory => {
                assert!(tree.children(id).all(|child| child > id && tree.parent(child) == id));
            }
            Kind::File => {
                let size = tree.size(id);
                let planned: u64 = tree.plan(id, 0, u64::MAX).map(|p| u64::from(p.len)).sum();
                assert_eq!(planned, size);
                let middle = size / 2;
                let rest: u64 = tree.plan(id, middle, size).map(|p| u64::from(p.len)).sum();
                assert_eq!(rest, size - middle);
                for piece in tree.segments(id) {
                    let block = tree.block(piece.block);
                    assert!(u64::from(piece.offset) + u64::from(piece.len) <= block.size.into());
                }
            }
        }
    }
    let written = tree.normalized();
    let again = Tree::parse(&written).expect("what was written can be read");
    assert!(diff(&tree, &again).is_empty());
    let stripped = tree.stripped();
    assert_eq!(strip(&stripped), stripped);
    assert!(diff(&tree, &Tree::parse(&stripped).expect("so can this")).is_empty());
});
