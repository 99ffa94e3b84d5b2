// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What was changed in a mounted collection: a draft over its snapshot.
//!
//! Only what differs is here: files that were made or written, and directories in which a name leads
//! elsewhere than in the snapshot. What is not here, the snapshot has. Everything is known by its
//! inode number; what came from the snapshot keeps its own.

pub(super) mod names;
pub(super) mod subtree;
mod view;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use view::Place;

use super::snapshot::Snapshot;
use super::{Counts, Drafted, Known, State};
use crate::collection::NodeId;
use crate::collection::draft::{Contents, Gauge};
use crate::fs::atomic::AtomicTimestamp;
use crate::fs::attr::Timestamp;
use crate::fs::errno::Refusal;
pub(super) use view::{Entry, View};

/// Stands for the collection's top directory, whose inode number is not the collection's.
pub const TOP: u64 = 0;

/// A file that was made or written here.
pub struct DraftFile {
    /// Its bytes. Held for a splice or to take a version of it, never over I/O; nothing else is
    /// locked meanwhile.
    pub contents: Mutex<Contents>,
    /// Last change.
    pub mtime: AtomicTimestamp,
    /// After which edit it is saved; `NEVER` where it has another content, or no such file.
    saved: AtomicU64,
    nlink: AtomicU32,
}

/// No number of edits.
const NEVER: u64 = u64::MAX;

impl DraftFile {
    fn new(contents: Contents, mtime: Timestamp, saved: u64) -> Arc<Self> {
        Arc::new(DraftFile {
            contents: Mutex::new(contents),
            mtime: AtomicTimestamp::new(mtime),
            saved: AtomicU64::new(saved),
            nlink: AtomicU32::new(1),
        })
    }

    /// Whether its content is another than the snapshot's.
    pub(super) fn is_unsaved(&self) -> bool {
        self.contents.lock().edits() != self.saved.load(Ordering::Acquire)
    }

    /// What it was after that edit is saved.
    pub(super) fn set_saved(&self, edits: u64) {
        self.saved.store(edits, Ordering::Release);
    }

    /// The snapshot has no such file any more.
    pub(super) fn set_never_saved(&self) {
        self.set_saved(NEVER);
    }

    /// How many names lead to it.
    #[must_use]
    pub fn links(&self) -> u32 {
        self.nlink.load(Ordering::Relaxed)
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.contents.lock().len()
    }
}

/// Where names in a directory lead elsewhere than in the snapshot.
#[derive(Clone, Default)]
pub(super) struct Names {
    /// The directory as the snapshot has it, if it does.
    pub base: Option<NodeId>,
    /// Inode numbers; None for a name that is gone.
    pub changed: BTreeMap<Box<str>, Option<u64>>,
}

pub(super) enum Content {
    File(Arc<DraftFile>),
    Dir(Names, Timestamp),
}

/// A file or directory of the draft.
pub(super) struct DraftNode {
    /// The directory that it is in; None once it left the collection.
    pub parent: Option<u64>,
    pub name: Box<str>,
    /// Further names of a file, each with the directory that it is in.
    pub others: Vec<(u64, Box<str>)>,
    pub counts: Counts,
    pub content: Content,
}

impl DraftNode {
    pub(super) fn is_dir(&self) -> bool {
        matches!(self.content, Content::Dir(..))
    }

    fn outline(&self) -> Self {
        let content = match &self.content {
            Content::File(file) => {
                let saved = file.saved.load(Ordering::Acquire);
                Content::File(DraftFile::new(Contents::empty(), file.mtime.load(), saved))
            }
            Content::Dir(names, mtime) => Content::Dir(names.clone(), *mtime),
        };
        DraftNode {
            parent: self.parent,
            name: self.name.clone(),
            others: self.others.clone(),
            counts: Counts::default(),
            content,
        }
    }

    /// No name leads to it any more. What is left of a directory is empty.
    pub(super) fn leave(&mut self) {
        self.parent = None;
        self.others.clear();
        self.count_names();
        if let Content::Dir(names, _) = &mut self.content {
            *names = Names::default();
        }
    }

    /// Last change.
    pub(super) fn mtime(&self) -> Timestamp {
        match &self.content {
            Content::File(file) => file.mtime.load(),
            Content::Dir(_, mtime) => *mtime,
        }
    }
}

