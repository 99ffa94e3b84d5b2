// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writes files of which all is stored as a manifest.
//!
//! A manifest has no holes: they are parts of a block of zeros, which the caller stores. One block
//! serves all holes: as long as the longest of them, from 1 to 64 MiB by powers of two, so that a
//! hole up to that length is one segment, and a mount uploads seven such blocks at most.

use std::collections::{HashMap, HashSet};
use std::fmt;

use bytes::Bytes;

use super::blocks::{BlockRef, Piece, Pieces};
use crate::manifest::shown;
use crate::manifest::write::{BlockPiece, StreamWriter, empty_directory};
use crate::types::{Locator, Md5};

/// What zeros are uploaded from, over and over.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// The most segments that a file's holes may become: 64 TiB of full blocks.
const MOST_ZEROS: u64 = 1 << 20;

/// A directory, with the files in it.
#[derive(Clone, Debug, Default)]
pub struct Directory<'n> {
    /// The names from the collection's root to it, joined by `/`; empty for the root.
    pub path: &'n str,
    /// Each file's name, and all that it contains: `contents.pieces(0, MAX_LEN)`.
    pub files: Vec<(&'n str, Pieces)>,
}

/// Why files cannot be a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritable {
    /// The file or directory.
    pub path: String,
    /// What is wrong with it.
    pub reason: UnwritableReason,
}

/// What is wrong with a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnwritableReason {
    /// Bytes from that offset on are not stored.
    NotStored(u64),
    /// At that offset is a hole, and there is no block of zeros.
    Hole(u64),
    /// The holes are too long: of full blocks of zeros, 64 TiB in one file.
    TooManyZeros,
    /// A name that a manifest cannot have: an empty one, `.`, or one with a `/`.
    Name,
}

/// How long the block of zeros for a hole of so many bytes should be, in bytes.
#[must_use]
pub fn zeros_len(longest_hole: u64) -> u32 {
    // Both bounds have 32 bits.
    longest_hole.clamp(1 << 20, 64 << 20).next_power_of_two() as u32
}

/// The content of a block of zeros, in parts that share 1 MiB.
#[must_use]
pub fn zeros(len: u32) -> Vec<Bytes> {
    let len = len as usize;
    let parts = (0..len).step_by(ZEROS.len());
    parts.map(|at| Bytes::from_static(&ZEROS[..ZEROS.len().min(len - at)])).collect()
}

/// The manifest of these directories in normal form, whatever their order and that of their files.
/// A directory with nothing in it is written as an empty one, the root left out. Of a block that
/// comes with several signatures, the one that lasts longest is written. `zeros` is a block of zeros for
/// the holes, [`zeros_len`] bytes of the longest of them.
///
/// ```
/// use std::sync::Arc;
/// use arvados_fuse::collection::Tree;
/// use arvados_fuse::collection::draft::{Contents, Directory, MAX_LEN, write_manifest};
///
/// let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n";
/// let tree = Arc::new(Tree::parse(text)?);
/// let contents = Contents::of_tree(&tree, tree.find("foo").expect("there"));
/// let root = Directory { path: "", files: vec![("foo", contents.pieces(0, MAX_LEN))] };
/// assert_eq!(write_manifest(vec![root], None).expect("all is stored"), text);
/// # Ok::<(), arvados_fuse::manifest::ManifestError>(())
/// ```
///
/// # Errors
/// The first file or directory that cannot be written, and why.
pub fn write_manifest(
    mut directories: Vec<Directory<'_>>,
    zeros: Option<&BlockRef>,
) -> Result<String, Unwritable> {
    directories.sort_by(|a, b| a.path.split('/').cmp(b.path.split('/')));
    let mut table = Table::default();
    let mut lines = Vec::with_capacity(directories.len());
    let mut parents = HashSet::new();
    for directory in &mut directories {
        let Directory { path, files } = directory;
        let refused = |path: &str, reason| Err(Unwritable { path: shown(path), reason });
        if !path.is_empty() && !path.split('/').all(is_name) {
            return refused(path, UnwritableReason::Name);
        }
        parents.extend(path.rsplit_once('/').map(|(above, _)| above));
        files.sort_by_key(|(name, _)| *name);
        let mut line = Vec::with_capacity(files.len());
        for (name, pieces) in &**files {
            let placed = if is_name(name) {
                table.place(pieces, zeros)
            } else {
                Err(UnwritableReason::Name)
            };
            match placed {
                Ok(pieces) => line.push(pieces),
                Err(reason) if path.is_empty() => return refused(name, reason),
                Err(reason) => return refused(&format!("{path}/{name}"), reason),
            }
        }
        lines.push(line);
    }
    let mut out = String::new();
    for (Directory { path, files }, line) in directories.iter().zip(lines) {
        let stream = if path.is_empty() { ".".to_owned() } else { format!("./{path}") };
        if !files.is_empty() {
            let mut writer = StreamWriter::begin(&mut out, &stream);
            for ((name, _), pieces) in files.iter().zip(line) {
                writer.file(name, pieces, |key| &table.locators[key as usize]);
            }
            writer.end();
        } else if !path.is_empty() && !parents.contains(path) {
            empty_directory(&mut out, &stream);
        }
    }
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && !name.contains('/')
}

