// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What directories of a mounted collection list.

use std::borrow::Cow;
use std::sync::Arc;

use super::draft::{Entry, TOP};
use super::snapshot::Snapshot;
use super::{CollectionNode, Host, MountedCollection, Resolved};
use crate::collection::NodeId;
use crate::fs::any_node::AnyNode;
use crate::fs::node::Listing;

impl<H: Host> MountedCollection<H> {
    /// What the top directory lists.
    #[must_use]
    pub fn top_listing(self: &Arc<Self>) -> Box<dyn Listing<AnyNode<H>>> {
        let state = self.state.read();
        if state.is_drafted(TOP) {
            drop(state);
            return self.draft_listing(TOP);
        }
        let snapshot = Arc::clone(&state.current);
        drop(state);
        self.listing(snapshot, NodeId::ROOT)
    }

    /// What a directory of the draft lists.
    #[must_use]
    pub fn draft_listing(self: &Arc<Self>, dir: u64) -> Box<dyn Listing<AnyNode<H>>> {
        let entries = self.state.read().entries(dir);
        let node = |entry: Entry| {
            let node = CollectionNode::new(Arc::clone(self), entry.ino, entry.dir);
            (entry.name, AnyNode::Collection(node))
        };
        Box::new(DraftListing(entries.into_iter().map(node).collect()))
    }

    /// What a directory of a version lists.
    #[must_use]
    pub fn listing(
        self: &Arc<Self>,
        snapshot: Arc<Snapshot>,
        dir: NodeId,
    ) -> Box<dyn Listing<AnyNode<H>>> {
        Box::new(TreeListing { collection: Arc::clone(self), snapshot, dir })
    }
}

struct TreeListing<H> {
    collection: Arc<MountedCollection<H>>,
    snapshot: Arc<Snapshot>,
    dir: NodeId,
}

impl<H: Host> Listing<AnyNode<H>> for TreeListing<H> {
    fn len(&self) -> usize {
        self.snapshot.tree().children(self.dir).len()
    }

    fn get(&self, at: usize) -> Option<(Cow<'_, str>, AnyNode<H>)> {
        let id = self.snapshot.tree().children(self.dir).get(at)?;
        let node = self.collection.entry_of(&self.snapshot, id);
        Some((Cow::Borrowed(self.snapshot.tree().name(id)), AnyNode::Collection(node)))
    }

    fn used(&self) -> Box<dyn Iterator<Item = &AnyNode<H>> + '_> {
        // The directory is in use itself, and with it the collection.
        Box::new(std::iter::empty())
    }
}

struct DraftListing<H: Host>(Vec<(Box<str>, AnyNode<H>)>);

impl<H: Host> Listing<AnyNode<H>> for DraftListing<H> {
    fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    fn get(&self, at: usize) -> Option<(Cow<'_, str>, AnyNode<H>)> {
        let (name, node) = self.0.as_slice().get(at)?;
        // What was removed since is not listed.
        match node {
            AnyNode::Collection(entry) if matches!(entry.resolve(), Resolved::Gone) => None,
            _ => Some((Cow::Borrowed(&**name), node.clone())),
        }
    }

    fn used(&self) -> Box<dyn Iterator<Item = &AnyNode<H>> + '_> {
        // The directory is in use itself, and with it the collection.
        Box::new(std::iter::empty())
    }
}