/// The changes, all of them.
#[derive(Default)]
pub(super) struct Draft {
    pub nodes: HashMap<u64, DraftNode>,
    /// The collection's top directory, once something changed in it.
    pub top: Option<Names>,
    /// Nodes of the snapshot that were removed.
    pub gone: HashSet<u64>,
    /// Nothing is changed here any more: the layer above takes over.
    pub frozen: bool,
    /// What it was at one moment is being saved, or may have been: what is gone since has to be told from what
    /// never was.
    pub saving: bool,
    /// Counts the bytes of its files.
    pub gauge: Arc<Gauge>,
}

impl Draft {
    /// No changes yet; `gauge` counts the bytes of files.
    pub(super) fn counted_by(gauge: Arc<Gauge>) -> Self {
        Draft { gauge, ..Draft::default() }
    }

    /// The same changes, without those of what left, and without the files' bytes.
    pub(super) fn outline(&self) -> Draft {
        let nodes = self.nodes.iter().filter(|(_, node)| node.parent.is_some());
        Draft {
            nodes: nodes.map(|(ino, node)| (*ino, node.outline())).collect(),
            top: self.top.clone(),
            gone: self.gone.clone(),
            ..Draft::default()
        }
    }

    /// Memory that it takes beside the files' bytes, in bytes, about.
    pub(super) fn memory(&self) -> usize {
        let node = size_of::<u64>() + size_of::<DraftNode>() + size_of::<DraftFile>();
        // A name is there twice: in its directory, and in the node.
        let of = |entry: &DraftNode| {
            let others = entry.others.iter().map(|(_, name)| size_of_val(name) + 2 * name.len());
            node + 2 * entry.name.len() + others.sum::<usize>()
        };
        self.nodes.values().map(of).sum()
    }
}

impl Draft {
    /// Whether nothing was changed, and nothing that left is still wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.top.is_none() && self.nodes.is_empty() && self.gone.is_empty()
    }

    /// Something else takes the place of what is in it, which is taken out. What left the collection
    /// stays.
    pub(super) fn supersede(&mut self) -> Vec<(u64, DraftNode)> {
        (self.top, self.frozen) = (None, false);
        self.gone.clear();
        self.nodes.extract_if(|_, node| node.parent.is_some()).collect()
    }

    /// The contents are dropped: what somebody still has stays without a directory.
    pub(super) fn detach(&mut self) {
        self.nodes.retain(|_, node| node.counts.wanted());
        for node in self.nodes.values_mut() {
            node.leave();
        }
        self.top = None;
        self.gone.clear();
    }
}

