// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The blocks at hand: in memory, and verified on disk.
//!
//! One lock guards both tables. It is held for a look-up and a move to the front of a list; no
//! system call is made and no block freed under it. Both lists are in order of last use, so that
//! what to evict is found in constant time; a block that somebody is reading is passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::block::{Block, DiskBlock};
use crate::types::Md5;

/// How many blocks in use are passed over before an eviction gives up for now.
const PASS_OVER: usize = 64;

/// The two tables and their limits.
pub(super) struct Cache {
    tables: Mutex<Tables>,
    /// Whether large blocks go to the disk: there is a folder, and it took the last one.
    on_disk: AtomicBool,
}

struct Tables {
    memory: Table<Vec<u8>>,
    disk: Table<DiskBlock>,
}

/// Blocks in order of last use, with a limit of bytes and of blocks.
struct Table<T> {
    blocks: LruCache<Md5, (Arc<T>, u64)>,
    bytes: u64,
    max_bytes: u64,
    max_blocks: usize,
}

impl<T> Table<T> {
    fn new(max_bytes: u64, max_blocks: usize) -> Self {
        Table { blocks: LruCache::unbounded(), bytes: 0, max_bytes, max_blocks }
    }

    fn get(&mut self, md5: &Md5) -> Option<Arc<T>> {
        self.blocks.get(md5).map(|(block, _)| block.clone())
    }

    fn remove(&mut self, md5: &Md5) -> Option<Arc<T>> {
        let (block, size) = self.blocks.pop(md5)?;
        self.bytes -= size;
        Some(block)
    }

    fn insert(&mut self, md5: Md5, block: Arc<T>, size: u64) -> Option<Arc<T>> {
        let old = self.remove(&md5);
        self.bytes += size;
        self.blocks.put(md5, (block, size));
        old
    }

    /// The block unused for longest, if nobody is reading it: clones are made only under the
    /// lock, so a count of one cannot grow meanwhile.
    fn pop_unused(&mut self) -> Option<Arc<T>> {
        for _ in 0..PASS_OVER.min(self.blocks.len()) {
            let (md5, (block, size)) = self.blocks.pop_lru()?;
            if Arc::strong_count(&block) == 1 {
                self.bytes -= size;
                return Some(block);
            }
            self.blocks.put(md5, (block, size));
        }
        None
    }

    /// Takes out what exceeds the limits, sparing the newest block: first those that there are too
    /// many bytes of, then those that there are just too many of.
    fn over_limit(&mut self) -> (Vec<Arc<T>>, Vec<Arc<T>>) {
        let bytes = self.pop_while(|table| table.bytes > table.max_bytes);
        let number = self.pop_while(|table| table.blocks.len() > table.max_blocks);
        (bytes, number)
    }

    fn pop_while(&mut self, too_much: impl Fn(&Self) -> bool) -> Vec<Arc<T>> {
        let mut out = Vec::new();
        while self.blocks.len() > 1 && too_much(self) {
            match self.pop_unused() {
                Some(block) => out.push(block),
                None => break,
            }
        }
        out
    }
}

impl Cache {
    /// Limits in bytes and blocks, memory first; `None` where there is no disk.
    pub(super) fn new(memory: (u64, usize), disk: Option<(u64, usize)>) -> Self {
        let on_disk = AtomicBool::new(disk.is_some());
        let disk = disk.unwrap_or((0, 0));
        let tables =
            Tables { memory: Table::new(memory.0, memory.1), disk: Table::new(disk.0, disk.1) };
        Cache { tables: Mutex::new(tables), on_disk }
    }

    /// A block at hand, now the most recently used. Another size than the block's finds nothing.
    pub(super) fn get(&self, md5: Md5, size: u32) -> Option<Block> {
        let dropped;
        {
            let mut tables = self.tables.lock();
            let tables = &mut *tables;
            let disk = tables.disk.get(&md5);
            if let Some(data) = tables.memory.get(&md5) {
                return (data.len() == size as usize).then(|| Block::memory(data));
            }
            match disk {
                Some(file) if file.is_stale() => dropped = tables.disk.remove(&md5),
                Some(file) => {
                    return (file.fingerprint.size == u64::from(size)).then(|| Block::file(file));
                }
                None => return None,
            }
        }
        drop(dropped);
        None
    }

    /// Whether a block is at hand, without counting as a use.
    pub(super) fn contains(&self, md5: &Md5) -> bool {
        let tables = self.tables.lock();
        tables.memory.blocks.contains(md5)
            || tables.disk.blocks.peek(md5).is_some_and(|(file, _)| !file.is_stale())
    }

    /// Puts a verified block in memory.
    pub(super) fn insert_memory(&self, md5: Md5, data: Arc<Vec<u8>>) {
        let size = data.len() as u64;
        let mut tables = self.tables.lock();
        let old = tables.memory.insert(md5, data, size);
        let evicted = tables.memory.over_limit();
        drop(tables);
        drop((old, evicted));
    }

    /// Adds a verified file. Those that there is no room for on the disk are for the caller to
    /// remove; those that only take too many descriptors are closed, and may be found again.
    #[must_use]
    pub(super) fn insert_file(&self, file: Arc<DiskBlock>) -> Vec<Arc<DiskBlock>> {
        let size = file.fingerprint.size;
        let mut tables = self.tables.lock();
        let old = tables.disk.insert(file.md5, file, size);
        let (evicted, closed) = tables.disk.over_limit();
        drop(tables);
        drop((old, closed));
        evicted
    }

    /// Notes whether the disk took a large block.
    pub(super) fn set_on_disk(&self, taken: bool) {
        self.on_disk.store(taken, Ordering::Relaxed);
    }

    /// Bytes that may be fetched ahead of a reader.
    pub(super) fn room_ahead(&self) -> u64 {
        let on_disk = self.on_disk.load(Ordering::Relaxed);
        let tables = self.tables.lock();
        if on_disk { tables.disk.max_bytes / 2 } else { tables.memory.max_bytes }
    }

    /// The file unused for longest that nobody reads, no longer in the table.
    pub(super) fn pop_file(&self) -> Option<Arc<DiskBlock>> {
        self.tables.lock().disk.pop_unused()
    }

    /// Bytes in memory and in files held open.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let tables = self.tables.lock();
        (tables.memory.bytes, tables.disk.bytes)
    }

    /// Sets the limit of the files, in bytes and in blocks.
    pub(super) fn limit_files(&self, max_bytes: u64, max_blocks: usize) {
        let mut tables = self.tables.lock();
        (tables.disk.max_bytes, tables.disk.max_blocks) = (max_bytes, max_blocks);
    }

    /// Forgets everything; files stay on the disk for the next process.
    pub(super) fn clear(&self) {
        let mut tables = self.tables.lock();
        let empty = Tables {
            memory: Table::new(tables.memory.max_bytes, tables.memory.max_blocks),
            disk: Table::new(tables.disk.max_bytes, tables.disk.max_blocks),
        };
        let old = std::mem::replace(&mut *tables, empty);
        drop(tables);
        drop(old);
    }
}
