// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Random collections against a naive model of them: a map from paths to bytes, each byte known by
//! the block it is in and its place there.

mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use arvados_fuse::collection::{Block, NodeId, Tree, diff};
use arvados_fuse::manifest::{escape_into, strip};
use arvados_fuse::types::{Md5, Pdh};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use seed::seed;

/// A byte of a file: its block, and where in the block it is.
type Byte = (Block, u32);

#[derive(Default, Debug)]
struct Model {
    files: BTreeMap<String, Vec<Byte>>,
    dirs: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Stream {
    dirs: Vec<String>,
    /// Sizes, with a number that tells blocks of one size apart, and hints.
    blocks: Vec<(u32, u8, String)>,
    /// Directories below the stream, name, and two places between which its bytes are.
    tokens: Vec<(Vec<String>, String, u32, u32)>,
    empty_dir: Option<String>,
}

fn block((size, tag, _): &(u32, u8, String)) -> Block {
    let md5 = if *size == 0 { Md5::EMPTY } else { Md5::of(&[*tag, *size as u8]) };
    Block { md5, size: *size }
}

impl Stream {
    fn path(&self, below: &[String]) -> String {
        [&self.dirs, below].concat().join("/")
    }

    fn write(&self, out: &mut String) {
        escape_into(&[&[".".to_string()], &self.dirs[..]].concat().join("/"), out);
        for each in &self.blocks {
            let Block { md5, size } = block(each);
            write!(out, " {md5}+{size}{}", each.2).expect("a String takes it");
        }
        if let Some(dir) = &self.empty_dir {
            out.push_str(" 0:0:");
            escape_into(&format!("{dir}/."), out);
        }
        for (dirs, name, a, b) in &self.tokens {
            let (begin, end) = self.range(*a, *b);
            write!(out, " {begin}:{}:", end - begin).expect("a String takes it");
            escape_into(&[&dirs[..], std::slice::from_ref(name)].concat().join("/"), out);
        }
        out.push('\n');
    }

    fn range(&self, a: u32, b: u32) -> (u32, u32) {
        let length = 1 + self.blocks.iter().map(|block| block.0).sum::<u32>();
        let (a, b) = (a % length, b % length);
        (a.min(b), a.max(b))
    }

    fn apply(&self, model: &mut Model) {
        let bytes: Vec<Byte> =
            self.blocks.iter().flat_map(|each| (0..each.0).map(|at| (block(each), at))).collect();
        model.add_dir(&self.path(&[]));
        if let Some(dir) = &self.empty_dir {
            model.add_dir(&self.path(std::slice::from_ref(dir)));
        }
        for (dirs, name, a, b) in &self.tokens {
            let (begin, end) = self.range(*a, *b);
            model.add_dir(&self.path(dirs));
            let path = self.path(&[&dirs[..], std::slice::from_ref(name)].concat());
            let file = model.files.entry(path).or_default();
            file.extend(&bytes[begin as usize..end as usize]);
        }
    }
}

impl Model {
    fn add_dir(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        self.dirs.extend(ends.map(|end| path[..end].to_string()).filter(|dir| !dir.is_empty()));
    }

