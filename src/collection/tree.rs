// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The tree: nodes, names, extents, and the questions that a file system asks of them.

use std::fmt;
use std::ops::Range;

use super::blocks::Blocks;
use super::build;
use crate::manifest::ManifestError;

/// A node of one tree. Ids of one tree mean nothing to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The collection's top directory.
    pub const ROOT: NodeId = NodeId(0);

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A stream of the manifest, or a part of a stream's path.
    Directory,
    /// A file.
    File,
}

/// The content of a collection. Share it as `Arc<Tree>`.
///
/// Methods that take a [`NodeId`] or a `BlockId` panic if it is not of this tree.
///
/// ```
/// use arvados_fuse::collection::{NodeId, Tree};
///
/// let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:e\n";
/// let tree = Tree::parse(text)?;
/// let names: Vec<_> = tree.children(NodeId::ROOT).map(|id| tree.name(id)).collect();
/// assert_eq!(names, ["d", "foo"]);
///
/// let foo = tree.find("foo").expect("in the manifest");
/// assert_eq!((tree.is_dir(foo), tree.size(foo)), (false, 3));
/// // The bytes 1 and 2 of the file are these of its block.
/// let pieces: Vec<_> = tree.plan(foo, 1, 2).map(|piece| (piece.offset, piece.len)).collect();
/// assert_eq!(pieces, [(1, 2)]);
/// # Ok::<(), arvados_fuse::manifest::ManifestError>(())
/// ```
pub struct Tree {
    /// All names, in the order of the nodes.
    pub(super) names: Box<str>,
    pub(super) nodes: Box<[Node]>,
    /// The files' extents, in the order of the nodes.
    pub(super) extents: Box<[Extent]>,
    pub(super) blocks: Blocks,
    pub(super) files: u32,
    pub(super) odd_names: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Node {
    /// Where its name begins; the next node's begins where it ends.
    pub name: u32,
    pub parent: u32,
    /// First child, or first extent.
    pub first: u32,
    /// How many there are; the top bit is set for a file.
    pub count_and_kind: u32,
}

pub(super) const FILE: u32 = 1 << 31;

/// A part of a file: bytes that follow one another in the blocks of a stream.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Where it ends in the file.
    pub end: u64,
    /// Where it begins in the blocks of all streams put one after another.
    pub position: u64,
}

impl Tree {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with the text, and in which line.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        build::build(text)
    }

    /// A collection of nothing: only the root.
    #[must_use]
    pub fn empty() -> Self {
        let root = Node { name: 0, parent: 0, first: 0, count_and_kind: 0 };
        Tree {
            names: Box::default(),
            nodes: Box::new([root]),
            extents: Box::default(),
            blocks: Blocks::default(),
            files: 0,
            odd_names: false,
        }
    }

    /// How many nodes there are, the root included. Their ids are `0..len`.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the root is always there")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many files there are.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.files as usize
    }

    /// What the node is.
    #[must_use]
    pub fn kind(&self, id: NodeId) -> Kind {
        match self.nodes[id.index()].count_and_kind & FILE {
            0 => Kind::Directory,
            _ => Kind::File,
        }
    }

    /// Whether the node is a directory.
    #[must_use]
    pub fn is_dir(&self, id: NodeId) -> bool {
        self.kind(id) == Kind::Directory
    }

    /// The node's name; empty for the root.
    #[must_use]
    pub fn name(&self, id: NodeId) -> &str {
        let begin = self.nodes[id.index()].name as usize;
        let end = self.nodes.get(id.index() + 1).map_or(self.names.len(), |n| n.name as usize);
        &self.names[begin..end]
    }

    /// The directory that the node is in; the root is in itself.
    #[must_use]
    pub fn parent(&self, id: NodeId) -> NodeId {
        NodeId(self.nodes[id.index()].parent)
    }

    /// The names from the root to the node, joined by `/`; empty for the root.
    #[must_use]
    pub fn path(&self, id: NodeId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join("/")
    }

    /// The children of a directory, by name; none for a file.
    #[must_use]
    pub fn children(&self, dir: NodeId) -> Children {
        let node = self.nodes[dir.index()];
        match node.count_and_kind & FILE {
            0 => Children(node.first..node.first + node.count_and_kind),
            _ => Children(0..0),
        }
    }

    /// The child of that name. Takes as long as the logarithm of the number of children.
    #[must_use]
    pub fn child(&self, dir: NodeId, name: &str) -> Option<NodeId> {
        let Range { mut start, mut end } = self.children(dir).0;
        while start < end {
            let middle = start + (end - start) / 2;
            match self.name(NodeId(middle)).cmp(name) {
                std::cmp::Ordering::Less => start = middle + 1,
                std::cmp::Ordering::Equal => return Some(NodeId(middle)),
                std::cmp::Ordering::Greater => end = middle,
            }
        }
        None
    }

    /// The node at a path of names joined by `/`; the root for an empty path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<NodeId> {
        if path.is_empty() {
            return Some(NodeId::ROOT);
        }
        path.split('/').try_fold(NodeId::ROOT, |dir, name| self.child(dir, name))
    }

    /// The file's length in bytes, at most 2^63 - 1; 0 for a directory.
    #[must_use]
    pub fn size(&self, file: NodeId) -> u64 {
        self.file_extents(file).last().map_or(0, |extent| extent.end)
    }

    pub(super) fn file_extents(&self, file: NodeId) -> &[Extent] {
        let node = self.nodes[file.index()];
        if node.count_and_kind & FILE == 0 {
            &[]
        } else {
            let (first, count) = (node.first as usize, (node.count_and_kind & !FILE) as usize);
            &self.extents[first..first + count]
        }
    }

    /// Whether a name is there that no file system can show: `.`, `..`, one with a NUL, or one of
    /// more than 255 bytes.
    #[must_use]
    pub fn has_odd_names(&self) -> bool {
        self.odd_names
    }

    /// The bytes of memory that the tree takes, itself included.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.names.len()
            + size_of_val(&*self.nodes)
            + size_of_val(&*self.extents)
            + self.blocks.heap()
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("nodes", &self.nodes.len())
            .field("files", &self.files)
            .field("blocks", &self.block_count())
            .finish_non_exhaustive()
    }
}

/// Children of a directory, in order of their names. Skipping costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Children(Range<u32>);

impl Children {
    /// The child at a position, from 0.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<NodeId> {
        let id = u32::try_from(position).ok()?.checked_add(self.0.start)?;
        self.0.contains(&id).then_some(NodeId(id))
    }

    /// Whether the node is one of them.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.0.contains(&id.0)
    }

    /// The ids as numbers.
    #[must_use]
    pub fn range(&self) -> Range<u32> {
        self.0.clone()
    }
}

impl Iterator for Children {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        self.0.next().map(NodeId)
    }

    fn nth(&mut self, n: usize) -> Option<NodeId> {
        self.0.nth(n).map(NodeId)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Children {
    fn next_back(&mut self) -> Option<NodeId> {
        self.0.next_back().map(NodeId)
    }
}

impl ExactSizeIterator for Children {}
