// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Where blocks are found, and where the bytes of a body go.
//!
//! A large block goes into its cache file as it arrives and is read from there: it is never in
//! memory as a whole, and what is written was just received. Small ones are given out from memory
//! and written afterwards. What the disk does not take is in memory from the byte on at which it failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use super::block::{Block, DiskBlock};
use super::cache::Cache;
use super::config::{CacheConfig, MAX_BLOCK};
use super::disk::{DiskCache, PartialCacheFile};
use crate::metrics;
use crate::types::{Locator, Md5};

/// Bytes of small blocks that wait to be written. Beyond this the disk is too slow, and they stay
/// in memory only.
const MAX_UNWRITTEN: u64 = 256 << 20;
/// Files written at the same moment.
pub(super) const WRITERS: usize = 4;
/// Files read and verified at the same time.
pub(super) const VERIFIERS: usize = 4;

/// The cache, in memory and on disk.
pub(super) struct Storage {
    cache: Arc<Cache>,
    disk: Option<Arc<DiskCache>>,
    max_files: usize,
    /// Bytes of a block that is written after it was given out, at most; of a larger one so many
    /// are written at a time.
    small: usize,
    verifying: Semaphore,
    writing: Arc<Semaphore>,
    unwritten: AtomicU64,
    measured: OnceCell<()>,
}

/// The bytes of a block.
pub(super) enum Stored {
    Memory(Vec<u8>),
    File(DiskBlock),
}

impl Storage {
    /// `stop` ends what is under way on the disk.
    pub(super) fn new(
        cache: Arc<Cache>,
        config: &CacheConfig,
        metrics: Arc<metrics::Keep>,
        stop: Arc<AtomicBool>,
    ) -> Arc<Self> {
        let disk = config.disk_dir.as_ref();
        let disk = disk.map(|dir| DiskCache::new(dir, config.max_bytes, metrics, stop));
        Arc::new(Storage {
            cache,
            disk: disk.map(Arc::new),
            small: config.write_behind(),
            max_files: config.max_files(),
            verifying: Semaphore::new(VERIFIERS),
            writing: Arc::new(Semaphore::new(WRITERS)),
            unwritten: AtomicU64::new(0),
            measured: OnceCell::new(),
        })
    }

    /// A block of the cache folder, verified.
    pub(super) async fn find(self: &Arc<Self>, locator: &Locator) -> Option<Block> {
        let disk = self.disk.clone()?;
        let _turn = self.verifying.acquire().await.ok()?;
        let wanted = locator.clone();
        let file = spawn_blocking(move || disk.find(&wanted)).await.ok()??;
        Some(self.keep_file(file).await)
    }

    /// Whether a block is at hand.
    pub(super) fn has(&self, md5: Md5) -> bool {
        self.cache.contains(&md5)
    }

    /// For the bytes of a block that is about to arrive.
    pub(super) fn sink(self: &Arc<Self>, locator: &Locator) -> Sink {
        // No service has larger ones, whatever a locator says.
        let size = u64::from(locator.size()).min(MAX_BLOCK) as usize;
        let storage = self.clone();
        let disk = self.disk.clone().filter(|_| size > self.small);
        let kept = disk.map_or(Kept::Memory(Vec::new()), Kept::Nothing);
        let held = Held::Idle(kept);
        Sink { storage, md5: locator.md5(), size, waiting: Vec::new(), gathered: 0, held }
    }

    /// Puts a verified block into the cache.
    pub(super) async fn keep(self: &Arc<Self>, md5: Md5, stored: Stored) -> Block {
        match stored {
            Stored::File(file) => {
                self.cache.set_on_disk(true);
                self.keep_file(file).await
            }
            Stored::Memory(data) => {
                let data = Arc::new(data);
                self.cache.insert_memory(md5, data.clone());
                if data.len() <= self.small {
                    self.write_later(md5, &data);
                } else {
                    self.cache.set_on_disk(false);
                }
                Block::memory(data)
            }
        }
    }

    /// Has a block written to the cache folder. It stays in memory until then: being in use
    /// here, it is not evicted.
    fn write_later(self: &Arc<Self>, md5: Md5, data: &Arc<Vec<u8>>) {
        let Some(disk) = self.disk.clone() else { return };
        let size = data.len() as u64;
        if self.unwritten.fetch_add(size, Ordering::AcqRel) + size > MAX_UNWRITTEN {
            self.unwritten.fetch_sub(size, Ordering::AcqRel);
            return;
        }
        let (storage, data) = (self.clone(), data.clone());
        tokio::spawn(async move {
            if let Ok(_turn) = storage.writing.acquire().await {
                storage.measure(&disk).await;
                let cache = storage.cache.clone();
                let write = move || disk.store(md5, &data, &|| cache.pop_file());
                // Otherwise the disk cache has told why, and the block stays in memory.
                if let Ok(Some(file)) = spawn_blocking(write).await {
                    storage.keep_file(file).await;
                }
            }
            storage.unwritten.fetch_sub(size, Ordering::AcqRel);
        });
    }

