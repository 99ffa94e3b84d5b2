// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A collection that is served from its own tree, without an object for each file.
//!
//! A [`Loaded`] collection hands out a range of inode numbers, keeps two counts for each, and
//! follows its collection from version to version: what stays keeps its number, what is gone but
//! still open or known to the kernel stays as an orphan until it is let go. It may be superseded
//! by entries of the layer above (when something there wants the files as objects of its own);
//! then every question about an entry leads to the one that took its place.
//!
//! Lock order: the state's lock is a leaf. Nobody is asked anything while it is held.

pub mod reader;
pub mod shown;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use super::atomic::AtomicF64;
use super::state::NodeState;
use crate::collection::{NodeId, Tree, diff};
use shown::Shown;

/// What the layer above keeps with a collection, and how it finds what took an entry's place.
pub trait Owner: Send + Sync + 'static {
    /// An entry of the layer above.
    type Node;
    /// What took the place of the entry of that number, in a collection that was superseded.
    fn successor(&self, ino: u64) -> Option<Self::Node>;
    /// Has block signatures renewed ([`Loaded::update`]); answers whether that went well. May
    /// wait: it is called in a thread of its own.
    fn renew(&self) -> bool;
}

/// Told whether signatures were renewed.
pub type Renewed = Box<dyn FnOnce(bool) + Send>;

/// A collection served from its tree.
pub struct Loaded<O> {
    /// What the layer above keeps with it.
    pub owner: O,
    /// Last access to anything in it, in seconds since the epoch.
    pub atime: AtomicF64,
    root: Arc<NodeState>,
    uses: AtomicI64,
    superseded: AtomicBool,
    ranges: Mutex<Vec<u64>>,
    /// Who waits for newer signatures; while anybody does, a thread sees to it.
    renewals: Mutex<Vec<Renewed>>,
    state: RwLock<State>,
}

struct State {
    shown: Arc<Shown>,
    counts: Box<[Counts]>,
    orphans: HashMap<u64, Orphan>,
}

/// What is counted for each node.
#[derive(Default)]
struct Counts {
    refs: AtomicU32,
    uses: AtomicU32,
}

impl Counts {
    fn wanted(&self) -> bool {
        self.refs.load(Ordering::Acquire) > 0 || self.uses.load(Ordering::Acquire) > 0
    }
}

/// A node that left the collection while somebody still had it.
struct Orphan {
    shown: Arc<Shown>,
    id: NodeId,
    counts: Counts,
}

/// What the kernel has to be told after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Inodes whose contents or attributes changed.
    pub inodes: Vec<u64>,
    /// Names that lead elsewhere, or nowhere, by the inode of their directory.
    pub names: Vec<(u64, String)>,
    /// Inodes that are gone and that the kernel still knows, what is in a directory before it.
    pub gone: Vec<u64>,
}

/// An entry that the kernel knows.
pub struct Known {
    /// Its inode number.
    pub ino: u64,
    /// Inode number of its directory.
    pub parent: u64,
    /// Its name there.
    pub name: String,
    /// Whether it is a directory.
    pub dir: bool,
}

/// Where an entry is to be found at present.
pub enum Place<A> {
    /// In this tree.
    Here(Arc<Shown>, NodeId),
    /// This took its place.
    Successor(A),
    /// Nowhere: it was removed, and nobody had it.
    Gone,
}

fn counts(tree: &Tree) -> Box<[Counts]> {
    std::iter::repeat_with(Counts::default).take(tree.len()).collect()
}

/// Adds `n` to a count, which stays at zero rather than go below; answers what it is then.
fn add(count: &AtomicU32, n: i64) -> i64 {
    let change = |now: u32| u32::try_from((i64::from(now) + n).max(0)).unwrap_or(u32::MAX);
    let before = count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(change(now)))
        .unwrap_or_default();
    i64::from(change(before))
}

