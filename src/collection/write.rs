// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writes the tree back as a manifest.

use std::collections::HashMap;
use std::fmt;

use super::blocks::{Block, BlockId};
use super::hints::{BlockHints, Hints};
use super::tree::{NodeId, Tree};
use crate::manifest::write::{BlockPiece, StreamWriter, empty_directory};
use crate::types::Pdh;

impl Tree {
    /// The manifest in normal form, with the locators' hints.
    #[must_use]
    pub fn normalized(&self) -> String {
        self.write(&self.blocks.current_hints())
    }

    /// The manifest in normal form, with no hints: what the portable data hash is the digest of.
    #[must_use]
    pub fn stripped(&self) -> String {
        self.write(&Hints::default())
    }

    /// The portable data hash of the content, from the normal form. The hash in a collection's
    /// record is of the manifest as it was saved, which need not be in normal form.
    #[must_use]
    pub fn portable_data_hash(&self) -> Pdh {
        Pdh::of_stripped(&self.stripped())
    }

    fn write(&self, hints: &Hints) -> String {
        let keys = self.keys(hints);
        let mut out = String::with_capacity(self.names.len() * 2);
        let mut path = String::from(".");
        // Directories still to write, the next one last, and the length of the path before it.
        let mut ahead = vec![(NodeId::ROOT, 0)];
        while let Some((dir, parent_path)) = ahead.pop() {
            if dir != NodeId::ROOT {
                path.truncate(parent_path);
                path.push('/');
                path.push_str(self.name(dir));
            }
            self.write_directory(dir, &path, &keys, hints, &mut out);
            let below = self.children(dir).rev().filter(|child| self.is_dir(*child));
            ahead.extend(below.map(|child| (child, path.len())));
        }
        out
    }

    fn write_directory(
        &self,
        dir: NodeId,
        path: &str,
        keys: &[u32],
        hints: &Hints,
        out: &mut String,
    ) {
        let children = self.children(dir);
        if children.len() == 0 {
            if dir != NodeId::ROOT {
                empty_directory(out, path);
            }
            return;
        }
        let mut files = children.filter(|child| !self.is_dir(*child)).peekable();
        if files.peek().is_none() {
            return;
        }
        let mut line = StreamWriter::begin(out, path);
        for file in files {
            let pieces = self.segments(file).map(|piece| BlockPiece {
                key: keys[piece.block.0 as usize],
                block_size: self.block(piece.block).size,
                offset: piece.offset,
                length: piece.len,
            });
            line.file(self.name(file), pieces, |key| self.written(BlockId(key), hints));
        }
        line.end();
    }

    fn written<'h>(&self, id: BlockId, hints: &'h Hints) -> Written<'h> {
        Written { block: self.block(id), hints: hints.of(id) }
    }

    /// For each block the first one whose locator is written alike.
    fn keys(&self, hints: &Hints) -> Vec<u32> {
        let mut first = HashMap::with_capacity(self.block_count());
        (0..self.block_count() as u32)
            .map(|id| *first.entry(self.written(BlockId(id), hints)).or_insert(id))
            .collect()
    }
}

/// A locator as it is written.
#[derive(PartialEq, Eq, Hash)]
struct Written<'h> {
    block: Block,
    hints: BlockHints<'h>,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.block.md5, self.block.size)?;
        if self.hints.is_empty() { Ok(()) } else { write!(f, "+{}", self.hints) }
    }
}
