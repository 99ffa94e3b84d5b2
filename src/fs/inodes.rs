// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The inode table: numbers to entries, uuids to entries, and the removal of both.
//!
//! Lock order: the table's lock, then that of the ranges, then the uuid index's; each is a leaf
//! towards nodes (no node is asked anything that could call the layer above while one is held).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::absent::Absent;
use super::attr::Ino;
use super::cache::{InodeCache, Replaced};
use super::errno::Errno;
use super::node::{Halt, Node, Outcome};
use super::removal::{Removal, Remover};

/// What the table needs of the layer above.
pub trait Upcalls: Send + Sync + 'static {
    /// Runs a body under the lock of the layer above, where it has one.
    fn run(&self, body: &mut dyn FnMut());
    /// Runs a body as a request of its own, which may need the layer above.
    fn request(&self, body: &mut dyn FnMut()) {
        body();
    }
    /// Has the kernel told, later and by another thread, to drop what it cached of an inode.
    fn invalidate_inode(&self, ino: Ino);
    /// As [`Upcalls::invalidate_inode`], of the attributes alone.
    fn invalidate_attributes(&self, ino: Ino) {
        self.invalidate_inode(ino);
    }
    /// Whether the kernel is yet to be told to drop what it cached of an inode.
    fn is_invalidating(&self, ino: Ino) -> bool {
        let _ = ino;
        false
    }
    /// Has the kernel told, later and by another thread, what a name in a directory no longer
    /// leads to.
    fn invalidate_entry(&self, parent: Ino, name: &[u8]);
    /// Has the kernel told, later and by another thread, to look a name up again. What uses it
    /// stays, where the name still leads to the same inode.
    fn expire_entry(&self, parent: Ino, name: &[u8]);
    /// Has the kernel asked, later and by another thread, to give back inodes, as far as nothing
    /// uses them; of a directory and what is in it, what is in it has to come first.
    fn prune(&self, inos: Vec<Ino>);
    /// The errno of a failed request. What the layer above failed with is told in the log.
    fn errno_of(&self, halt: Halt) -> Errno;
    /// Something failed that no request waits for: tell somebody.
    fn report(&self, what: &str, halt: Halt);
}

/// Who answers for a range of numbers: entries that have no place of their own in the table.
pub trait RangeOwner<N>: Send + Sync + 'static {
    /// The entry of that number; None where there is none at present.
    fn entry(&self, ino: u64) -> Option<N>;
    /// Whether nothing is left that anybody could ask for.
    fn is_deserted(&self) -> bool;
    /// The first numbers of its ranges.
    fn ranges(&self) -> Vec<u64>;
    /// It answers for a range from `first` on, too, which was another's ([`Inodes::hand_over`]).
    fn gained(&self, first: u64) {
        let _ = first;
    }
    /// It does not answer any more for the range from `first` on.
    fn lost(&self, first: u64) {
        let _ = first;
    }
}

struct Range<N> {
    end: u64,
    owner: Arc<dyn RangeOwner<N>>,
}

/// How long an eviction waits, in all, for the kernel to give entries back.
const KERNEL_ANSWERS: Duration = Duration::from_millis(100);

/// What became of an entry that was to be removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removed {
    /// Its contents are gone.
    Gone,
    /// The kernel holds it, and was asked to give it back.
    Asked,
    /// Something uses it.
    InUse,
}

/// All inode entries of a mount.
pub struct Inodes<N: Node> {
    table: RwLock<HashMap<u64, N>>,
    /// By the first number of each range.
    ranges: RwLock<BTreeMap<u64, Range<N>>>,
    counter: AtomicU64,
    by_uuid: Mutex<HashMap<String, Vec<N>>>,
    cache: Arc<InodeCache<N>>,
    removal: Arc<Removal<N>>,
    /// Names that the kernel was told there are not.
    pub absent: Absent,
    /// See [`Inodes::renaming`].
    renamed: Mutex<HashSet<u64>>,
    upcalls: Arc<dyn Upcalls>,
}

impl<N: Node> Inodes<N> {
    /// An empty table.
    #[must_use]
    pub fn new(cache: Arc<InodeCache<N>>, upcalls: Arc<dyn Upcalls>) -> Arc<Self> {
        Arc::new(Inodes {
            table: RwLock::default(),
            ranges: RwLock::default(),
            counter: AtomicU64::new(Ino::ROOT.0),
            by_uuid: Mutex::default(),
            cache,
            removal: Arc::default(),
            absent: Absent::default(),
            renamed: Mutex::default(),
            upcalls,
        })
    }