/// The blocks of a manifest, each with the locator that it is written with.
#[derive(Default)]
struct Table {
    locators: Vec<Locator>,
    keys: HashMap<(Md5, u32), u32>,
}

impl Table {
    /// The pieces of a file as they are written.
    fn place(
        &mut self,
        pieces: &Pieces,
        zeros: Option<&BlockRef>,
    ) -> Result<Vec<BlockPiece>, UnwritableReason> {
        let mut placed = Vec::with_capacity(pieces.len());
        let (mut at, mut zero_pieces) = (0, 0);
        for piece in pieces {
            match piece {
                Piece::Stored { block, offset, len } => {
                    placed.push(self.piece(block, *offset, *len));
                }
                Piece::Buffered(_) => return Err(UnwritableReason::NotStored(at)),
                Piece::Hole(len) => {
                    let block = zeros.filter(|block| block.size() > 0);
                    let block = block.ok_or(UnwritableReason::Hole(at))?;
                    let size = u64::from(block.size());
                    zero_pieces += len.div_ceil(size);
                    if zero_pieces > MOST_ZEROS {
                        return Err(UnwritableReason::TooManyZeros);
                    }
                    let whole = self.piece(block, 0, block.size());
                    let full = (len / size) as usize;
                    placed.extend(std::iter::repeat_n(whole, full));
                    // Less than the block's size, which has 32 bits.
                    let rest = (len % size) as u32;
                    placed.extend((rest > 0).then_some(BlockPiece { length: rest, ..whole }));
                }
            }
            at += piece.len();
        }
        Ok(placed)
    }

    fn piece(&mut self, block: &BlockRef, offset: u32, length: u32) -> BlockPiece {
        let (md5, block_size) = (block.md5(), block.size());
        let next = self.locators.len() as u32;
        let key = *self.keys.entry((md5, block_size)).or_insert(next);
        let locator = block.locator();
        match self.locators.get_mut(key as usize) {
            None => self.locators.push(locator),
            Some(known) if known.expires_at() < locator.expires_at() => *known = locator,
            Some(_) => {}
        }
        BlockPiece { key, block_size, offset, length }
    }
}

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.reason {
            UnwritableReason::NotStored(at) => write!(f, "{path:?} is not stored from {at} on"),
            UnwritableReason::Hole(at) => {
                write!(f, "{path:?} has a hole at {at}, and there is no block of zeros")
            }
            UnwritableReason::TooManyZeros => write!(f, "the holes of {path:?} are too long"),
            UnwritableReason::Name => write!(f, "{path:?} has a name that cannot be saved"),
        }
    }
}

impl std::error::Error for Unwritable {}
