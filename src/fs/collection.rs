// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A mounted collection: served from its own tree, without an object for each file.
//!
//! A [`MountedCollection`] hands out a range of inode numbers, keeps two counts for each, and
//! follows its collection from version to version: what stays keeps its number, what is gone but
//! still open or known to the kernel stays as an orphan until it is forgotten. It may be superseded
//! by entries of the layer above (when something there wants the files as objects of its own);
//! then every question about an entry leads to the one that took its place. What it needs from
//! outside is a [`Host`].
//!
//! - [`draft`]: what was changed here and is not in a version
//! - [`writing`]: changing it
//! - [`names`]: names that change places, and files with several names
//! - [`ranges`]: holes in files, and copies of ranges
//! - [`upload`]: storing what was written
//! - [`capture`]: what it is at one moment, and its manifest
//! - [`export`]: the same, with everything stored
//! - [`repack`]: small blocks that earlier saves left, put together
//! - [`replacements`]: in which paths the draft differs from the version
//! - [`save`]: the queue of saves
//! - [`versions`]: from what was saved to the version that it is
//! - [`merge`]: the draft over another version
//! - [`moving`]: names that move to another collection
//! - [`snapshot`]: one version, with the inode numbers under which it is shown
//! - [`node`]: a file or directory in it, as an inode entry
//! - [`listing`]: what a directory in it lists
//! - [`reader`]: reading an open file
//! - [`follow`]: its place in the inode table, and what the kernel is told of a newer version
//! - [`root`]: the directory that is its top, where no layer above has one
//!
//! Lock order: the state's lock is a leaf. Nobody is asked anything while it is held.

pub mod capture;
pub mod draft;
pub mod export;
pub mod follow;
mod lately;
pub mod listing;
mod merge;
pub mod moving;
pub mod names;
pub mod node;
pub mod ranges;
pub mod reader;
mod repack;
mod replacements;
pub mod root;
pub mod save;
pub mod snapshot;
pub mod upload;
mod versions;
pub mod writing;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::any_node::AnyNode;
use super::atomic::AtomicTimestamp;
use super::attr::Timestamp;
use super::inodes::Inodes;
use super::node::{NodeOf, Outcome};
use super::state::NodeState;
use super::write_buffer::WriteBuffer;
use crate::collection::{Diff, NodeId, Tree, diff};
use crate::keep::{FilesAhead, KeepClient, PutOptions};
pub use capture::{Update, Written};
pub use draft::DraftFile;
use draft::{Draft, TOP};
use lately::Lately;
use merge::{CONFLICT, Theirs};
pub use node::CollectionNode;
use save::{Refused, Saves, Taken};
use snapshot::Snapshot;
use upload::Uploads;
use versions::{Attempt, Unversioned};

/// What a mounted collection needs from outside.
pub trait Host: Send + Sync + Sized + 'static {
    /// An entry of the layer above.
    type Node: NodeOf<AnyNode<Self>>;

    /// The time.
    ///
    /// # Errors
    /// What the layer above raises, where it has a clock of its own.
    fn now(&self) -> Outcome<Timestamp>;

    /// Asked before each answer: the layer above may want to be asked for the entries itself, and
    /// has then superseded them when this returns. Costs next to nothing where it does not.
    ///
    /// # Errors
    /// What the layer above raises.
    fn look(&self) -> Outcome<()>;

    /// Has the layer above make entries of its own of everything, to be found as
    /// [`Host::successor`]: something is to be changed or seen there.
    ///
    /// # Errors
    /// What the layer above raises; `EROFS` where there is none that could.
    fn take_over(&self) -> Outcome<()>;

    /// What took the place of the entry of that number, in a collection that was superseded.
    fn successor(&self, ino: u64) -> Option<Self::Node>;

    /// The inode table, for as long as there is one.
    fn table(&self) -> Option<Arc<Inodes<AnyNode<Self>>>>;

    /// The collection that an entry of the layer above is the top directory of.
    fn shown_by(node: &Self::Node) -> Option<Arc<MountedCollection<Self>>>;

    /// The client that reads the files' blocks; None where each read is the layer above's to answer.
    fn keep(&self) -> Option<Arc<KeepClient>>;

    /// The client that stores what was written, whoever answers for reads by now.
    fn store(&self) -> Arc<KeepClient>;

    /// Has a newer record loaded, for its block signatures ([`MountedCollection::update`]); answers
    /// whether that went well. May wait: it is called in a thread of its own.
    fn renew(&self) -> bool;

    /// Has the collection's record become what `update` says. May wait: it is called in a thread that saves. Only where [`Settings::saved`].
    ///
    /// # Errors
    /// Why it did not.
    fn save(&self, update: &Update) -> Result<Taken, Refused>;

    /// Runs `wait`, which waits for a thread that saves, without what such a thread may need.
    fn wait(&self, wait: &mut (dyn FnMut() + Send)) {
        wait();
    }
}