    /// The layer above.
    #[must_use]
    pub fn upcalls(&self) -> &dyn Upcalls {
        &*self.upcalls
    }

    /// The cache that weighs the entries.
    #[must_use]
    pub fn cache(&self) -> &Arc<InodeCache<N>> {
        &self.cache
    }

    /// The next inode number; each call takes one.
    pub fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// The entry of that number.
    #[must_use]
    pub fn get(&self, ino: u64) -> Option<N> {
        // Where objects are about to supersede a collection, they are in the table first, directories
        // with half of what is in them: the collection answers until they do.
        self.in_range(ino).or_else(|| self.table.read().get(&ino).cloned())
    }

    fn in_range(&self, ino: u64) -> Option<N> {
        let ranges = self.ranges.read();
        let (_, range) = ranges.range(..=ino).next_back()?;
        if ino < range.end { range.owner.entry(ino) } else { None }
    }

    /// Takes `count` numbers for entries that have no place of their own in the table: `owner`
    /// answers for them. Answers the first number.
    pub fn reserve(&self, count: u64) -> u64 {
        self.counter.fetch_add(count, Ordering::Relaxed)
    }

    /// Has `owner` answer for `count` numbers from `first` on, which were reserved.
    pub fn add_range(&self, first: u64, count: u64, owner: Arc<dyn RangeOwner<N>>) {
        if count > 0 {
            self.ranges.write().insert(first, Range { end: first + count, owner });
        }
    }

    /// Has `owner` answer for numbers that others answered for: those that `act` says, once it is done.
    /// Nobody is answered meanwhile; `act` must not ask the table for anything.
    pub fn hand_over(&self, owner: &Arc<dyn RangeOwner<N>>, act: impl FnOnce() -> Vec<u64>) {
        let mut ranges = self.ranges.write();
        let mut numbers = act();
        numbers.sort_unstable();
        for run in numbers.chunk_by(|one, next| one + 1 == *next) {
            let (mut at, end) = (run[0], run[run.len() - 1] + 1);
            while at < end {
                // What is in the table itself nobody can take.
                let Some((first, range)) = ranges.range_mut(..=at).next_back() else { break };
                let (first, past) = (*first, range.end);
                if past <= at {
                    break;
                }
                let before = Arc::clone(&range.owner);
                range.end = at;
                if first == at {
                    ranges.remove(&first);
                    before.lost(first);
                }
                let until = end.min(past);
                if until < past {
                    before.gained(until);
                    ranges.insert(until, Range { end: past, owner: before });
                }
                owner.gained(at);
                ranges.insert(at, Range { end: until, owner: Arc::clone(owner) });
                at = until;
            }
        }
    }

    /// Forgets the ranges of the owner that answers for `ino`, if nobody can ask it any more.
    pub fn drop_deserted(&self, ino: u64) {
        let mut ranges = self.ranges.write();
        let Some((_, range)) = ranges.range(..=ino).next_back() else { return };
        if ino >= range.end || !range.owner.is_deserted() {
            return;
        }
        let firsts = range.owner.ranges();
        let dropped: Vec<_> = firsts.iter().map(|first| ranges.remove(first)).collect();
        drop(ranges);
        drop(dropped);
    }

    /// Has the kernel drop what it cached of an entry, if it knows the entry.
    ///
    /// # Errors
    /// What the node answers.
    pub fn invalidate(&self, node: &N) -> Outcome<()> {
        if node.has_ref()?
            && let Some(ino) = node.inode()?
        {
            self.upcalls.invalidate_inode(Ino(ino));
        }
        Ok(())
    }

    /// Whether there is an entry of that number.
    #[must_use]
    pub fn contains(&self, ino: u64) -> bool {
        let in_table = || self.table.read().contains_key(&ino);
        in_table() || self.in_range(ino).is_some() || in_table()
    }

    /// Puts an entry under a number.
    pub fn insert(&self, ino: u64, node: N) -> Option<N> {
        self.table.write().insert(ino, node)
    }

    /// Numbers of all entries.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.table.read().keys().copied().collect();
        let ranges = self.ranges.read();
        for (first, range) in &*ranges {
            numbers.extend((*first..range.end).filter(|ino| range.owner.entry(*ino).is_some()));
        }
        drop(ranges);
        // An entry that took the place of one in a range has the same number.
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives an entry a number and puts it into the table. The root is referenced by the kernel
    /// from the start, without a lookup.
    ///
    /// # Errors
    /// What the node answers.
    pub fn add(&self, node: &N) -> Outcome<u64> {
        let ino = self.next_number();
        self.add_as(ino, node)?;
        Ok(ino)
    }

