// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Random operations. They name what they are about by selectors, which are taken modulo what there
//! is: any operation can be left out while a failure shrinks.

use proptest::prelude::*;

use super::blocks::{CONTENTS, PATHS};

/// Selects one of what there is.
pub(crate) type Pick = u8;

/// Names that may be looked up: of collections' files, of the layer above, and of nothing.
pub(crate) const NAMES: [&str; 12] =
    ["a", "b", "d", "e", "x", "p", "q", "r", "s", ".", "..", "missing"];
/// Selectors of names below this one are of those that are listed.
pub(crate) const LISTED: Pick = 200;
/// What a newer version does not change.
pub(crate) const KEPT: u8 = CONTENTS + 1;
/// Names that the layer above gives.
pub(crate) const GIVEN: [&str; 4] = ["p", "q", "r", "s"];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Look up a name that is there, or one of [`NAMES`] from [`LISTED`] on; in a directory, unless
    /// `anywhere`.
    Lookup {
        dir: Pick,
        name: Pick,
        anywhere: bool,
    },
    Getattr {
        of: Pick,
    },
    /// Drop one lookup, or all.
    Forget {
        of: Pick,
        all: bool,
    },
    Open {
        file: Pick,
    },
    Read {
        handle: Pick,
        offset: u16,
        size: u16,
    },
    Opendir {
        of: Pick,
    },
    /// Go on with a listing, or go back to where it once was.
    List {
        handle: Pick,
        plus: bool,
        room: u8,
        back: Option<Pick>,
    },
    Release {
        handle: Pick,
    },
    /// Add a file, a directory or a collection.
    Add {
        dir: Pick,
        name: Pick,
        kind: Pick,
    },
    /// Remove an entry, by a request of the kernel's or from outside.
    Remove {
        dir: Pick,
        name: Pick,
        asked: bool,
    },
    Rename {
        dir: Pick,
        name: Pick,
        to: Pick,
        new_name: Pick,
        asked: bool,
    },
    /// There is a newer version of a collection: each file is another, none, or [`KEPT`].
    Commit {
        collection: Pick,
        slots: [u8; PATHS.len()],
    },
    /// So is there of the collection that a directory shows, which is told to look for it at its next
    /// access, or shows it at once.
    Follow {
        of: Pick,
        at_once: bool,
        slots: [u8; PATHS.len()],
    },
    /// Objects supersede what is served from a tree.
    TakeOver {
        of: Pick,
    },
    /// Make room; where the kernel does not give directories back first, what it has stays.
    Evict {
        given_back: bool,
    },
}

fn slots() -> impl Strategy<Value = [u8; PATHS.len()]> {
    proptest::array::uniform(prop_oneof![1 => Just(0_u8), 2 => 1..=CONTENTS, 3 => Just(KEPT)])
}

/// One operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let pick = any::<Pick>;
    let rarely = |of: u32| prop_oneof![of => Just(false), 1 => Just(true)];
    prop_oneof![
        12 => (pick(), pick(), rarely(9))
            .prop_map(|(dir, name, anywhere)| Op::Lookup { dir, name, anywhere }),
        3 => pick().prop_map(|of| Op::Getattr { of }),
        3 => (pick(), any::<bool>()).prop_map(|(of, all)| Op::Forget { of, all }),
        8 => pick().prop_map(|file| Op::Open { file }),
        14 => (pick(), 0..300_u16, 0..300_u16)
            .prop_map(|(handle, offset, size)| Op::Read { handle, offset, size }),
        4 => pick().prop_map(|of| Op::Opendir { of }),
        7 => (pick(), any::<bool>(), 0..6_u8, proptest::option::weighted(0.3, pick()))
            .prop_map(|(handle, plus, room, back)| Op::List { handle, plus, room, back }),
        5 => pick().prop_map(|handle| Op::Release { handle }),
        3 => (pick(), pick(), pick()).prop_map(|(dir, name, kind)| Op::Add { dir, name, kind }),
        2 => (pick(), pick(), any::<bool>())
            .prop_map(|(dir, name, asked)| Op::Remove { dir, name, asked }),
        2 => (pick(), pick(), pick(), pick(), any::<bool>()).prop_map(
            |(dir, name, to, new_name, asked)| Op::Rename { dir, name, to, new_name, asked }
        ),
        1 => (pick(), slots()).prop_map(|(collection, slots)| Op::Commit { collection, slots }),
        6 => (pick(), any::<bool>(), slots())
            .prop_map(|(of, at_once, slots)| Op::Follow { of, at_once, slots }),
        1 => pick().prop_map(|of| Op::TakeOver { of }),
        2 => rarely(40).prop_map(|held| Op::Evict { given_back: !held }),
    ]
}
