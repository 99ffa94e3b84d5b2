// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the log was told already: a line about a record belongs there once, not with every listing.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};

use parking_lot::Mutex;

/// How much is remembered; beyond that everything is forgotten, and told again.
const REMEMBERED: usize = 10_000;

/// Remembers what was told.
#[derive(Debug, Default)]
pub struct Told {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

impl Told {
    /// Whether `what` comes for the first time.
    pub fn is_new(&self, what: impl Hash) -> bool {
        let mut hashes = self.hashes.lock();
        if hashes.len() >= REMEMBERED {
            hashes.clear();
        }
        hashes.insert(self.hasher.hash_one(what))
    }
}

#[cfg(test)]
mod tests {
    use super::{REMEMBERED, Told};

    #[test]
    fn each_is_told_once_and_memory_is_bounded() {
        let told = Told::default();
        assert!(told.is_new("a") && told.is_new("b") && !told.is_new("a"));
        for number in 0..3 * REMEMBERED {
            told.is_new(number);
        }
        assert!(told.hashes.lock().len() <= REMEMBERED);
    }
}
