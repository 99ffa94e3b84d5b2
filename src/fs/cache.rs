// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The inode cache: what loaded directories weigh, and which were used longest ago.
//!
//! It only counts and orders; [`super::inodes::Inodes`] does the evicting. Its lock is a leaf: no
//! node is asked anything while it is held.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::node::{Node, Outcome};

/// Where an entry without a number is managed: one that was removed from the table and is counted
/// again. There is room for one; no inode has this number.
const UNNUMBERED: u64 = 0;

/// What a program does instead of the cache: the layer above implements it for a cache whose methods
/// were overridden. Each answers None where it was not; then what the cache itself does holds.
pub trait Replaced<N>: Send + Sync + 'static {
    /// Instead of [`InodeCache::touch`].
    fn touch(&self, node: &N) -> Option<Outcome<bool>>;
    /// Instead of [`InodeCache::update`].
    fn update(&self, node: &N) -> Option<Outcome<()>>;
    /// Instead of [`InodeCache::unmanage`].
    fn unmanage(&self, node: &N) -> Option<Outcome<()>>;
    /// Instead of [`InodeCache::clear`].
    fn clear(&self) -> Option<Outcome<()>>;
    /// Whether the program chooses what is evicted, and when.
    fn evicts(&self) -> bool;
    /// Has `remove` called with what is to be evicted, one after the other; it answers whether
    /// anything was freed, and so does this.
    ///
    /// # Errors
    /// What the program's own method fails with.
    fn evict(&self, remove: &mut dyn FnMut(&N) -> bool) -> Outcome<bool>;
}

struct Managed<N> {
    node: N,
    size: i64,
}

/// Entries that hold contents, in order of last use, and the sum of their sizes in bytes.
///
/// ```
/// use arvados_fuse::fs::any_node::AnyNode;
/// use arvados_fuse::fs::cache::InodeCache;
/// use arvados_fuse::fs::collection::root::Standalone;
///
/// let cache: InodeCache<AnyNode<Standalone>> = InodeCache::new(256 << 20, 4);
/// assert!(cache.is_empty() && cache.satisfied());
/// // Zero bytes: from now on all but the four used last may be evicted.
/// cache.set_cap(0);
/// assert_eq!((cache.total(), cache.over_cap()), (0, false));
/// ```
pub struct InodeCache<N> {
    entries: Mutex<LruCache<u64, Managed<N>>>,
    total: AtomicI64,
    cap: AtomicI64,
    min_entries: AtomicUsize,
    replaced: OnceLock<Box<dyn Replaced<N>>>,
}

impl<N: Node> InodeCache<N> {
    /// An empty cache that is to hold `cap` bytes, and in any case `min_entries` entries.
    #[must_use]
    pub fn new(cap: i64, min_entries: usize) -> Self {
        InodeCache {
            entries: Mutex::new(LruCache::unbounded()),
            total: AtomicI64::new(0),
            cap: AtomicI64::new(cap),
            min_entries: AtomicUsize::new(min_entries),
            replaced: OnceLock::new(),
        }
    }

    /// From now on the inode table asks `replaced` first. Said once; later words are not heard.
    pub fn replace(&self, replaced: Box<dyn Replaced<N>>) {
        let _ = self.replaced.set(replaced);
    }

    /// What the inode table has to ask first.
    pub fn replaced(&self) -> Option<&dyn Replaced<N>> {
        self.replaced.get().map(|replaced| &**replaced)
    }