impl<O: Owner> Loaded<O> {
    /// Serves `tree` below the directory whose state `root` is, with numbers from `first` on for
    /// everything but the root itself, [`Loaded::numbers_for`] of them. `mtime` is in seconds since
    /// the epoch.
    #[must_use]
    pub fn new(
        owner: O,
        root: Arc<NodeState>,
        tree: Arc<Tree>,
        first: u64,
        mtime: f64,
    ) -> Arc<Self> {
        Arc::new(Loaded {
            owner,
            atime: AtomicF64::new(root.atime.load()),
            root,
            uses: AtomicI64::new(0),
            superseded: AtomicBool::new(false),
            ranges: Mutex::new(vec![first]),
            renewals: Mutex::default(),
            state: RwLock::new(State {
                counts: counts(&tree),
                shown: Arc::new(Shown::new(tree, first, mtime)),
                orphans: HashMap::new(),
            }),
        })
    }

    /// Whether entries of the layer above took the place of its own.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// The first numbers of its ranges of inode numbers.
    #[must_use]
    pub fn ranges(&self) -> Vec<u64> {
        self.ranges.lock().clone()
    }

    /// How many inode numbers the entries of a tree need.
    #[must_use]
    pub fn numbers_for(tree: &Tree) -> u64 {
        tree.len() as u64 - 1
    }

