// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

use std::sync::Arc;

use bytes::Bytes;

use crate::collection::draft::{
    BlockRef, Contents, Directory, MAX_LEN, Packer, Pieces, Unwritable, UnwritableReason,
    write_manifest, zeros, zeros_len,
};
use crate::collection::{NodeId, Tree};

const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
const BAR: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

fn tree(text: &str) -> Arc<Tree> {
    Arc::new(Tree::parse(text).expect("well formed"))
}

fn all(contents: &Contents) -> Pieces {
    contents.pieces(0, MAX_LEN)
}

/// The manifest of all that a tree has, back to front, through contents.
fn rewritten(tree: &Arc<Tree>) -> String {
    let ids = (0..tree.len() as u32).rev().map(NodeId);
    let dirs: Vec<(String, NodeId)> =
        ids.filter(|id| tree.is_dir(*id)).map(|id| (tree.path(id), id)).collect();
    let directories = dirs
        .iter()
        .map(|(path, id)| {
            let files = tree.children(*id).rev().filter(|child| !tree.is_dir(*child));
            let file = |child| (tree.name(child), all(&Contents::of_tree(tree, child)));
            Directory { path, files: files.map(file).collect() }
        })
        .collect();
    write_manifest(directories, None).expect("all is stored")
}

#[test]
fn what_a_tree_has_is_written_in_normal_form() {
    for text in [
        String::new(),
        format!(". {FOO} {BAR} 0:6:b 1:4:a 0:0:e 3:3:d\\040x 0:3:d\\040x\n"),
        format!("./a {FOO} 0:3:f\n./a/b/c {BAR} 1:2:f\n./a-b {FOO} 0:1:x\n"),
        "./none d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n".into(),
        format!(
            "./d {FOO}+Aabc@65f00000 0:3:f\n./d/e d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n"
        ),
    ] {
        let tree = tree(&text);
        let written = rewritten(&tree);
        assert_eq!(written, tree.normalized(), "{text}");
        assert_eq!(Tree::parse(&written).expect("can be read").normalized(), written);
    }
}

#[test]
fn a_block_is_written_once_with_the_signature_that_lasts() {
    let old = tree(&format!(". {FOO}+Aold@10 0:3:f\n"));
    let new = tree(&format!(". {FOO}+Anew@20 0:3:f\n"));
    let file = |tree| all(&Contents::of_tree(tree, NodeId(1)));
    let files = vec![("a", file(&old)), ("b", file(&new)), ("c", file(&old))];
    let text = write_manifest(vec![Directory { path: "", files }], None);
    assert_eq!(text, Ok(format!(". {FOO}+Anew@20 0:3:a 0:3:b 0:3:c\n")));
}

#[test]
fn holes_are_parts_of_one_block_of_zeros() {
    let sizes = [0, 1, 1 << 20, (1 << 20) + 1, 63 << 20, 1 << 26, u64::MAX].map(zeros_len);
    assert_eq!(sizes.map(|size| size >> 20), [1, 1, 1, 2, 64, 64, 64]);
    for len in [1, 1 << 20, (1 << 20) + 7, 3 << 20] {
        let parts = zeros(len);
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), len as usize);
        assert!(parts.iter().flatten().all(|byte| *byte == 0));
    }
    let mut contents = Contents::of_tree(&tree(&format!(". {FOO} 0:3:f\n")), NodeId(1));
    contents.truncate(3 + (5 << 19));
    let mut second = contents.clone();
    second.punch_hole(1, 1);
    let zero =
        BlockRef::Own(Arc::new("00000000000000000000000000000000+1048576".parse().expect("one")));
    let root = |files| vec![Directory { path: "", files }];
    let text = write_manifest(root(vec![("a", all(&contents)), ("b", all(&second))]), Some(&zero));
    // What follows in the stream is one segment with what comes before it.
    let expected = format!(
        ". {FOO} 00000000000000000000000000000000+1048576 0:1048579:a 3:1048576:a 3:524288:a \
         0:1:b 3:1:b 2:1048577:b 3:1048576:b 3:524288:b\n"
    );
    assert_eq!(text.as_deref(), Ok(&*expected));
    assert_eq!(tree(&expected).normalized(), expected);
    contents.truncate(3 + (1 << 20) + 1);
    let short = BlockRef::Own(Arc::new("00000000000000000000000000000000+1".parse().expect("one")));
    let refused = write_manifest(root(vec![("a", all(&contents))]), Some(&short));
    assert_eq!(refused.map_err(|e| e.reason), Err(UnwritableReason::TooManyZeros));
    contents.truncate(MAX_LEN);
    let refused = write_manifest(root(vec![("a", all(&contents))]), Some(&zero));
    assert_eq!(refused.map_err(|e| e.reason), Err(UnwritableReason::TooManyZeros));
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut contents = Contents::empty();
    contents.write(5, Bytes::from_static(b"x"));
    let zero = BlockRef::Own(Arc::new(FOO.parse().expect("a locator")));
    let write = |path, name, contents: &Contents, zeros| {
        let error =
            write_manifest(vec![Directory { path, files: vec![(name, all(contents))] }], zeros);
        let Unwritable { path, reason } = error.expect_err("refused");
        (path, reason)
    };
    assert_eq!(write("d", "f", &contents, None), ("d/f".into(), UnwritableReason::Hole(0)));
    assert_eq!(
        write("", "f", &contents, Some(&zero)),
        ("f".into(), UnwritableReason::NotStored(5))
    );
    for (path, name) in [("", "."), ("", ""), ("", "a/b"), ("a//b", "f"), ("./a", "f")] {
        assert_eq!(write(path, name, &Contents::empty(), None).1, UnwritableReason::Name);
    }
    // Once it is stored, it can be.
    let mut packer = Packer::new();
    contents.chunks().for_each(|chunk| packer.add(Arc::clone(chunk)));
    let block = "9dd4e461268c8034f5c8564e155c67a6+1";
    packer.drain().into_iter().for_each(|pack| pack.stored(Arc::new(block.parse().expect("one"))));
    let files = vec![("f", all(&contents))];
    let text = write_manifest(vec![Directory { path: "d", files }], Some(&zero));
    assert_eq!(text, Ok(format!("./d {FOO} {block} 0:3:f 0:2:f 3:1:f\n")));
}
