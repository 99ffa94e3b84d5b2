// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A mounted collection's place in the inode table: how it begins, follows newer versions, and ends.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::draft::TOP;
use super::{CollectionNode, Host, MountedCollection, Settings};
use crate::collection::Tree;
use crate::fs::any_node::AnyNode;
use crate::fs::attr::{Ino, Timestamp};
use crate::fs::inodes::{Inodes, RangeOwner};
use crate::fs::node::Identity;
use crate::fs::state::NodeState;
use crate::report::report;

/// Answers for a mounted collection's ranges of inode numbers.
pub(super) struct Numbers<H>(pub Arc<MountedCollection<H>>);

impl<H: Host> RangeOwner<AnyNode<H>> for Numbers<H> {
    fn entry(&self, ino: u64) -> Option<AnyNode<H>> {
        self.0.entry(ino).map(AnyNode::Collection)
    }

    fn is_deserted(&self) -> bool {
        self.0.is_deserted()
    }

    fn ranges(&self) -> Vec<u64> {
        self.0.ranges()
    }

    fn gained(&self, first: u64) {
        self.0.ranges.lock().push(first);
    }

    fn lost(&self, first: u64) {
        self.0.ranges.lock().retain(|other| *other != first);
    }
}

impl<H: Host> MountedCollection<H> {
    /// Serves `tree` below the directory whose state `root` is, with numbers of `table`. The tree has no
    /// odd names.
    #[must_use]
    pub fn mount(
        host: H,
        settings: Settings,
        root: Arc<NodeState>,
        tree: Arc<Tree>,
        mtime: Timestamp,
        table: &Inodes<AnyNode<H>>,
    ) -> Arc<Self> {
        let count = Self::numbers_for(&tree);
        let first = table.reserve(count);
        let mounted = MountedCollection::new(host, settings, root, tree, first, mtime);
        table.add_range(first, count, Arc::new(Numbers(Arc::clone(&mounted))));
        if mounted.is_written_here() {
            let unsaved = Arc::downgrade(&mounted);
            mounted.buffer.register(unsaved);
        }
        mounted
    }

    /// Answers for numbers that were reserved for what is made here.
    pub(super) fn add_numbers(
        self: &Arc<Self>,
        first: u64,
        count: u64,
        table: &Inodes<AnyNode<H>>,
    ) {
        self.ranges.lock().push(first);
        table.add_range(first, count, Arc::new(Numbers(Arc::clone(self))));
    }

    /// Shows another version, which is as old as that many saves (None: the newest that there is): what
    /// stays keeps its inode number, and the kernel is told what changed. Answers false where one was
    /// saved meanwhile: then the version may be older than that, and is not shown.
    pub fn follow(
        self: &Arc<Self>,
        tree: Tree,
        mtime: Timestamp,
        since: Option<u64>,
        table: &Inodes<AnyNode<H>>,
    ) -> bool {
        let mut reserved = Vec::new();
        let changes = self.unless_saved(since, || {
            self.update(Arc::new(tree), mtime, |count| {
                let first = table.reserve(count);
                reserved.push((first, count));
                first
            })
        });
        for (first, count) in reserved {
            table.add_range(first, count, Arc::new(Numbers(Arc::clone(self))));
        }
        let Some(changes) = changes else { return false };
        for (ours, theirs) in changes.conflicts {
            let what = format!("{ours:?} was changed here and elsewhere: theirs is {theirs:?}");
            report(log::Level::Warn, &what);
        }
        let is_to_be_saved = !changes.replaced.is_empty();
        for (theirs, ours) in changes.replaced {
            let what = format!("{theirs:?} was saved here and elsewhere at once: ours is {ours:?}");
            report(log::Level::Warn, &what);
        }
        if is_to_be_saved {
            self.save_soon(Box::new(|_| {}));
        }
        for ino in changes.inodes {
            table.upcalls().invalidate_inode(Ino(ino));
        }
        for (parent, name) in changes.names {
            let is_there = self.child_of(self.key_of(parent), &name).is_some();
            let (parent, bytes) = (Ino(parent), name.as_bytes());
            if is_there {
                // Somebody may be in there already.
                table.upcalls().expire_entry(parent, bytes);
            } else {
                // Whoever has it open keeps it no longer than that.
                table.upcalls().invalidate_entry(parent, bytes);
            }
        }
        if !changes.gone.is_empty() {
            self.remove_deleted_above(table);
        }
        table.upcalls().prune(changes.gone.into_iter().map(Ino).collect());
        true
    }

    /// Has the removal thread look at a directory above that was deleted: what left the collection may
    /// have been all that it had to stay for.
    fn remove_deleted_above(&self, table: &Inodes<AnyNode<H>>) {
        let mut at = self.root().inode();
        while let Some(node) = at.and_then(|ino| table.get(ino)) {
            match node.parent_inode() {
                Ok(Some(parent)) if Some(parent) != at => at = Some(parent),
                // The root is in itself.
                Ok(Some(_)) => return,
                Ok(None) | Err(_) => return table.remove_later(&node),
            }
        }
    }

    /// Drops the contents, and has the kernel give back what it knows of them, as far as nothing uses
    /// it. What it still refers to stays until it is forgotten.
    pub fn unmount(&self, table: &Inodes<AnyNode<H>>) {
        let known = self.known();
        for known in &known {
            table.upcalls().expire_entry(Ino(known.parent), known.name.as_bytes());
        }
        table.upcalls().prune(known.iter().map(|known| Ino(known.ino)).collect());
        self.detach();
        self.forget_ranges(table);
    }

    /// As [`MountedCollection::unmount`], unless something uses the collection or the kernel refers to
    /// its directory; answers whether it did.
    ///
    /// The directory is marked stale first: whoever counts a use or a reference and looks at the
    /// contents afterwards either is seen here, or sees that the contents have to be loaded.
    pub fn unmount_unless_used(&self, table: &Inodes<AnyNode<H>>) -> bool {
        self.root().mark_stale(true);
        fence(Ordering::SeqCst);
        if self.in_use() || self.root().in_use() || self.root().has_ref() {
            return false;
        }
        self.unmount(table);
        true
    }

    /// Gives back the ranges of numbers where nothing is left in them.
    pub fn forget_ranges(&self, table: &Inodes<AnyNode<H>>) {
        if let Some(first) = self.ranges().first() {
            table.drop_deserted(*first);
        }
    }

    /// The entry of that name at the top.
    #[must_use]
    pub fn top(self: &Arc<Self>, name: &str) -> Option<CollectionNode<H>> {
        self.child_of(TOP, name)
    }
}