    /// Adds a file to the table, and removes from the disk what that pushes out.
    async fn keep_file(self: &Arc<Self>, file: DiskBlock) -> Block {
        let file = Arc::new(file);
        let evicted = self.cache.insert_file(file.clone());
        if let Some(disk) = self.disk.clone().filter(|_| !evicted.is_empty()) {
            let remove = move || {
                for block in evicted {
                    disk.evict(&block);
                }
            };
            // It fails only if the removal panics, or at shutdown.
            let _ = spawn_blocking(remove).await;
        }
        Block::file(file)
    }

    /// Sets the limit of the disk cache, once.
    async fn measure(&self, disk: &Arc<DiskCache>) {
        let max_files = self.max_files;
        let measure = || async move {
            let disk = disk.clone();
            if let Ok(limit) = spawn_blocking(move || disk.measure(max_files)).await {
                self.cache.limit_files(limit, max_files);
            }
        };
        self.measured.get_or_init(measure).await;
    }
}

/// Takes the bytes of a block as they come. Dropped before its end, it leaves nothing behind.
pub(super) struct Sink {
    storage: Arc<Storage>,
    md5: Md5,
    size: usize,
    /// What has come since the last bytes were written.
    waiting: Vec<Bytes>,
    gathered: usize,
    held: Held,
}

enum Held {
    Idle(Kept),
    /// The next bytes are received while these are written.
    Writing(JoinHandle<io::Result<Kept>>),
}

/// What has been taken so far.
enum Kept {
    /// Nothing: the file is yet to be begun.
    Nothing(Arc<DiskCache>),
    Memory(Vec<u8>),
    File(PartialCacheFile),
}

impl Sink {
    /// Takes the next bytes. May wait for the disk; it fails only where bytes are lost that had
    /// been written, or where there is no memory.
    pub(super) async fn push(&mut self, piece: Vec<Bytes>) -> io::Result<()> {
        self.gathered += piece.iter().map(Bytes::len).sum::<usize>();
        self.waiting.extend(piece);
        if self.gathered >= self.storage.small { self.pass_on().await } else { Ok(()) }
    }

    /// The block: all its bytes have been taken and are known to be right.
    pub(super) async fn finish(mut self) -> io::Result<Stored> {
        if self.gathered > 0 {
            self.pass_on().await?;
        }
        match self.settle().await? {
            Kept::File(unfinished) => {
                let finish = move || match unfinished.finish() {
                    Ok(file) => Ok(Stored::File(file)),
                    Err(unfinished) => unfinished.into_memory().map(Stored::Memory),
                };
                spawn_blocking(finish).await?
            }
            Kept::Memory(data) => Ok(Stored::Memory(data)),
            Kept::Nothing(_) => Ok(Stored::Memory(Vec::new())),
        }
    }

    /// What has been taken, when the last write has ended.
    async fn settle(&mut self) -> io::Result<Kept> {
        match std::mem::replace(&mut self.held, Held::Idle(Kept::Memory(Vec::new()))) {
            Held::Idle(kept) => Ok(kept),
            Held::Writing(writing) => writing.await?,
        }
    }

    async fn pass_on(&mut self) -> io::Result<()> {
        let pieces = std::mem::take(&mut self.waiting);
        self.gathered = 0;
        let (md5, size) = (self.md5, self.size);
        let begun = match self.settle().await? {
            Kept::Memory(data) => {
                self.held = Held::Idle(extended(data, &pieces, size)?);
                return Ok(());
            }
            Kept::Nothing(disk) => {
                self.storage.measure(&disk).await;
                Err(disk)
            }
            Kept::File(unfinished) => Ok(unfinished),
        };
        let turn = self.storage.writing.clone().acquire_owned().await;
        let cache = self.storage.cache.clone();
        self.held = Held::Writing(spawn_blocking(move || {
            let _turn = turn;
            // Where it cannot be begun, the disk cache has told why.
            let begin = |disk: Arc<DiskCache>| {
                disk.begin(md5, size, &|| cache.pop_file()).ok().flatten().ok_or(())
            };
            match begun.or_else(begin).map(|unfinished| unfinished.write(&pieces)) {
                Ok(Ok(unfinished)) => Ok(Kept::File(unfinished)),
                Ok(Err(unfinished)) => extended(unfinished.into_memory()?, &pieces, size),
                Err(()) => extended(Vec::new(), &pieces, size),
            }
        }));
        Ok(())
    }
}

fn extended(mut data: Vec<u8>, pieces: &[Bytes], size: usize) -> io::Result<Kept> {
    data.try_reserve_exact(size.saturating_sub(data.len())).map_err(io::Error::other)?;
    pieces.iter().for_each(|piece| data.extend_from_slice(piece));
    Ok(Kept::Memory(data))
}