/// Told whether signatures were renewed.
pub type Renewed = Box<dyn FnOnce(bool) + Send>;

/// How a collection is mounted.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Files can be changed through the mount.
    pub writable: bool,
    /// Names in the top directory that are not the collection's.
    pub reserved: Vec<String>,
    /// How what is written is stored; None where changing anything is the layer above's.
    pub stored: Option<PutOptions>,
    /// What is changed is saved to a record: otherwise nobody but this mount sees it.
    pub saved: bool,
    /// Where it has so many files and directories, saving a few of them makes no whole version of it; None: 1,000.
    pub large: Option<usize>,
    /// After so many small blocks a save puts them together; None: 32.
    pub repacked: Option<usize>,
    /// Bounds the bytes that were written and are not stored yet; None: the process's.
    pub buffer: Option<Arc<WriteBuffer>>,
}

/// A collection served from its tree.
pub struct MountedCollection<H> {
    /// What is outside of it.
    pub host: H,
    /// Last access to anything in it.
    pub atime: AtomicTimestamp,
    settings: Settings,
    root: Arc<NodeState>,
    uses: AtomicI64,
    superseded: AtomicBool,
    /// The contents were dropped.
    detached: AtomicBool,
    /// Some of its numbers are other collections' now.
    gave_away: AtomicBool,
    ranges: Mutex<Vec<u64>>,
    /// How often something was changed here.
    changes: AtomicU64,
    /// Inode numbers for what is made here, reserved together.
    numbers: Mutex<Range<u64>>,
    buffer: Arc<WriteBuffer>,
    uploads: Arc<Uploads>,
    saves: Saves,
    /// How the files of a version are being read, one after another.
    files_ahead: Mutex<(Weak<Snapshot>, FilesAhead)>,
    /// Who waits for newer signatures; while anybody does, a thread sees to it.
    renewals: Mutex<Vec<Renewed>>,
    state: RwLock<State>,
}

