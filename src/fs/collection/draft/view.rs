// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What a snapshot and the changes in a draft are together.

use std::sync::Arc;

use super::{Content, Draft, DraftFile, DraftNode, Names, TOP, dir_in};
use crate::collection::NodeId;
use crate::fs::collection::Drafted;
use crate::fs::collection::snapshot::Snapshot;

/// A name in a directory, and what it leads to.
pub(in crate::fs::collection) struct Entry {
    pub name: Box<str>,
    pub ino: u64,
    pub dir: bool,
}

/// A collection with its changes.
#[derive(Clone, Copy)]
pub(in crate::fs::collection) struct View<'v> {
    pub current: &'v Snapshot,
    pub draft: &'v Draft,
}

/// A node is where it was, or somewhere else.
pub(super) enum Place {
    Draft,
    Snapshot(NodeId),
    Nowhere,
}

impl<'v> View<'v> {
    pub(super) fn place(&self, ino: u64) -> Place {
        if ino == TOP {
            return if self.draft.top.is_some() {
                Place::Draft
            } else {
                Place::Snapshot(NodeId::ROOT)
            };
        }
        if self.draft.nodes.contains_key(&ino) {
            return Place::Draft;
        }
        self.in_snapshot(ino).map_or(Place::Nowhere, Place::Snapshot)
    }

    /// The node in the snapshot, unless it was removed.
    pub(in crate::fs::collection) fn in_snapshot(&self, ino: u64) -> Option<NodeId> {
        self.current.id(ino).filter(|_| !self.draft.gone.contains(&ino))
    }

    /// The names of a directory of the draft.
    pub(in crate::fs::collection) fn names(&self, dir: u64) -> Option<&'v Names> {
        if dir == TOP {
            return self.draft.top.as_ref();
        }
        match &self.draft.nodes.get(&dir)?.content {
            Content::Dir(names, _) => Some(names),
            Content::File(_) => None,
        }
    }

    /// The inode number that a name in a directory leads to.
    pub(in crate::fs::collection) fn find(&self, dir: u64, name: &str) -> Option<u64> {
        let base = match (self.names(dir), self.place(dir)) {
            (Some(names), _) => match names.changed.get(name) {
                Some(changed) => return *changed,
                None => names.base?,
            },
            (None, Place::Snapshot(id)) => id,
            (None, _) => return None,
        };
        self.current.tree().child(base, name).map(|id| self.current.ino(id))
    }

    /// Whether that is a directory; None where there is no such node.
    pub(in crate::fs::collection) fn is_dir(&self, ino: u64) -> Option<bool> {
        match self.place(ino) {
            Place::Draft => Some(self.draft.nodes.get(&ino).is_none_or(DraftNode::is_dir)),
            Place::Snapshot(id) => Some(self.current.tree().is_dir(id)),
            Place::Nowhere => None,
        }
    }

    /// The directory that a node is in; none for the top, and for what left the collection.
    pub(in crate::fs::collection) fn dir_of(&self, ino: u64) -> Option<u64> {
        match self.place(ino) {
            Place::Draft => self.draft.nodes.get(&ino)?.parent,
            Place::Snapshot(NodeId::ROOT) | Place::Nowhere => None,
            Place::Snapshot(id) => Some(dir_in(self.current, id)),
        }
    }

    /// The name of a node in its directory; the first where it has several.
    pub(in crate::fs::collection) fn name_of(&self, ino: u64) -> Option<String> {
        match self.draft.nodes.get(&ino) {
            Some(node) => Some(node.name.to_string()),
            None => Some(self.current.tree().name(self.current.id(ino)?).to_owned()),
        }
    }

    /// What a directory has, in order of the names.
    pub(in crate::fs::collection) fn entries(&self, dir: u64) -> Vec<Entry> {
        let (base, changed) = match (self.names(dir), self.place(dir)) {
            (Some(names), _) => (names.base, Some(&names.changed)),
            (None, Place::Snapshot(id)) => (Some(id), None),
            (None, _) => (None, None),
        };
        let tree = self.current.tree();
        let stays = |name: &str| changed.is_none_or(|changed| !changed.contains_key(name));
        let mut entries: Vec<Entry> = base
            .into_iter()
            .flat_map(|base| tree.children(base))
            .filter(|id| stays(tree.name(*id)))
            .map(|id| Entry {
                name: tree.name(id).into(),
                ino: self.current.ino(id),
                dir: tree.is_dir(id),
            })
            .collect();
        let new = changed.into_iter().flatten();
        entries.extend(new.filter_map(|(name, ino)| {
            let ino = (*ino)?;
            Some(Entry { name: name.clone(), ino, dir: self.is_dir(ino)? })
        }));
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        entries
    }

    /// The file, if it is in the draft.
    pub(in crate::fs::collection) fn draft_file(&self, ino: u64) -> Option<&'v Arc<DraftFile>> {
        match &self.draft.nodes.get(&ino)?.content {
            Content::File(file) => Some(file),
            Content::Dir(..) => None,
        }
    }

    /// What a node of the draft is; None for one that is not there.
    pub(in crate::fs::collection) fn drafted(&self, ino: u64) -> Option<Drafted> {
        Some(match &self.draft.nodes.get(&ino)?.content {
            Content::File(file) => Drafted::File(Arc::clone(file)),
            Content::Dir(_, mtime) => Drafted::Dir(*mtime),
        })
    }

    /// The path of a node: the names from the top to it, joined by `/`. None for what is not there.
    pub(in crate::fs::collection) fn path(&self, ino: u64) -> Option<String> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != TOP {
            names.push(self.name_of(at)?);
            at = self.dir_of(at)?;
        }
        names.reverse();
        Some(names.join("/"))
    }
}
