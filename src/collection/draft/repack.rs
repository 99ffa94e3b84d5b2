// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Parts of small blocks, put together in one block.
//!
//! What files show of small blocks is gathered in order of the files ([`Gathered`]); once that is stored as one
//! block, the same parts are found there ([`Repacked`]). A part that several files show is there once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::blocks::{BlockRef, Piece, Pieces};
use crate::types::{Locator, Md5};

/// A part of a block as files show it: the block's digest and length, where the part begins, and its length.
type Part = (Md5, u32, u32, u32);

fn part_of(piece: &Piece) -> Option<Part> {
    match piece {
        Piece::Stored { block, offset, len } => Some((block.md5(), block.size(), *offset, *len)),
        _ => None,
    }
}

/// Parts of blocks that are to be one block.
///
/// ```
/// use std::sync::Arc;
/// use arvados_fuse::collection::Tree;
/// use arvados_fuse::collection::draft::{Contents, Gathered, MAX_LEN};
///
/// let (foo, bar) = ("acbd18db4cc2f85cedef654fccc4a4d8+3", "37b51d194a7513e45b56f6524f2d51f2+3");
/// let tree = Arc::new(Tree::parse(&format!(". {foo} {bar} 1:5:file\n"))?);
/// let file = tree.find("file").expect("there");
/// let pieces = Contents::of_tree(&tree, file).pieces(0, MAX_LEN);
/// let mut gathered = Gathered::new(1 << 20);
/// gathered.add(&pieces, |block| block.size() < 1 << 20);
/// assert_eq!((gathered.blocks(), gathered.len()), (2, 5));
/// let repacked = gathered.stored(Arc::new("0b6152b0b8a6d0ef4f8a3ea9f6c36b5e+5".parse()?));
/// assert_eq!(repacked.moved(pieces).len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gathered {
    /// In the order in which they are to be stored.
    parts: Vec<(BlockRef, Part)>,
    /// Where each begins in the block that they will be.
    at: HashMap<Part, u32>,
    /// Whether parts of a block are wanted.
    blocks: HashMap<(Md5, u32), bool>,
    len: u32,
    most: u32,
}

impl Gathered {
    /// Nothing yet; `most` is how many bytes it may become, at most 64 MiB.
    #[must_use]
    pub fn new(most: u32) -> Self {
        let (at, blocks) = (HashMap::new(), HashMap::new());
        Gathered { parts: Vec::new(), at, blocks, len: 0, most: most.min(64 << 20) }
    }

    /// Takes in what a file shows of blocks that are `wanted`, which is asked once for each. What there
    /// is no room for is left out.
    pub fn add(&mut self, pieces: &Pieces, mut wanted: impl FnMut(&BlockRef) -> bool) {
        for piece in pieces {
            let (Piece::Stored { block, .. }, Some(part)) = (piece, part_of(piece)) else {
                continue;
            };
            let (md5, size, _, len) = part;
            if len > self.most - self.len || self.at.contains_key(&part) {
                continue;
            }
            if *self.blocks.entry((md5, size)).or_insert_with(|| wanted(block)) {
                self.at.insert(part, self.len);
                self.parts.push((block.clone(), part));
                self.len += len;
            }
        }
    }

    /// How many blocks they are parts of.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.values().filter(|wanted| **wanted).count()
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts in the order in which they are to be stored: the block, where the part begins in it, and its
    /// length in bytes.
    pub fn parts(&self) -> impl Iterator<Item = (&BlockRef, u32, u32)> {
        self.parts.iter().map(|(block, (.., offset, len))| (block, *offset, *len))
    }

    /// They are stored, one after another, as that block.
    #[must_use]
    pub fn stored(self, block: Arc<Locator>) -> Repacked {
        Repacked { at: self.at, block: BlockRef::Own(block) }
    }
}

/// Parts of small blocks, and where they are in the block that they have become together.
pub struct Repacked {
    at: HashMap<Part, u32>,
    block: BlockRef,
}

impl Repacked {
    /// The same bytes, of that block where it has them.
    #[must_use]
    pub fn moved(&self, pieces: Pieces) -> Pieces {
        let mut moved = Pieces::new();
        for piece in pieces {
            let place = part_of(&piece).and_then(|part| Some((*self.at.get(&part)?, part.3)));
            let piece = match place {
                Some((offset, len)) => Piece::Stored { block: self.block.clone(), offset, len },
                None => piece,
            };
            piece.push_to(&mut moved);
        }
        moved
    }

    /// What takes the place of what, as the API is told: `LOCATOR OFFSET LENGTH`. The new one is signed.
    pub fn segments(&self) -> impl Iterator<Item = (String, String)> {
        let block = self.block.locator();
        self.at.iter().map(move |((md5, size, offset, len), at)| {
            (format!("{md5}+{size} {offset} {len}"), format!("{block} {at} {len}"))
        })
    }
}

impl fmt::Debug for Repacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repacked({} parts in {:?})", self.at.len(), self.block)
    }
}