struct State {
    current: Arc<Snapshot>,
    counts: Box<[Counts]>,
    orphans: HashMap<u64, Orphan>,
    draft: Draft,
    /// What is on its way from another collection, which still answers for it.
    arriving: HashSet<u64>,
    /// What is saved, where that is not the version.
    saved: Option<Arc<Unversioned>>,
    /// What may be saved or not.
    attempt: Option<Attempt>,
    /// What was saved just now, by number: who saves the same at that moment does not know.
    lately: HashMap<u64, Lately>,
    /// When there are so many of those, it is looked which are not awaited any more.
    many: usize,
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
    snapshot: Arc<Snapshot>,
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
    /// Paths of what was changed here and elsewhere, and where theirs is.
    pub conflicts: Vec<(String, String)>,
    /// Paths of what was saved here and replaced elsewhere at the same moment, and where ours is.
    pub replaced: Vec<(String, String)>,
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
pub enum Resolved<H: Host> {
    /// In this version.
    Here(Arc<Snapshot>, NodeId),
    /// In the draft.
    Draft(Drafted),
    /// This took its place.
    Successor(AnyNode<H>),
    /// Nowhere: it was removed, and nobody had it.
    Gone,
}

/// What a node of the draft is.
pub enum Drafted {
    /// A file.
    File(Arc<DraftFile>),
    /// A directory, and when it was changed.
    Dir(Timestamp),
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

impl<H: Host> MountedCollection<H> {
    /// Serves `tree` below the directory whose state `root` is, with numbers from `first` on for
    /// everything but the root itself, [`MountedCollection::numbers_for`] of them.
    #[must_use]
    pub fn new(
        host: H,
        settings: Settings,
        root: Arc<NodeState>,
        tree: Arc<Tree>,
        first: u64,
        mtime: Timestamp,
    ) -> Arc<Self> {
        let buffer = settings.buffer.as_ref().unwrap_or_else(|| WriteBuffer::shared());
        let buffer = Arc::clone(buffer);
        let options = settings.stored.clone().unwrap_or_default();
        let uploads = Uploads::new(options, Arc::clone(&buffer));
        Arc::new(MountedCollection {
            host,
            atime: AtomicTimestamp::new(root.atime.load()),
            changes: AtomicU64::new(0),
            numbers: Mutex::default(),
            buffer: Arc::clone(&buffer),
            uploads,
            saves: Saves::default(),
            settings,
            root,
            uses: AtomicI64::new(0),
            superseded: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            gave_away: AtomicBool::new(false),
            // Where there are none, the next who asks gets the same first number.
            ranges: Mutex::new(if tree.len() > 1 { vec![first] } else { Vec::new() }),
            files_ahead: Mutex::default(),
            renewals: Mutex::default(),
            state: RwLock::new(State {
                counts: counts(&tree),
                current: Arc::new(Snapshot::new(tree, first, mtime)),
                orphans: HashMap::new(),
                draft: Draft::counted_by(Arc::clone(buffer.gauge())),
                arriving: HashSet::new(),
                saved: None,
                attempt: None,
                lately: HashMap::new(),
                many: 0,
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

    /// The version that is shown at present.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.read().current)
    }

    /// Whether its files can be changed through the mount.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.settings.writable
    }

    /// Whether a name in the top directory is not the collection's.
    #[must_use]
    pub fn is_reserved(&self, name: &str) -> bool {
        self.settings.reserved.iter().any(|reserved| reserved == name)
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
        state.current.memory()
            + size_of_val(&*state.counts)
            + state.orphans.capacity() * orphan
            + state.draft.memory()
            + state.saved.as_ref().map_or(0, |saved| saved.memory())
    }

    /// Whether anything in it is in use. What left it is not: it goes on without the collection.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.uses.load(Ordering::Acquire) > 0
    }

    /// What the kernel knows of the collection, what is in a directory before the directory. The
    /// root is not among it.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let state = self.state.read();
        let snapshot = &state.current;
        // Nodes are numbered so that a directory comes before what is in it.
        let nodes = state.counts.iter().enumerate().skip(1).rev();
        let referenced = nodes.filter(|(_, counts)| counts.refs.load(Ordering::Acquire) > 0);
        let mut known = state.known_drafted();
        for known in &mut known {
            if known.parent == TOP {
                known.parent = self.root.inode().unwrap_or_default();
            }
        }
        // What was in a directory of the snapshot comes before it: whatever of the draft is above it has
        // none of the snapshot's below.
        let of_snapshot = referenced.filter_map(|(at, _)| {
            let id = NodeId(u32::try_from(at).ok()?);
            Some(Known {
                ino: snapshot.ino(id),
                parent: self.parent_of(snapshot, id)?,
                name: snapshot.tree().name(id).to_owned(),
                dir: snapshot.tree().is_dir(id),
            })
        });
        let mut all: Vec<Known> = of_snapshot.collect();
        all.append(&mut known);
        all
    }

    /// Whether nothing is left that anybody could ask for.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        // The numbers that are left are for what will be made.
        if self.is_written_here() && !self.detached.load(Ordering::Acquire) {
            return false;
        }
        let state = self.state.read();
        state.orphans.is_empty() && state.draft.nodes.is_empty() && state.current.tree().len() <= 1
    }