impl State {
    /// What it is now.
    pub(super) fn view(&self) -> View<'_> {
        View { current: &self.current, draft: &self.draft }
    }

    fn place(&self, ino: u64) -> Place {
        self.view().place(ino)
    }

    /// The node in the snapshot, unless it was removed.
    pub(super) fn in_snapshot(&self, ino: u64) -> Option<NodeId> {
        self.view().in_snapshot(ino)
    }

    /// Whether the draft has it.
    pub(super) fn is_drafted(&self, ino: u64) -> bool {
        matches!(self.place(ino), Place::Draft)
    }

    /// The names of a directory of the draft.
    pub(super) fn names(&self, dir: u64) -> Option<&Names> {
        self.view().names(dir)
    }

    /// The inode number that a name in a directory leads to.
    pub(super) fn find(&self, dir: u64, name: &str) -> Option<u64> {
        self.view().find(dir, name)
    }

    /// Whether that is a directory; None where there is no such node.
    pub(super) fn is_dir(&self, ino: u64) -> Option<bool> {
        self.view().is_dir(ino)
    }

    /// The directory that a node is in; none for the top, and for what left the collection.
    pub(super) fn dir_of(&self, ino: u64) -> Option<u64> {
        self.view().dir_of(ino)
    }

    /// The name of a node in its directory; the first where it has several.
    pub(super) fn name_of(&self, ino: u64) -> Option<String> {
        self.view().name_of(ino)
    }

    /// What a directory has, in order of the names.
    pub(super) fn entries(&self, dir: u64) -> Vec<Entry> {
        self.view().entries(dir)
    }

    /// What the kernel knows of the draft, what is in a directory before the directory.
    pub(super) fn known_drafted(&self) -> Vec<Known> {
        let depth =
            |dir: u64| std::iter::successors(Some(dir), |above| self.dir_of(*above)).count();
        let nodes = self.draft.nodes.iter();
        let referenced = nodes.filter(|(_, node)| node.counts.refs.load(Ordering::Acquire) > 0);
        let mut known: Vec<(usize, Known)> = referenced
            .flat_map(|(ino, node)| {
                let first = node.parent.map(|parent| (parent, &node.name));
                let others = node.others.iter().map(|(parent, name)| (*parent, name));
                first.into_iter().chain(others).map(|(parent, name)| {
                    let (name, dir) = (name.to_string(), node.is_dir());
                    (depth(parent), Known { ino: *ino, parent, name, dir })
                })
            })
            .collect();
        known.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        known.into_iter().map(|(_, known)| known).collect()
    }

    fn has_entries(&self, dir: u64) -> bool {
        match self.names(dir) {
            Some(names) if names.changed.values().any(Option::is_some) => true,
            Some(names) => names.base.is_some_and(|base| {
                let tree = self.current.tree();
                tree.children(base).any(|id| !names.changed.contains_key(tree.name(id)))
            }),
            None => {
                self.current.id(dir).is_some_and(|id| self.current.tree().children(id).len() > 0)
            }
        }
    }

    /// Takes a node of the snapshot into the draft, where it is not yet.
    pub(super) fn take_up(&mut self, ino: u64) -> Option<&mut DraftNode> {
        if !self.draft.nodes.contains_key(&ino) {
            let Place::Snapshot(id) = self.place(ino) else { return None };
            let tree = self.current.tree();
            let mtime = self.current.mtime(id);
            let content = if tree.is_dir(id) {
                Content::Dir(Names { base: Some(id), changed: BTreeMap::new() }, mtime)
            } else {
                let contents = Contents::of_tree(tree, id).counted_by(&self.draft.gauge);
                let saved = contents.edits();
                Content::File(DraftFile::new(contents, mtime, saved))
            };
            let node = DraftNode {
                parent: Some(dir_in(&self.current, id)),
                name: tree.name(id).into(),
                others: Vec::new(),
                counts: self.counts.get_mut(id.0 as usize).map(std::mem::take).unwrap_or_default(),
                content,
            };
            self.draft.nodes.insert(ino, node);
        }
        self.draft.nodes.get_mut(&ino)
    }

    /// The file to be written, with its version in the snapshot taken into the draft first.
    pub(super) fn file_for_writing(&mut self, ino: u64) -> Option<Arc<DraftFile>> {
        match &self.take_up(ino)?.content {
            Content::File(file) => Some(Arc::clone(file)),
            Content::Dir(..) => None,
        }
    }

    /// The file, if it is in the draft.
    pub(super) fn draft_file(&self, ino: u64) -> Option<&Arc<DraftFile>> {
        self.view().draft_file(ino)
    }

    /// Has a name in a directory lead to `ino`, or nowhere; the directory was changed `now`.
    pub(super) fn lead(
        &mut self,
        dir: u64,
        name: &str,
        ino: Option<u64>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let (current, saving) = (Arc::clone(&self.current), self.draft.saving);
        let names = if dir == TOP {
            let whole = Names { base: Some(NodeId::ROOT), changed: BTreeMap::new() };
            self.draft.top.get_or_insert(whole)
        } else {
            match &mut self.take_up(dir).ok_or(Refusal::NotFound)?.content {
                Content::Dir(names, mtime) => {
                    *mtime = now;
                    names
                }
                Content::File(_) => return Err(Refusal::NotDirectory),
            }
        };
        let in_base = names.base.is_some_and(|base| current.tree().child(base, name).is_some());
        if ino.is_some() || in_base || saving {
            names.changed.insert(name.into(), ino);
        } else {
            names.changed.remove(name);
        }
        Ok(())
    }

    /// Adds a file or directory under a number that is new.
    pub(super) fn add(
        &mut self,
        dir: u64,
        name: &str,
        ino: u64,
        content: Option<Contents>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.must_be_there(dir)?;
        let content = match content {
            Some(contents) => Content::File(DraftFile::new(contents, now, NEVER)),
            None => Content::Dir(Names::default(), now),
        };
        let counts = Counts::default();
        let (parent, name_of, others) = (Some(dir), name.into(), Vec::new());
        let node = DraftNode { parent, name: name_of, others, counts, content };
        self.lead(dir, name, Some(ino), now)?;
        self.draft.nodes.insert(ino, node);
        Ok(())
    }

    /// A directory that was removed takes nothing any more.
    fn must_be_there(&self, dir: u64) -> Result<(), Refusal> {
        let there = dir == TOP || self.dir_of(dir).is_some();
        if there { Ok(()) } else { Err(Refusal::NotFound) }
    }

    /// Removes a name of a file, or an empty directory; answers the number where that was the last.
    pub(super) fn remove(
        &mut self,
        dir: u64,
        name: &str,
        directory: bool,
        now: Timestamp,
    ) -> Result<Option<u64>, Refusal> {
        let ino = self.find(dir, name).ok_or(Refusal::NotFound)?;
        match (directory, self.is_dir(ino)) {
            (_, None) => return Err(Refusal::NotFound),
            (true, Some(false)) => return Err(Refusal::NotDirectory),
            (false, Some(true)) => return Err(Refusal::IsDirectory),
            (true, Some(true)) if self.has_entries(ino) => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.lead(dir, name, None, now)?;
        Ok(self.unname(ino, (dir, name)).then_some(ino))
    }

    /// Moves a name, over another where one is there; answers the number of what that led to, where that
    /// has no other.
    pub(super) fn rename(
        &mut self,
        (from, old): (u64, &str),
        (to, new): (u64, &str),
        now: Timestamp,
    ) -> Result<Option<u64>, Refusal> {
        let ino = self.find(from, old).ok_or(Refusal::NotFound)?;
        self.must_be_there(to)?;
        let dir = self.is_dir(ino).ok_or(Refusal::NotFound)?;
        let replaced = self.find(to, new);
        if replaced == Some(ino) {
            return Ok(None);
        }
        if let Some(replaced) = replaced {
            self.may_replace(replaced, dir)?;
        }
        if dir && self.is_within(to, ino) {
            return Err(Refusal::IntoItself);
        }
        self.take_up(ino).ok_or(Refusal::NotFound)?;
        self.lead(from, old, None, now)?;
        self.lead(to, new, Some(ino), now)?;
        if let Some(node) = self.draft.nodes.get_mut(&ino) {
            node.moved((from, old), (to, new));
        }
        Ok(replaced.filter(|replaced| self.unname(*replaced, (to, new))))
    }

    /// Whether a file, or (`dir`) a directory, may have the name of what is there.
    fn may_replace(&self, there: u64, dir: bool) -> Result<(), Refusal> {
        match (dir, self.is_dir(there)) {
            (true, Some(false)) => Err(Refusal::NotDirectory),
            (false, Some(true)) => Err(Refusal::IsDirectory),
            (true, Some(true)) if self.has_entries(there) => Err(Refusal::NotEmpty),
            _ => Ok(()),
        }
    }

    /// What a node of the draft is; None for one that is not there.
    pub(super) fn drafted(&self, ino: u64) -> Option<Drafted> {
        self.view().drafted(ino)
    }

    /// Whether a node left the collection, and is there for those who have it.
    pub(super) fn has_left(&self, ino: u64) -> bool {
        let left = |node: &DraftNode| node.parent.is_none();
        self.orphans.contains_key(&ino) || self.draft.nodes.get(&ino).is_some_and(left)
    }

    /// Where nobody has a node any more that left the collection, that was all of it.
    pub(super) fn forget(&mut self, ino: u64) {
        if self.has_left(ino) && !self.counts_of(ino).is_some_and(Counts::wanted) {
            self.orphans.remove(&ino);
            self.draft.nodes.remove(&ino);
        }
    }

    /// Sets when a file or directory was last changed.
    pub(super) fn set_mtime(&mut self, ino: u64, to: Timestamp) -> Result<(), Refusal> {
        match &mut self.take_up(ino).ok_or(Refusal::NotFound)?.content {
            Content::File(file) => file.mtime.store(to),
            Content::Dir(_, mtime) => *mtime = to,
        }
        Ok(())
    }

    /// A node that no name leads to any more leaves the collection: it stays, without a directory,
    /// while somebody has it. Answers how many uses that takes from the collection.
    pub(super) fn leave_draft(&mut self, ino: u64) -> u32 {
        let uses = self.counts_of(ino).map_or(0, |counts| counts.uses.load(Ordering::Acquire));
        if self.counts_of(ino).is_some_and(Counts::wanted) {
            if let Some(node) = self.take_up(ino) {
                node.leave();
            }
        } else {
            self.draft.nodes.remove(&ino);
        }
        self.note_gone(ino);
        uses
    }

    /// A node is not here any more, whatever the snapshot has, or what is being saved will have.
    fn note_gone(&mut self, ino: u64) {
        if self.draft.saving || self.current.id(ino).is_some() {
            self.draft.gone.insert(ino);
        }
    }

    /// Whether a directory is `above` or below it.
    fn is_within(&self, dir: u64, above: u64) -> bool {
        let mut at = Some(dir);
        while let Some(ino) = at {
            if ino == above {
                return true;
            }
            at = self.dir_of(ino);
        }
        false
    }
}

/// The directory of a node of the snapshot.
pub(super) fn dir_in(snapshot: &Snapshot, id: NodeId) -> u64 {
    match snapshot.tree().parent(id) {
        NodeId::ROOT => TOP,
        dir => snapshot.ino(dir),
    }
}