    /// Bytes counted at present.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.total.load(Ordering::Relaxed)
    }

    /// The limit in bytes; soft, as entries in use stay.
    #[must_use]
    pub fn cap(&self) -> i64 {
        self.cap.load(Ordering::Relaxed)
    }

    /// Changes the limit.
    pub fn set_cap(&self, cap: i64) {
        self.cap.store(cap, Ordering::Relaxed);
    }

    /// How many entries stay whatever they weigh.
    #[must_use]
    pub fn min_entries(&self) -> usize {
        self.min_entries.load(Ordering::Relaxed)
    }

    /// Changes how many entries stay whatever they weigh.
    pub fn set_min_entries(&self, min_entries: usize) {
        self.min_entries.store(min_entries, Ordering::Relaxed);
    }

    /// How many entries are managed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether no entry is managed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something should be evicted.
    #[must_use]
    pub fn over_cap(&self) -> bool {
        self.total() > self.cap()
    }

    /// Whether an eviction under way has done enough.
    #[must_use]
    pub fn satisfied(&self) -> bool {
        self.total() < self.cap() || self.len() < self.min_entries()
    }

    /// Whether an eviction under way has done enough once so many entries of so many bytes are
    /// gone, too.
    #[must_use]
    pub fn satisfied_without(&self, entries: usize, bytes: i64) -> bool {
        self.total() - bytes < self.cap() || self.len().saturating_sub(entries) < self.min_entries()
    }

    /// What the managed entry of that inode number was counted with, in bytes.
    #[must_use]
    pub fn counted(&self, inode: u64) -> Option<i64> {
        self.entries.lock().peek(&inode).map(|m| m.size)
    }

    fn key(node: &N) -> Outcome<u64> {
        Ok(node.inode()?.unwrap_or(UNNUMBERED))
    }

    /// The entry was used just now; answers whether it is managed.
    ///
    /// # Errors
    /// What the node answers.
    pub fn touch(&self, node: &N) -> Outcome<bool> {
        let key = node.counted_as()?.unwrap_or(UNNUMBERED);
        Ok(self.entries.lock().get(&key).is_some())
    }

    /// Whether the entry is managed.
    #[must_use]
    pub fn contains(&self, inode: u64) -> bool {
        self.entries.lock().contains(&inode)
    }

    /// Counts what the entry weighs now. An entry without contents is dropped from the order,
    /// unless it was deleted: then it waits there for its removal.
    ///
    /// # Errors
    /// What the node answers.
    pub fn update(&self, node: &N) -> Outcome<()> {
        if !node.persisted()? {
            return Ok(());
        }
        let inode = Self::key(node)?;
        let size = node.objsize()?;
        let removed_later = inode != UNNUMBERED && node.parent_inode()?.is_none();
        let keep = size > 0 || removed_later;
        node.set_cache_size(size)?;
        let mut entries = self.entries.lock();
        let before = entries.peek(&inode).map_or(0, |m| m.size);
        if keep {
            match entries.peek_mut(&inode) {
                Some(managed) => {
                    managed.node = node.clone();
                    managed.size = size;
                }
                None => {
                    entries.push(inode, Managed { node: node.clone(), size });
                }
            }
            self.total.fetch_add(size - before, Ordering::Relaxed);
        } else if entries.pop(&inode).is_some() {
            self.total.fetch_sub(before, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts the entry as the most recently used, whatever it weighs (the interface of 2017).
    ///
    /// # Errors
    /// What the node answers.
    pub fn manage(&self, node: &N) -> Outcome<()> {
        let inode = Self::key(node)?;
        let size = node.objsize()?;
        node.set_cache_size(size)?;
        let mut entries = self.entries.lock();
        let before = entries.pop(&inode).map_or(0, |m| m.size);
        entries.push(inode, Managed { node: node.clone(), size });
        self.total.fetch_add(size - before, Ordering::Relaxed);
        Ok(())
    }

    /// Stops counting the entry; answers whether it was counted.
    ///
    /// # Errors
    /// What the node answers.
    pub fn unmanage(&self, node: &N) -> Outcome<bool> {
        self.unmanage_as(Self::key(node)?, node)
    }

    /// Stops counting the entry that is managed under `inode`; answers whether there was one.
    ///
    /// # Errors
    /// What the node answers; it is not counted any more.
    pub fn unmanage_as(&self, inode: u64, node: &N) -> Outcome<bool> {
        let removed = self.entries.lock().pop(&inode);
        match removed {
            Some(managed) => {
                self.total.fetch_sub(managed.size, Ordering::Relaxed);
                node.set_cache_size(0)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Up to `count` entries, with their numbers, from the longest unused on, after the first `skip` of them.
    #[must_use]
    pub fn oldest(&self, skip: usize, count: usize) -> Vec<(u64, N)> {
        let entries = self.entries.lock();
        let oldest = entries.iter().rev().skip(skip).take(count);
        oldest.map(|(inode, managed)| (*inode, managed.node.clone())).collect()
    }

    /// Inode numbers of the managed entries, from the longest unused on.
    #[must_use]
    pub fn inodes(&self) -> Vec<u64> {
        self.entries.lock().iter().rev().map(|(inode, _)| *inode).collect()
    }

    /// The managed entry of that inode number.
    #[must_use]
    pub fn get(&self, inode: u64) -> Option<N> {
        self.entries.lock().peek(&inode).map(|m| m.node.clone())
    }

    /// Forgets every entry. Their owners drop outside the lock.
    pub fn clear(&self) {
        let old = std::mem::replace(&mut *self.entries.lock(), LruCache::unbounded());
        self.total.store(0, Ordering::Relaxed);
        drop(old);
    }
}