    /// The names in a directory, each with whether it is a file.
    fn listing(&self, dir: &str) -> BTreeSet<(String, bool)> {
        let inside = |path: &str| {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            (above == dir).then(|| name.to_string())
        };
        let files = self.files.keys().filter_map(|path| Some((inside(path)?, true)));
        files.chain(self.dirs.iter().filter_map(|path| Some((inside(path)?, false)))).collect()
    }
}

fn streams() -> impl Strategy<Value = Vec<Stream>> {
    let part = || select(vec!["a", "b", "B", "é", "x y", "\\", "c:d", "\u{1}\u{a0}", "🦀"]);
    // Names of files and directories differ, since a clash is an error.
    let dir = || part().prop_map(|name| format!("d{name}"));
    let file = || part().prop_map(|name| format!("f{name}"));
    let sizes = select(vec![0u32, 1, 2, 3, 7]);
    let signature = (0u8..3).prop_map(|n| format!("+A{n:040x}@65f0000{n}"));
    let hints = prop_oneof![
        6 => signature,
        1 => Just(String::new()),
        1 => Just("+Abc@1+K@zzzzz".to_string()),
    ];
    let blocks = prop::collection::vec((sizes, 0u8..2, hints), 0..6);
    let below = prop::collection::vec(dir(), 0..2);
    let token = (below, file(), any::<u32>(), any::<u32>());
    let stream = (
        prop::collection::vec(dir(), 0..3),
        blocks,
        prop::collection::vec(token, 0..6),
        prop::option::of(dir()),
    );
    let stream = stream.prop_map(|(dirs, blocks, tokens, empty_dir)| {
        // A line needs more than a name.
        let empty_dir = empty_dir.or((blocks.is_empty() && tokens.is_empty()).then(|| "d".into()));
        Stream { dirs, blocks, tokens, empty_dir }
    });
    prop::collection::vec(stream, 0..6)
}

fn built(streams: &[Stream]) -> (String, Tree, Model) {
    let (mut text, mut model) = (String::new(), Model::default());
    for stream in streams {
        stream.write(&mut text);
        stream.apply(&mut model);
    }
    let tree = Tree::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (text, tree, model)
}

fn bytes(tree: &Tree, file: NodeId, offset: u64, len: u64) -> Vec<Byte> {
    let ranges = tree.plan(file, offset, len);
    ranges
        .flat_map(|p| (p.offset..p.offset + p.len).map(move |at| (tree.block(p.block), at)))
        .collect()
}

fn ids(tree: &Tree) -> impl Iterator<Item = NodeId> {
    (0..tree.len() as u32).map(NodeId)
}

fn assert_is(tree: &Tree, model: &Model) {
    let files = ids(tree).filter(|id| !tree.is_dir(*id));
    let files: BTreeMap<_, _> =
        files.map(|id| (tree.path(id), bytes(tree, id, 0, u64::MAX))).collect();
    assert_eq!(files, model.files);
    assert_eq!(tree.file_count(), model.files.len());
    let dirs = ids(tree).filter(|id| tree.is_dir(*id) && *id != NodeId::ROOT);
    assert_eq!(dirs.map(|id| tree.path(id)).collect::<BTreeSet<_>>(), model.dirs);
    assert_eq!(tree.len(), 1 + model.files.len() + model.dirs.len());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tree_is_what_its_manifest_says(streams in streams()) {
        let (text, tree, model) = built(&streams);
        assert_is(&tree, &model);
        for dir in ids(&tree).filter(|id| tree.is_dir(*id)) {
            let children: Vec<_> = tree.children(dir).collect();
            prop_assert!(children.is_sorted_by(|a, b| tree.name(*a) < tree.name(*b)));
            for child in children {
                prop_assert!(child > dir);
                prop_assert_eq!(tree.parent(child), dir);
                prop_assert_eq!(tree.child(dir, tree.name(child)), Some(child));
                prop_assert_eq!(tree.find(&tree.path(child)), Some(child));
            }
            prop_assert_eq!(tree.child(dir, "missing"), None);
        }
        prop_assert_eq!(Tree::parse(&strip(&text)).expect("still one").stripped(), tree.stripped());
    }

    #[test]
    fn normal_form_is_the_same_collection(streams in streams()) {
        let (_, tree, model) = built(&streams);
        for text in [tree.normalized(), tree.stripped()] {
            let again = Tree::parse(&text).expect("what is written can be read");
            assert_is(&again, &model);
            prop_assert!(diff(&tree, &again).is_empty());
        }
        let stripped = tree.stripped();
        prop_assert_eq!(&strip(&stripped), &stripped);
        prop_assert_eq!(tree.portable_data_hash(), Pdh::of_stripped(&stripped));
    }

    #[test]
    fn a_plan_is_the_bytes_asked_for(streams in streams(), offset in 0u64..40, len in 0u64..40) {
        let (_, tree, model) = built(&streams);
        for (path, all) in &model.files {
            let file = tree.find(path).expect("there");
            prop_assert_eq!(tree.size(file), all.len() as u64);
            let begin = all.len().min(offset as usize);
            let end = all.len().min((offset + len) as usize);
            prop_assert_eq!(bytes(&tree, file, offset, len), &all[begin..end]);
            prop_assert!(tree.plan(file, offset, len).all(|range| range.len > 0));

            let mut blocks: Vec<Block> = all[begin..].iter().map(|(block, _)| *block).collect();
            blocks.dedup();
            let mut listed: Vec<_> =
                tree.file_blocks_from(file, offset).map(|id| tree.block(id)).collect();
            // Locators that differ in hints alone are blocks of their own.
            listed.dedup();
            prop_assert_eq!(listed, blocks);
        }
    }

    #[test]
    fn a_diff_is_what_the_models_say(old in streams(), new in streams(), shared in streams()) {
        let (_, before, was) = built(&[&shared[..], &old[..]].concat());
        let (_, after, is) = built(&[&shared[..], &new[..]].concat());
        let diff = diff(&before, &after);
        for id in ids(&after) {
            let path = after.path(id);
            let (stays, same) = if after.is_dir(id) { (
                path.is_empty() || was.dirs.contains(&path),
                was.listing(&path) == is.listing(&path),
            ) } else { (was.files.contains_key(&path), was.files.get(&path) == is.files.get(&path)) };
            prop_assert_eq!(diff.old_of(id).map(|old| before.path(old)), stays.then(|| path.clone()));
            prop_assert_eq!(diff.is_same(id), stays && same);
            prop_assert_eq!(diff.changed().contains(&id), stays && !same);
            prop_assert_eq!(diff.added().contains(&id), !stays);
        }
        let gone: Vec<_> = ids(&before)
            .filter(|id| {
                let path = before.path(*id);
                !path.is_empty() && !is.dirs.contains(&path) && !is.files.contains_key(&path)
            })
            .collect();
        prop_assert_eq!(diff.removed(), gone);
    }

    #[test]
    fn renewed_locators_are_the_newer_ones(streams in streams(), signed in 1u32..9) {
        let (_, tree, model) = built(&streams);
        let newer: Vec<_> = streams
            .iter()
            .map(|stream| {
                let mut stream = stream.clone();
                for (_, _, hints) in &mut stream.blocks {
                    *hints = format!("+A{signed:040}@6600000{signed}");
                }
                stream
            })
            .collect();
        let (_, newer, _) = built(&newer);
        prop_assert_eq!(tree.renew_locators(&newer), tree.block_count());
        assert_is(&tree, &model);
        prop_assert_eq!(tree.expires_at(), newer.expires_at());
        prop_assert_eq!(tree.normalized(), newer.normalized());
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ \n\t.:/\\\\0-9a-f+A@é]{0,80}") {
        if let Ok(tree) = Tree::parse(&text) {
            prop_assert!(Tree::parse(&tree.normalized()).is_ok());
        }
    }
}
