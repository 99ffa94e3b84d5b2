// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writes manifests in normal form: one line a directory, each block once a line, files by name,
//! neighbouring pieces as one. The text is the one that the SDK's `manifest_text(normalize=True)`
//! makes of the same files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{Display, Write as _};

use super::escape::escape_into;
use crate::types::Md5;

/// Appends one line of a manifest: the files of one directory, told in order of their names.
pub struct StreamWriter<'o> {
    out: &'o mut String,
    /// The line's file tokens, which follow its blocks.
    files: String,
    /// The current file's name, escaped.
    name: String,
    /// The bytes of the current file that are not written yet: from where to where in the stream.
    run: Option<(u64, u64)>,
    /// Where each block begins in the stream, by the caller's key.
    blocks: HashMap<u32, u64>,
    /// The key last looked up, and where its block begins: most pieces follow one another.
    last: Option<(u32, u64)>,
    length: u64,
}

/// A piece of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockPiece {
    /// The same for two pieces of a line if and only if their locators are written alike.
    pub key: u32,
    /// Length of the block in bytes.
    pub block_size: u32,
    /// Where the piece begins in the block.
    pub offset: u32,
    /// The piece's length.
    pub length: u32,
}

impl<'o> StreamWriter<'o> {
    /// Begins the line of the directory at `path`: `.`, or beginning with `./`.
    pub fn begin(out: &'o mut String, path: &str) -> Self {
        escape_into(path, out);
        let (files, name, blocks) = (String::new(), String::new(), HashMap::new());
        Self { out, files, name, run: None, blocks, last: None, length: 0 }
    }

    /// Appends a file and its pieces, in order. A file without pieces is empty.
    pub fn file<L: Display>(
        &mut self,
        name: &str,
        pieces: impl IntoIterator<Item = BlockPiece>,
        locator: impl Fn(u32) -> L,
    ) {
        self.name.clear();
        escape_into(name, &mut self.name);
        let mut empty = true;
        for piece in pieces {
            empty = false;
            let begin = self.place(piece, &locator) + u64::from(piece.offset);
            let end = begin + u64::from(piece.length);
            match &mut self.run {
                Some((_, last)) if *last == begin => *last = end,
                _ => {
                    self.write_run();
                    self.run = Some((begin, end));
                }
            }
        }
        if empty {
            self.run = Some((0, 0));
        }
        self.write_run();
    }

    /// Ends the line.
    pub fn end(self) {
        if self.blocks.is_empty() {
            // A line has at least one block.
            let _ = write!(self.out, " {}+0", Md5::EMPTY);
        }
        self.out.push_str(&self.files);
        self.out.push('\n');
    }

    /// Where the piece's block begins in the stream, which gets the block if it is new.
    fn place<L: Display>(&mut self, piece: BlockPiece, locator: impl Fn(u32) -> L) -> u64 {
        if let Some((key, begin)) = self.last
            && key == piece.key
        {
            return begin;
        }
        let begin = match self.blocks.entry(piece.key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                // Writing to a String cannot fail.
                let _ = write!(self.out, " {}", locator(piece.key));
                let begin = *new.insert(self.length);
                self.length += u64::from(piece.block_size);
                begin
            }
        };
        self.last = Some((piece.key, begin));
        begin
    }

    fn write_run(&mut self) {
        if let Some((begin, end)) = self.run.take() {
            let _ = write!(self.files, " {begin}:{}:{}", end - begin, self.name);
        }
    }
}

/// Appends the line that marks an empty directory.
pub fn empty_directory(out: &mut String, path: &str) {
    escape_into(path, out);
    let _ = writeln!(out, " {}+0 0:0:\\056", Md5::EMPTY);
}
