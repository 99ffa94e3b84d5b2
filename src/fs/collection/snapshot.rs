// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A version of a collection, with the inode numbers under which it is shown. Never changed: a
//! later version is another one.

use std::sync::Arc;

use crate::collection::{Diff, NodeId, Tree};
use crate::fs::attr::Timestamp;

/// Which number a node has, and when it was last changed.
enum Numbers {
    /// As it was loaded: node `i` has the number `first + i - 1`, and the collection's time.
    Range { first: u64, mtime: Timestamp },
    /// After an update: what stayed keeps what it had.
    Each {
        /// By node: number and time of change.
        of: Box<[(u64, Timestamp)]>,
        /// Nodes in order of their number.
        ordered: Box<[(u64, u32)]>,
    },
}

/// A version of a collection, as it is shown.
pub struct Snapshot {
    tree: Arc<Tree>,
    numbers: Numbers,
}

impl Snapshot {
    /// A tree just loaded. The root's number is not among them.
    #[must_use]
    pub fn new(tree: Arc<Tree>, first: u64, mtime: Timestamp) -> Self {
        Snapshot { tree, numbers: Numbers::Range { first, mtime } }
    }

    /// Nothing but a root.
    #[must_use]
    pub fn empty() -> Self {
        Snapshot::new(Arc::new(Tree::empty()), 0, Timestamp(0))
    }

    /// A tree whose nodes have these numbers and times of change, in their order.
    ///
    /// # Panics
    /// Where there are others than nodes.
    #[must_use]
    pub(super) fn numbered(tree: Arc<Tree>, of: Vec<(u64, Timestamp)>) -> Self {
        assert_eq!(of.len(), tree.len(), "a number for each node");
        let mut ordered: Vec<(u64, u32)> =
            (0_u32..).zip(&of).skip(1).map(|(at, (number, _))| (*number, at)).collect();
        ordered.sort_unstable();
        Snapshot { tree, numbers: Numbers::Each { of: of.into(), ordered: ordered.into() } }
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Inode number of a node other than the root.
    #[must_use]
    pub fn ino(&self, id: NodeId) -> u64 {
        match &self.numbers {
            Numbers::Range { first, .. } => first + u64::from(id.0) - 1,
            Numbers::Each { of, .. } => of[id.0 as usize].0,
        }
    }

    /// The node of that inode number.
    #[must_use]
    pub fn id(&self, ino: u64) -> Option<NodeId> {
        match &self.numbers {
            Numbers::Range { first, .. } => {
                let at = u32::try_from(ino.checked_sub(*first)? + 1).ok()?;
                ((at as usize) < self.tree.len()).then_some(NodeId(at))
            }
            Numbers::Each { ordered, .. } => {
                let at = ordered.binary_search_by_key(&ino, |(number, _)| *number).ok()?;
                Some(NodeId(ordered[at].1))
            }
        }
    }

    /// When a node was last changed.
    #[must_use]
    pub fn mtime(&self, id: NodeId) -> Timestamp {
        match &self.numbers {
            Numbers::Range { mtime, .. } => *mtime,
            Numbers::Each { of, .. } => of[id.0 as usize].1,
        }
    }

    /// Sets when a node was last changed, in a version that is numbered node by node.
    pub(super) fn set_mtime(&mut self, id: NodeId, to: Timestamp) {
        if let Numbers::Each { of, .. } = &mut self.numbers {
            of[id.0 as usize].1 = to;
        }
    }

    /// Memory that it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let numbers = match &self.numbers {
            Numbers::Range { .. } => 0,
            Numbers::Each { of, ordered } => size_of_val(&**of) + size_of_val(&**ordered),
        };
        self.tree.memory() + numbers
    }

    /// The version that follows this one; `reserve(n)` answers the first of `n` new numbers.
    pub(super) fn successor(
        &self,
        tree: Arc<Tree>,
        difference: &Diff,
        mtime: Timestamp,
        reserve: impl FnOnce(u64) -> u64,
    ) -> Self {
        let mut of = vec![(0, mtime); tree.len()];
        for (now, id) in of.iter_mut().zip(0..).skip(1) {
            if let Some(before) = difference.old_of(NodeId(id)) {
                let same = difference.is_same(NodeId(id));
                *now = (self.ino(before), if same { self.mtime(before) } else { mtime });
            }
        }
        let added = difference.added();
        if !added.is_empty() {
            let first = reserve(added.len() as u64);
            for (number, id) in (first..).zip(added) {
                of[id.0 as usize].0 = number;
            }
        }
        Snapshot::numbered(tree, of)
    }
}