    /// Puts an entry into the table under a number that was handed out before.
    ///
    /// # Errors
    /// What the node answers.
    pub fn add_as(&self, ino: u64, node: &N) -> Outcome<()> {
        let before = self.insert(ino, node.clone());
        if let Err(halt) = self.count_added(ino, node) {
            // Nobody has it: it would stay for ever.
            let mut table = self.table.write();
            let taken_back = match before {
                Some(before) => table.insert(ino, before),
                None => table.remove(&ino),
            };
            drop(table);
            drop(taken_back);
            let _ = self.uncount(ino, node);
            return Err(halt);
        }
        self.cap_cache();
        Ok(())
    }

    fn count_added(&self, ino: u64, node: &N) -> Outcome<()> {
        node.set_inode(Some(ino))?;
        self.update_uuid(node)?;
        match self.cache.replaced().and_then(|replaced| replaced.update(node)) {
            Some(done) => done?,
            None => self.cache.update(node)?,
        }
        if ino == Ino::ROOT.0 { node.inc_ref() } else { Ok(()) }
    }

    /// Forgets all that is kept of an entry which is no longer in the table. Each step is taken even
    /// where the node fails at another: nobody comes again for it.
    fn uncount(&self, ino: u64, node: &N) -> Outcome<()> {
        self.renamed.lock().remove(&ino);
        let unlisted = match node.cache_uuid() {
            Ok(uuid) => {
                self.unlist(uuid.as_deref(), node);
                Ok(())
            }
            Err(halt) => {
                self.by_uuid.lock().retain(|_, listed| {
                    listed.retain(|n| !n.same(node));
                    !listed.is_empty()
                });
                Err(halt)
            }
        };
        let cleared = node.set_cache_uuid(None);
        let unmanaged = match self.cache.replaced().and_then(|replaced| replaced.unmanage(node)) {
            Some(done) => done,
            None => self.cache.unmanage_as(ino, node).map(drop),
        };
        unlisted.and(cleared).and(unmanaged).and(node.set_inode(None))
    }

    /// The entry was deleted from its directory: it goes when nothing uses it any more.
    ///
    /// # Errors
    /// What the node answers.
    pub fn delete(&self, node: &N) -> Outcome<()> {
        node.set_parent_inode(None)?;
        self.remove_later(node);
        Ok(())
    }

    /// Renames an entry in the way that `rename` does. A directory may delete the entry of the old name
    /// and be slow to add one of the new name, or (the release's do) go on listing there what was
    /// replaced, while the kernel has the new name lead to the entry: it is not asked to give that back,
    /// because it would look the name up and be led elsewhere.
    ///
    /// # Errors
    /// What the node answers, or `rename`.
    pub fn renaming<T>(&self, node: Option<&N>, rename: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let ino = match node {
            Some(node) => node.inode()?,
            None => None,
        };
        let noted = ino.filter(|ino| self.renamed.lock().insert(*ino));
        let result = rename();
        if let (Some(ino), Err(_)) = (noted, &result) {
            self.renamed.lock().remove(&ino);
        }
        result
    }

    /// Has the removal thread look at an entry: it goes if it was deleted and nothing uses it.
    pub fn remove_later(&self, node: &N) {
        self.removal.remove_later(node.clone());
    }

    /// The entry was used: it is evicted later than others.
    ///
    /// # Errors
    /// What the node answers.
    pub fn touch(&self, node: &N) -> Outcome<()> {
        node.accessed()?;
        let managed = match self.cache.replaced().and_then(|replaced| replaced.touch(node)) {
            Some(answer) => answer?,
            None => self.cache.touch(node)?,
        };
        if managed {
            self.cap_cache();
        }
        Ok(())
    }

    /// Has the cache looked at, where it is over its limit.
    pub fn cap_cache(&self) {
        if self.cache.over_cap() || self.cache.replaced().is_some_and(Replaced::evicts) {
            self.removal.evict_later();
        }
    }

    /// Lists the entry under the uuid that it has now.
    ///
    /// # Errors
    /// What the node answers.
    pub fn update_uuid(&self, node: &N) -> Outcome<()> {
        let old = node.cache_uuid()?;
        let new = node.uuid()?;
        if old != new {
            node.set_cache_uuid(new.clone())?;
            self.unlist(old.as_deref(), node);
        }
        if let Some(uuid) = new {
            let mut by_uuid = self.by_uuid.lock();
            let listed = by_uuid.entry(uuid).or_default();
            if !listed.iter().any(|n| n.same(node)) {
                listed.push(node.clone());
            }
        }
        Ok(())
    }