    /// What is shown at present.
    #[must_use]
    pub fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.state.read().shown)
    }

    /// The state of the directory that is the collection's root.
    #[must_use]
    pub fn root(&self) -> &Arc<NodeState> {
        &self.root
    }

    /// Memory that the collection takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let state = self.state.read();
        let orphan = size_of::<u64>() + size_of::<Orphan>();
        state.shown.memory() + size_of_val(&*state.counts) + state.orphans.capacity() * orphan
    }

    /// Whether anything in it is in use.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.uses.load(Ordering::Acquire) > 0
    }

    /// What the kernel knows of the collection, what is in a directory before the directory. The
    /// root is not among it.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let state = self.state.read();
        let shown = &state.shown;
        // Nodes are numbered so that a directory comes before what is in it.
        let nodes = state.counts.iter().enumerate().skip(1).rev();
        let referenced = nodes.filter(|(_, counts)| counts.refs.load(Ordering::Acquire) > 0);
        referenced
            .filter_map(|(at, _)| {
                let id = NodeId(u32::try_from(at).ok()?);
                Some(Known {
                    ino: shown.ino(id),
                    parent: self.parent_of(shown, id)?,
                    name: shown.tree().name(id).to_owned(),
                    dir: shown.tree().is_dir(id),
                })
            })
            .collect()
    }

    /// Whether nothing is left that anybody could ask for.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        let state = self.state.read();
        state.orphans.is_empty() && state.shown.tree().len() <= 1
    }

    /// The entry of that number.
    #[must_use]
    pub fn entry(self: &Arc<Self>, ino: u64) -> Option<Entry<O>> {
        let state = self.state.read();
        let (shown, id) = match state.orphans.get(&ino) {
            Some(orphan) => (&orphan.shown, orphan.id),
            None => (&state.shown, state.shown.id(ino)?),
        };
        Some(Entry { loaded: Arc::clone(self), ino, dir: shown.tree().is_dir(id) })
    }

    /// The entry of that name in the directory whose node is `dir`.
    #[must_use]
    pub fn child(self: &Arc<Self>, shown: &Shown, dir: NodeId, name: &str) -> Option<Entry<O>> {
        shown.tree().child(dir, name).map(|id| self.entry_of(shown, id))
    }

    /// The entry of that node.
    #[must_use]
    pub fn entry_of(self: &Arc<Self>, shown: &Shown, id: NodeId) -> Entry<O> {
        Entry { loaded: Arc::clone(self), ino: shown.ino(id), dir: shown.tree().is_dir(id) }
    }

    /// Inode number of a node's directory.
    #[must_use]
    pub fn parent_of(&self, shown: &Shown, id: NodeId) -> Option<u64> {
        match shown.tree().parent(id) {
            NodeId::ROOT => self.root.inode(),
            parent => Some(shown.ino(parent)),
        }
    }

    /// Has the owner renew the block signatures, once for all who ask meanwhile, and then tells
    /// each of them.
    pub fn renew(self: &Arc<Self>, then: Renewed) {
        let mut waiting = self.renewals.lock();
        waiting.push(then);
        if waiting.len() > 1 {
            return;
        }
        drop(waiting);
        let loaded = Arc::clone(self);
        let tell = |loaded: &Self, renewed| {
            for then in std::mem::take(&mut *loaded.renewals.lock()) {
                then(renewed);
            }
        };
        let started = std::thread::Builder::new().name("keep-renewal".into()).spawn(move || {
            let renewed = loaded.owner.renew();
            tell(&loaded, renewed);
        });
        if let Err(error) = started {
            log::error!("no thread for renewing block signatures: {error}");
            tell(self, false);
        }
    }

    /// Shows another version of the collection; `reserve(n)` answers the first of `n` new inode
    /// numbers. What has the same path and kind as before keeps its number. Where nothing but
    /// block signatures changed, those are taken over.
    pub fn update(&self, tree: Arc<Tree>, mtime: f64, reserve: impl FnOnce(u64) -> u64) -> Changes {
        let old = self.shown();
        let difference = diff(old.tree(), &tree);
        if difference.is_empty() {
            old.tree().renew_locators(&tree);
            return Changes::default();
        }
        let mut new_counts = counts(&tree);
        let shown = Arc::new(old.successor(tree, &difference, mtime, |count| {
            let first = reserve(count);
            self.ranges.lock().push(first);
            first
        }));
        let mut changes = Changes::default();
        let mut state = self.state.write();
        for (now, id) in new_counts.iter_mut().zip(0..) {
            if let Some(before) = difference.old_of(NodeId(id)) {
                *now = std::mem::take(&mut state.counts[before.0 as usize]);
            }
        }
        for id in difference.changed().iter().filter(|id| **id != NodeId::ROOT) {
            changes.inodes.push(shown.ino(*id));
        }
        // That there is no such name the kernel asks each time: what is new it need not be told.
        for id in difference.removed() {
            if let Some(parent) = self.parent_of(&old, *id) {
                changes.names.push((parent, old.tree().name(*id).to_owned()));
            }
            if state.orphan(&old, *id) {
                changes.gone.push(old.ino(*id));
            }
        }
        // Whoever loads a tree numbers a directory before what is in it.
        changes.gone.reverse();
        state.shown = shown;
        state.counts = new_counts;
        changes
    }

    /// From now on entries of the layer above stand for these ([`Owner::successor`]). Answers
    /// what they take over: numbers that are referenced or in use, references, uses.
    pub fn supersede(&self) -> Vec<(u64, u32, u32)> {
        let mut state = self.state.write();
        let mut handed_over = Vec::new();
        for (at, counts) in (0..).zip(&state.counts).skip(1) {
            if counts.wanted() {
                handed_over.push((
                    state.shown.ino(NodeId(at)),
                    counts.refs.load(Ordering::Acquire),
                    counts.uses.load(Ordering::Acquire),
                ));
            }
        }
        self.superseded.store(true, Ordering::Release);
        state.shown = Arc::new(Shown::empty());
        state.counts = counts(state.shown.tree());
        let still = |o: &Orphan| i64::from(o.counts.uses.load(Ordering::Acquire));
        self.uses.store(state.orphans.values().map(still).sum(), Ordering::Release);
        handed_over
    }

    /// The contents are dropped. What the kernel still refers to stays until it is forgotten.
    pub fn detach(&self) {
        let mut state = self.state.write();
        let shown = std::mem::replace(&mut state.shown, Arc::new(Shown::empty()));
        for at in (0..).take(state.counts.len()).skip(1) {
            state.orphan(&shown, NodeId(at));
        }
        state.counts = counts(state.shown.tree());
    }
}

