// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Names that the kernel asked for and that there are not.
//!
//! It remembers each of them (and asks again each time), and for as long as it does, it does not give
//! the directory back. So that a directory can be evicted, these names are to be known, too.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

/// How many names are kept track of in all of a mount. The kernel cannot be told safely to forget one
/// that is no longer kept: it may be that of a directory by now. It forgets it where memory is short.
const MOST: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The names, with the inode number of their directory. Its lock is a leaf.
pub struct Absent {
    hasher: RandomState,
    /// By their hash, so that one that is known is found without a copy of it. Of two with one hash
    /// the later one is kept.
    names: Mutex<LruCache<u64, (u64, Box<str>)>>,
}

impl Default for Absent {
    fn default() -> Self {
        Absent { hasher: RandomState::new(), names: Mutex::new(LruCache::new(MOST)) }
    }
}

impl Absent {
    /// The kernel is told that there is no such name.
    pub fn note(&self, parent: u64, name: &str) {
        let hash = self.hasher.hash_one((parent, name));
        let mut names = self.names.lock();
        match names.get(&hash) {
            Some((p, n)) if *p == parent && **n == *name => {}
            _ => drop(names.put(hash, (parent, name.into()))),
        }
    }

    /// Takes out the names in any of these directories.
    #[must_use]
    pub fn take(&self, parents: &HashSet<u64>) -> Vec<(u64, Box<str>)> {
        let mut names = self.names.lock();
        let found: Vec<u64> = names
            .iter()
            .filter(|(_, (parent, _))| parents.contains(parent))
            .map(|(hash, _)| *hash)
            .collect();
        found.iter().filter_map(|hash| names.pop(hash)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Absent, MOST};

    #[test]
    fn names_are_taken_by_their_directory_and_bounded() {
        let absent = Absent::default();
        absent.note(1, "a");
        absent.note(2, "b");
        assert_eq!(absent.take(&[2, 3].into()), [(2, "b".into())]);
        assert!(absent.take(&[2, 3].into()).is_empty());
        for n in 0..MOST.get() {
            absent.note(4, &n.to_string());
        }
        assert!(absent.take(&[1].into()).is_empty());
        assert_eq!(absent.take(&[4].into()).len(), MOST.get());
    }
}