    /// The entries that stand for that uuid.
    #[must_use]
    pub fn find_by_uuid(&self, uuid: &str) -> Vec<N> {
        self.by_uuid.lock().get(uuid).cloned().unwrap_or_default()
    }

    /// Whether an entry stands for that uuid.
    #[must_use]
    pub fn knows_uuid(&self, uuid: &str) -> bool {
        self.by_uuid.lock().contains_key(uuid)
    }

    /// All entries that stand for some uuid.
    #[must_use]
    pub fn with_uuid(&self) -> Vec<N> {
        self.by_uuid.lock().values().flatten().cloned().collect()
    }

    /// Every entry that was added, and is still there; of what a mounted collection has, none.
    #[must_use]
    pub fn added(&self) -> Vec<N> {
        self.table.read().values().cloned().collect()
    }

    fn unlist(&self, uuid: Option<&str>, node: &N) {
        let Some(uuid) = uuid else { return };
        let mut by_uuid = self.by_uuid.lock();
        if let Some(listed) = by_uuid.get_mut(uuid) {
            listed.retain(|n| !n.same(node));
            if listed.is_empty() {
                by_uuid.remove(uuid);
            }
        }
    }

    /// Takes a kernel reference on an entry that a directory named, unless the entry was removed
    /// from the table meanwhile; answers whether it did.
    ///
    /// # Errors
    /// What the node answers.
    pub fn reference(&self, ino: u64, node: &N) -> Outcome<bool> {
        // Counted first: [`Inodes::remove`] looks at the count once more under the write lock.
        node.inc_ref()?;
        if self.contains(ino) {
            return Ok(true);
        }
        node.dec_ref(1)?;
        Ok(false)
    }

    /// Removes an entry that was deleted, or clears one that was not, unless something uses it.
    /// Answers whether its contents are gone.
    ///
    /// # Errors
    /// What the node answers.
    pub fn remove(&self, node: &N) -> Outcome<bool> {
        Ok(self.try_remove(node)? == Removed::Gone)
    }

    fn try_remove(&self, node: &N) -> Outcome<Removed> {
        match node.inode()? {
            None => return Ok(Removed::InUse),
            Some(ino) if ino == Ino::ROOT.0 => return Ok(Removed::InUse),
            Some(_) => {}
        }
        if node.in_use()? {
            return Ok(Removed::InUse);
        }
        node.kernel_invalidate()?;
        if node.has_ref()? {
            if let Some(ino) = node.inode()?
                && node.parent_inode()?.is_none()
                && !self.renamed.lock().contains(&ino)
            {
                // No name leads there any more that anybody would look up.
                self.upcalls.prune(vec![Ino(ino)]);
            }
            return Ok(Removed::Asked);
        }
        node.finalize()?;
        // Saving let other requests run: one of them may use the entry again.
        if node.in_use()? || node.has_ref()? {
            return Ok(Removed::InUse);
        }
        node.clear()?;
        if node.parent_inode()?.is_none() {
            self.forget(node)?;
        }
        Ok(Removed::Gone)
    }

    fn forget(&self, node: &N) -> Outcome<()> {
        let Some(ino) = node.inode()? else {
            return Ok(());
        };
        let removed = {
            let mut table = self.table.write();
            // Under that number there may be what took the entry's place.
            if table.get(&ino).unwrap_or(node).referenced_now() {
                return Ok(());
            }
            table.remove(&ino)
        };
        let forgotten = self.uncount(ino, node);
        if removed.is_none() {
            self.drop_deserted(ino);
        }
        drop(removed);
        forgotten
    }

    /// Evicts, in the calling thread, until the cache is within its limit or everything was
    /// looked at; answers whether anything was freed. What was used longest ago goes first: where
    /// the kernel still has to give such an entry back, that is waited for, up to
    /// [`KERNEL_ANSWERS`], before what was used later is looked at.
    pub fn evict(&self) -> bool {
        const BATCH: usize = 256;
        if let Some(replaced) = self.cache.replaced().filter(|replaced| replaced.evicts()) {
            return self.evict_chosen(replaced);
        }
        if !self.cache.over_cap() {
            return true;
        }
        let (mut passed, mut freed) = (0, false);
        let (mut asked, mut promised) = (Vec::new(), 0);
        let mut patience = KERNEL_ANSWERS;
        loop {
            let batch = self.cache.oldest(passed, BATCH);
            if batch.is_empty() {
                return freed;
            }
            for (inode, node) in batch {
                if !asked.is_empty() && self.cache.satisfied_without(asked.len(), promised) {
                    let gone = self.await_kernel(std::mem::take(&mut asked), &mut patience);
                    promised = 0;
                    freed |= gone > 0;
                    passed -= gone;
                }
                if self.cache.satisfied() {
                    return true;
                }
                let removed = self.remove_reported(&node);
                freed |= removed == Removed::Gone;
                if let Some(bytes) = self.cache.counted(inode) {
                    passed += 1;
                    if removed == Removed::Asked {
                        asked.push((inode, node));
                        promised += bytes;
                    }
                }
            }
        }
    }

