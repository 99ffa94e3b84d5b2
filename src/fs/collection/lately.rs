// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What was saved a moment ago: whoever saves the same file so soon cannot have seen it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::State;
use super::capture::Captured;
use super::replacements::Replacements;
use crate::collection::draft::{Contents, MAX_LEN, Piece};
use crate::fs::attr::Timestamp;
use crate::types::Md5;

/// What a file contained when it was saved, until it is known whether somebody replaced that who cannot
/// have seen it.
pub(super) struct Lately {
    pub contents: Contents,
    /// The blocks in it that were not in what it took the place of, or else all: who has one saw it.
    pub made: HashSet<Md5>,
    /// When it was saved, by the server's clock.
    at: Timestamp,
    /// And by our own.
    told: Instant,
    /// When somebody else changed the collection who cannot have seen it, by the server's clock.
    pub contested: Option<Timestamp>,
}

impl Lately {
    /// Whether it may still come out that somebody replaced it.
    pub(super) fn is_awaited(&self) -> bool {
        self.told.elapsed() < AWAITED
    }

    /// Whether somebody who changed the collection then cannot have seen it.
    pub(super) fn is_unseen_by(&self, theirs: Timestamp) -> bool {
        theirs.saturating_since(self.at) <= UNSEEN
    }
}

/// Who saves a file so soon after it was saved here cannot have seen that. Both by the server's clock, of
/// which whole seconds are known.
const UNSEEN: Duration = Duration::from_secs(2);
/// How late it may come out that somebody did, on a machine that is busy.
const AWAITED: Duration = Duration::from_secs(60);
/// Of so many files that were saved is looked which are not awaited any more, at least.
const MANY: usize = 1024;

impl State {
    /// Notes what was saved, and when, by the server's clock.
    pub(super) fn saved_lately(
        &mut self,
        captured: &Captured,
        replaced: &Replacements,
        at: Timestamp,
    ) {
        let told = Instant::now();
        if self.lately.len() >= self.many {
            self.lately.retain(|_, lately| lately.is_awaited());
            self.many = MANY.max(2 * self.lately.len());
        }
        for (_, ino) in &replaced.files {
            if let Some(contents) = captured.contents_of(*ino).filter(|it| !it.is_empty()) {
                // Versions are not kept for that long.
                let contents = contents.detached();
                let before = match self.lately.get(ino) {
                    Some(lately) => blocks(&lately.contents),
                    None => captured.base_of(*ino).map(|it| blocks(&it)).unwrap_or_default(),
                };
                let blocks = blocks(&contents);
                let made = Some(&blocks - &before).filter(|made| !made.is_empty());
                let made = made.unwrap_or(blocks);
                self.lately.insert(*ino, Lately { contents, made, at, told, contested: None });
            }
        }
    }

    /// Somebody else changed the collection at that time, by the server's clock; answers whether that may be
    /// what was saved here. Without a time that comes out when it is looked at.
    pub(super) fn contest(&mut self, at: Option<Timestamp>) -> bool {
        let mut unseen = false;
        self.lately.retain(|_, lately| lately.is_awaited());
        for lately in self.lately.values_mut() {
            if let Some(at) = at.filter(|at| lately.is_unseen_by(*at)) {
                lately.contested = lately.contested.max(Some(at));
            }
            unseen |= lately.contested.is_some() || at.is_none();
        }
        unseen
    }
}

/// The blocks that a file has something of.
pub(super) fn blocks(contents: &Contents) -> HashSet<Md5> {
    let pieces = contents.pieces(0, MAX_LEN);
    let stored = pieces.iter().filter_map(|piece| match piece {
        Piece::Stored { block, .. } => Some(block.md5()),
        Piece::Buffered(_) | Piece::Hole(_) => None,
    });
    stored.collect()
}
