// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What changed between two versions of a collection: which node of the new tree stands for which
//! of the old, and whether its content is the same.

use std::cmp::Ordering;

use super::blocks::Block;
use super::tree::{Kind, NodeId, Tree};

/// How a new tree's nodes relate to an old one's. Nodes stand for one another if their paths and
/// kinds are the same; the roots always do.
///
/// ```
/// use arvados_fuse::collection::{Tree, diff};
///
/// let block = "acbd18db4cc2f85cedef654fccc4a4d8+3";
/// let old = Tree::parse(&format!(". {block} 0:3:kept 0:1:gone 0:1:grown\n"))?;
/// let new = Tree::parse(&format!(". {block} 0:3:kept 0:2:grown\n"))?;
/// let diff = diff(&old, &new);
/// assert!(diff.is_same(new.find("kept").expect("there")));
/// assert!(diff.changed().contains(&new.find("grown").expect("there")));
/// assert_eq!(diff.removed(), [old.find("gone").expect("there")]);
/// # Ok::<(), arvados_fuse::manifest::ManifestError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// By new node: the old one, or `NONE`.
    old: Box<[u32]>,
    changed: Box<[NodeId]>,
    added: Box<[NodeId]>,
    removed: Box<[NodeId]>,
}

const NONE: u32 = u32::MAX;

impl Diff {
    /// The old node that the new one stands for; `None` if it was added.
    #[must_use]
    pub fn old_of(&self, new: NodeId) -> Option<NodeId> {
        match self.old[new.index()] {
            NONE => None,
            old => Some(NodeId(old)),
        }
    }

    /// New nodes that stand for an old one with other content, in their order. A file's content is
    /// its bytes, told by the blocks that hold them; a directory's the names and kinds in it.
    #[must_use]
    pub fn changed(&self) -> &[NodeId] {
        &self.changed
    }

    /// New nodes that stand for no old one, parents first.
    #[must_use]
    pub fn added(&self) -> &[NodeId] {
        &self.added
    }

    /// Old nodes that no new one stands for, parents first.
    #[must_use]
    pub fn removed(&self) -> &[NodeId] {
        &self.removed
    }

    /// Whether the new node stands for an old one with the same content.
    #[must_use]
    pub fn is_same(&self, new: NodeId) -> bool {
        self.old_of(new).is_some() && self.changed.binary_search(&new).is_err()
    }

    /// Whether both trees have the same nodes with the same content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// Compares two trees, in a time linear in both.
#[must_use]
pub fn diff(old: &Tree, new: &Tree) -> Diff {
    let mut of = vec![NONE; new.len()];
    let mut kept = vec![false; old.len()];
    let mut changed = Vec::new();
    of[0] = 0;
    kept[0] = true;
    // Parents come before their children, so that a parent's match is known when it is its turn.
    for id in (0..new.len() as u32).map(NodeId) {
        let Some(before) = Some(of[id.index()]).filter(|old| *old != NONE).map(NodeId) else {
            continue;
        };
        let same = match new.kind(id) {
            Kind::File => same_bytes(old, before, new, id),
            Kind::Directory => match_children((old, before), (new, id), |old, new| {
                of[new.index()] = old.0;
                kept[old.index()] = true;
            }),
        };
        if !same {
            changed.push(id);
        }
    }
    let nodes = |count: usize| (0..count as u32).map(NodeId);
    Diff {
        added: nodes(new.len()).filter(|id| of[id.index()] == NONE).collect(),
        removed: nodes(old.len()).filter(|id| !kept[id.index()]).collect(),
        old: of.into(),
        changed: changed.into(),
    }
}

/// Calls `pair` for the children of the same name and kind; whether all are such.
fn match_children(
    (old, old_dir): (&Tree, NodeId),
    (new, new_dir): (&Tree, NodeId),
    mut pair: impl FnMut(NodeId, NodeId),
) -> bool {
    let mut before = old.children(old_dir).peekable();
    let mut after = new.children(new_dir).peekable();
    let mut same = before.len() == after.len();
    while let (Some(a), Some(b)) = (before.peek().copied(), after.peek().copied()) {
        let order = old.name(a).cmp(new.name(b));
        if order.is_eq() && old.kind(a) == new.kind(b) {
            pair(a, b);
        } else {
            same = false;
        }
        if order != Ordering::Greater {
            before.next();
        }
        if order != Ordering::Less {
            after.next();
        }
    }
    same
}

/// Whether two files are made of the same bytes of the same blocks, however they are cut up.
fn same_bytes(old: &Tree, a: NodeId, new: &Tree, b: NodeId) -> bool {
    old.size(a) == new.size(b) && old.runs(a).eq(new.runs(b))
}

/// Bytes of a block that follow one another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    block: Block,
    begin: u64,
    end: u64,
}

impl Tree {
    /// Whether two of its files are made of the same bytes of the same blocks.
    #[must_use]
    pub fn has_same_bytes(&self, one: NodeId, other: NodeId) -> bool {
        !self.is_dir(one) && !self.is_dir(other) && same_bytes(self, one, self, other)
    }

    /// The file's pieces, neighbours joined.
    fn runs(&self, file: NodeId) -> impl Iterator<Item = Run> {
        let mut pieces = self
            .plan(file, 0, u64::MAX)
            .map(|piece| {
                let begin = u64::from(piece.offset);
                Run { block: self.block(piece.block), begin, end: begin + u64::from(piece.len) }
            })
            .peekable();
        std::iter::from_fn(move || {
            let mut run = pieces.next()?;
            let goes_on = |run: &Run, next: &Run| next.block == run.block && next.begin == run.end;
            while let Some(next) = pieces.next_if(|next| goes_on(&run, next)) {
                run.end = next.end;
            }
            Some(run)
        })
    }
}