    /// Waits for the kernel to give back what it was asked for, and removes it; answers how many
    /// of them are gone. What it keeps when the patience is at its end, something holds: a
    /// working directory, for one.
    fn await_kernel(&self, mut asked: Vec<(u64, N)>, patience: &mut Duration) -> usize {
        const PAUSE: Duration = Duration::from_millis(1);
        let all = asked.len();
        loop {
            asked.retain(|(inode, node)| {
                let mut held = Ok(true);
                self.upcalls.run(&mut || held = node.has_ref());
                if !matches!(held, Ok(true)) {
                    self.remove_reported(node);
                }
                self.cache.contains(*inode)
            });
            if asked.is_empty() || self.cache.satisfied() || patience.is_zero() {
                return all - asked.len();
            }
            std::thread::sleep(PAUSE);
            *patience = patience.saturating_sub(PAUSE);
        }
    }

    fn evict_chosen(&self, replaced: &dyn Replaced<N>) -> bool {
        let mut result = Ok(false);
        self.upcalls.run(&mut || {
            result = replaced.evict(&mut |node| self.remove_reported(node) == Removed::Gone);
        });
        result.unwrap_or_else(|halt| {
            self.upcalls.report("failed to evict inode entries", halt);
            false
        })
    }

    fn remove_reported(&self, node: &N) -> Removed {
        let mut result = Ok(Removed::InUse);
        self.upcalls.run(&mut || result = self.try_remove(node));
        result.unwrap_or_else(|halt| {
            self.upcalls.report("failed to remove an inode entry", halt);
            Removed::InUse
        })
    }

    /// Starts the removal thread.
    ///
    /// # Errors
    /// Where the system refuses another thread.
    pub fn start_removal(self: &Arc<Self>) -> std::io::Result<()> {
        self.removal.start(Arc::clone(self) as Arc<dyn Remover<N>>)
    }

    /// Ends the removal thread when it has done what was asked until now.
    pub fn stop_removal(&self) {
        self.removal.stop();
    }

    /// Waits until every removal and eviction that was asked for is done.
    pub fn wait_removal(self: &Arc<Self>) {
        self.removal.wait(&**self);
    }

    /// Ends the table: every entry is finalized, then all are forgotten. Answers the entries that
    /// could not be, and why.
    pub fn clear(&self) -> Vec<(N, Halt)> {
        let mut cleared = Some(Ok(()));
        self.upcalls.run(&mut || cleared = self.cache.replaced().and_then(Replaced::clear));
        if let Some(Err(halt)) = cleared {
            self.upcalls.report("failed to clear the inode cache", halt);
        }
        self.cache.clear();
        let listed = std::mem::take(&mut *self.by_uuid.lock());
        let nodes: Vec<N> = self.table.read().values().cloned().collect();
        let mut failed = Vec::new();
        for node in nodes {
            let mut result = Ok(());
            self.upcalls.run(&mut || result = node.finalize());
            if let Err(halt) = result {
                failed.push((node, halt));
            }
        }
        self.empty();
        drop(listed);
        failed
    }

    /// Forgets every entry without asking any of them anything.
    pub fn abandon(&self) {
        self.cache.clear();
        let listed = std::mem::take(&mut *self.by_uuid.lock());
        self.empty();
        drop(listed);
    }

    fn empty(&self) {
        let table = std::mem::take(&mut *self.table.write());
        let ranges = std::mem::take(&mut *self.ranges.write());
        drop((table, ranges));
    }

    /// Calls `visit` with every entry of the table, unless another thread is changing it. The
    /// uuid index and the cache hold the same entries, not others.
    pub fn try_visit(&self, visit: impl FnMut(&N)) {
        if let Some(table) = self.table.try_read() {
            table.values().for_each(visit);
        }
    }
}

impl<N: Node> Remover<N> for Inodes<N> {
    fn remove(&self, node: N) {
        let mut returned = Ok(None);
        self.upcalls.run(&mut || returned = node.parent_inode());
        // One that was moved was deleted in one place to be added in another.
        if !matches!(returned, Ok(Some(_))) {
            self.remove_reported(&node);
        }
    }

    fn evict(&self) -> bool {
        Inodes::evict(self)
    }
}