    /// The entry of that number.
    #[must_use]
    pub fn entry(self: &Arc<Self>, ino: u64) -> Option<CollectionNode<H>> {
        let state = self.state.read();
        let dir = match state.orphans.get(&ino) {
            Some(orphan) => orphan.snapshot.tree().is_dir(orphan.id),
            None => state.is_dir(ino)?,
        };
        drop(state);
        Some(CollectionNode::new(Arc::clone(self), ino, dir))
    }

    /// The entry of that name in the directory whose node is `dir`.
    #[must_use]
    pub fn child(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        dir: NodeId,
        name: &str,
    ) -> Option<CollectionNode<H>> {
        snapshot.tree().child(dir, name).map(|id| self.entry_of(snapshot, id))
    }

    /// The entry of that node.
    #[must_use]
    pub fn entry_of(self: &Arc<Self>, snapshot: &Snapshot, id: NodeId) -> CollectionNode<H> {
        CollectionNode::new(Arc::clone(self), snapshot.ino(id), snapshot.tree().is_dir(id))
    }

    /// Inode number of a node's directory.
    #[must_use]
    pub fn parent_of(&self, snapshot: &Snapshot, id: NodeId) -> Option<u64> {
        match snapshot.tree().parent(id) {
            NodeId::ROOT => self.root.inode(),
            parent => Some(snapshot.ino(parent)),
        }
    }

    /// Has the host renew the block signatures, once for all who ask meanwhile, and then tells
    /// each of them.
    pub fn renew(self: &Arc<Self>, then: Renewed) {
        let mut waiting = self.renewals.lock();
        waiting.push(then);
        if waiting.len() > 1 {
            return;
        }
        drop(waiting);
        let mounted = Arc::clone(self);
        let tell = |mounted: &Self, renewed| {
            for then in std::mem::take(&mut *mounted.renewals.lock()) {
                then(renewed);
            }
        };
        let started = std::thread::Builder::new().name("keep-renewal".into()).spawn(move || {
            let renewed = mounted.host.renew();
            tell(&mounted, renewed);
        });
        if let Err(error) = started {
            log::error!("no thread for renewing block signatures: {error}");
            tell(self, false);
        }
    }

    /// Shows another version of the collection; `reserve(n)` answers the first of `n` new inode
    /// numbers. What has the same path and kind as before keeps its number. Where nothing but
    /// block signatures changed, those are taken over. What was changed here stays.
    pub fn update(
        &self,
        tree: Arc<Tree>,
        mtime: Timestamp,
        mut reserve: impl FnMut(u64) -> u64,
    ) -> Changes {
        self.settle_between_saves();
        self.look_for_attempt(&tree);
        let old = self.snapshot();
        let difference = diff(old.tree(), &tree);
        if difference.is_empty() {
            old.tree().renew_locators(&tree);
            return Changes::default();
        }
        let mut reserve = |count| {
            let first = reserve(count);
            self.ranges.lock().push(first);
            first
        };
        let snapshot = old.successor(tree, &difference, mtime, &mut reserve);
        let mut changes = Changes::default();
        let (mut state, numbers) = self.state_to_merge(&snapshot, &difference, &mut reserve);
        for id in difference.changed().iter().filter(|id| **id != NodeId::ROOT) {
            changes.inodes.push(snapshot.ino(*id));
        }
        // That there is no such name the kernel asks each time: what is new it need not be told.
        for id in difference.removed() {
            if let Some(parent) = self.parent_of(&old, *id) {
                changes.names.push((parent, old.tree().name(*id).to_owned()));
            }
        }
        let theirs = Theirs {
            next: snapshot,
            difference: &difference,
            at: mtime,
            numbers,
            suffix: format!("{CONFLICT}{}", mtime.utc_basic()),
        };
        let merged = state.merge(theirs, |state, id| {
            if self.leave(state, &old, id) {
                changes.gone.push(old.ino(id));
            }
        });
        drop(state);
        self.uses.fetch_sub(merged.uses.into(), Ordering::AcqRel);
        changes.gone.extend(merged.gone);
        // Whoever loads a tree numbers a directory before what is in it.
        changes.gone.reverse();
        let made = merged.conflicts.len() + merged.replaced.len();
        self.changes.fetch_add(made as u64, Ordering::AcqRel);
        (changes.conflicts, changes.replaced) = (merged.conflicts, merged.replaced);
        changes
    }

