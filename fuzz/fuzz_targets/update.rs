// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Two texts, parted by a NUL: what the diff of their trees says holds in both directions, and
//! renewing one's locators from the other leaves its content alone.

#![no_main]

use arvados_fuse::collection::{NodeId, Tree, diff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((old, new)) = text.split_once('\0') else { return };
    let (Ok(old), Ok(new)) = (Tree::parse(old), Tree::parse(new)) else { return };
    let there = diff(&old, &new);
    let back = diff(&new, &old);
    assert_eq!((there.added(), there.removed()), (back.removed(), back.added()));
    assert_eq!(there.changed().len(), back.changed().len());
    for id in (0..new.len() as u32).map(NodeId) {
        let Some(before) = there.old_of(id) else { continue };
        assert_eq!(old.path(before), new.path(id));
        assert_eq!(back.old_of(before), Some(id));
        assert_eq!(there.is_same(id), back.is_same(before));
    }
    if old.stripped() == new.stripped() {
        assert!(there.is_empty());
    }
    let stripped = old.stripped();
    old.renew_locators(&new);
    assert_eq!(old.stripped(), stripped);
});