impl State {
    /// Keeps a node that leaves the collection, if anybody has it; answers whether that is so.
    fn orphan(&mut self, shown: &Arc<Shown>, id: NodeId) -> bool {
        let Some(counts) = self.counts.get_mut(id.0 as usize).map(std::mem::take) else {
            return false;
        };
        let wanted = counts.wanted();
        if wanted {
            self.orphans.insert(shown.ino(id), Orphan { shown: Arc::clone(shown), id, counts });
        }
        wanted
    }

    fn counts_of(&self, ino: u64) -> Option<&Counts> {
        match self.orphans.get(&ino) {
            Some(orphan) => Some(&orphan.counts),
            None => self.counts.get(self.shown.id(ino)?.0 as usize),
        }
    }
}

/// A file or directory in a loaded collection.
pub struct Entry<O> {
    loaded: Arc<Loaded<O>>,
    ino: u64,
    dir: bool,
}

impl<O> Clone for Entry<O> {
    fn clone(&self) -> Self {
        Entry { loaded: Arc::clone(&self.loaded), ino: self.ino, dir: self.dir }
    }
}

impl<O: Owner> Entry<O> {
    /// Inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.dir
    }

    /// The collection that it is in.
    #[must_use]
    pub fn loaded(&self) -> &Arc<Loaded<O>> {
        &self.loaded
    }

    /// Whether both are the same entry.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.ino == other.ino && Arc::ptr_eq(&self.loaded, &other.loaded)
    }

    /// Where it is to be found at present.
    #[must_use]
    pub fn place(&self) -> Place<O::Node> {
        let state = self.loaded.state.read();
        if let Some(orphan) = state.orphans.get(&self.ino) {
            return Place::Here(Arc::clone(&orphan.shown), orphan.id);
        }
        if self.loaded.is_superseded() {
            drop(state);
            return self.loaded.owner.successor(self.ino).map_or(Place::Gone, Place::Successor);
        }
        match state.shown.id(self.ino) {
            Some(id) => Place::Here(Arc::clone(&state.shown), id),
            None => Place::Gone,
        }
    }

    /// Inode number of the directory that it is in; none once it left the collection.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        let state = self.loaded.state.read();
        if state.orphans.contains_key(&self.ino) {
            return None;
        }
        self.loaded.parent_of(&state.shown, state.shown.id(self.ino)?)
    }

    /// Adds to the kernel's references; answers how many there are then. None where it was
    /// superseded or is gone.
    pub fn add_ref(&self, n: i64) -> Option<i64> {
        let state = self.loaded.state.read();
        state.counts_of(self.ino).map(|counts| add(&counts.refs, n))
    }

    /// Adds to the uses from inside; answers how many there are then. None as above.
    pub fn add_use(&self, n: i64) -> Option<i64> {
        let state = self.loaded.state.read();
        let uses = state.counts_of(self.ino).map(|counts| add(&counts.uses, n))?;
        self.loaded.uses.fetch_add(n, Ordering::AcqRel);
        Some(uses)
    }

    /// How many references the kernel has. None as above.
    #[must_use]
    pub fn refs(&self) -> Option<u32> {
        let state = self.loaded.state.read();
        state.counts_of(self.ino).map(|counts| counts.refs.load(Ordering::Acquire))
    }

    /// How many uses there are from inside. None as above.
    #[must_use]
    pub fn uses(&self) -> Option<u32> {
        let state = self.loaded.state.read();
        state.counts_of(self.ino).map(|counts| counts.uses.load(Ordering::Acquire))
    }

    /// An orphan that was let go is forgotten.
    pub fn forget(&self) {
        self.loaded.state.write().orphans.remove(&self.ino);
    }
}

#[cfg(test)]
mod tests;