    /// Where this version is what was sent, and no answer came, that was saved.
    fn look_for_attempt(&self, tree: &Arc<Tree>) {
        let mut state = self.state.write();
        if let Some(attempt) = state.attempt.take_if(|attempt| attempt.is(tree)) {
            attempt.saved(&mut state, Arc::clone(tree));
            state.note_saving();
        }
    }

    /// The state, and numbers for what its draft may take from a version from elsewhere.
    fn state_to_merge(
        &self,
        next: &Snapshot,
        difference: &Diff,
        reserve: &mut impl FnMut(u64) -> u64,
    ) -> (RwLockWriteGuard<'_, State>, Vec<u64>) {
        let mut state = self.state.write();
        state.lately.retain(|_, lately| lately.is_awaited());
        if state.draft.is_empty() && state.lately.is_empty() {
            return (state, Vec::new());
        }
        let (tree, mut count) = (next.tree(), state.lately.len());
        drop(state);
        count += difference.added().len() + difference.changed().len() + difference.removed().len();
        count += tree.len() - tree.file_count();
        let first = reserve(count as u64);
        (self.state.write(), (first..first + count as u64).collect())
    }

    /// From now on entries of the layer above stand for these ([`Host::successor`]). Answers
    /// what they take over: numbers that are referenced or in use, references, uses.
    pub fn supersede(&self) -> Vec<(u64, u32, u32)> {
        let mut state = self.state.write();
        let mut handed_over = Vec::new();
        for (at, counts) in (0..).zip(&state.counts).skip(1) {
            if counts.wanted() {
                handed_over.push((
                    state.current.ino(NodeId(at)),
                    counts.refs.load(Ordering::Acquire),
                    counts.uses.load(Ordering::Acquire),
                ));
            }
        }
        for (ino, node) in state.draft.supersede() {
            if node.counts.wanted() {
                handed_over.push((
                    ino,
                    node.counts.refs.load(Ordering::Acquire),
                    node.counts.uses.load(Ordering::Acquire),
                ));
            }
        }
        self.superseded.store(true, Ordering::Release);
        state.saved = None;
        state.current = Arc::new(Snapshot::empty());
        state.counts = counts(state.current.tree());
        self.uses.store(0, Ordering::Release);
        handed_over
    }

    /// The contents are dropped. What the kernel still refers to stays until it is forgotten.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Release);
        let mut state = self.state.write();
        let snapshot = std::mem::replace(&mut state.current, Arc::new(Snapshot::empty()));
        for at in (0..).take(state.counts.len()).skip(1) {
            self.leave(&mut state, &snapshot, NodeId(at));
        }
        state.counts = counts(state.current.tree());
        state.saved = None;
        state.draft.detach();
        self.uses.store(0, Ordering::Release);
        drop(state);
        self.buffer.changed();
    }

    /// A node leaves the collection; it is an orphan from now on, if anybody has it. Answers whether
    /// that is so.
    fn leave(&self, state: &mut State, snapshot: &Arc<Snapshot>, id: NodeId) -> bool {
        let Some(counts) = state.counts.get_mut(id.0 as usize).map(std::mem::take) else {
            return false;
        };
        let wanted = counts.wanted();
        if wanted {
            self.uses.fetch_sub(counts.uses.load(Ordering::Acquire).into(), Ordering::AcqRel);
            let orphan = Orphan { snapshot: Arc::clone(snapshot), id, counts };
            state.orphans.insert(snapshot.ino(id), orphan);
        }
        wanted
    }
}

impl State {
    fn counts_of(&self, ino: u64) -> Option<&Counts> {
        if let Some(orphan) = self.orphans.get(&ino) {
            return Some(&orphan.counts);
        }
        if self.arriving.contains(&ino) {
            return None;
        }
        match self.draft.nodes.get(&ino) {
            Some(node) => Some(&node.counts),
            None => self.counts.get(self.in_snapshot(ino)?.0 as usize),
        }
    }
}

#[cfg(test)]
mod tests;
