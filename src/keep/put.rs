// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writing a block: it is hashed, stored by services, and kept in the cache.
//!
//! Invariant: every waiter is called exactly once, as for reading.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::config::MAX_BLOCK;
use super::error::{Attempts, Failure, KeepError};
use super::hashing::{Digesting, HashHandle};
use super::in_flight::call;
use super::pieces::Pieces;
use super::sending::Outgoing;
use super::storage::Storage;
use super::upload::Uploader;
use crate::types::{Locator, Md5};

/// Bytes that are handed on at a time, to be hashed or to be cached.
const PART: usize = 256 << 10;

/// How a block is to be stored.
///
/// ```
/// use arvados_fuse::keep::PutOptions;
///
/// let options = PutOptions { classes: vec!["archive".into()], ..PutOptions::default() };
/// assert_eq!(options.replicas, 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOptions {
    /// Copies; as many of each storage class. 0: the block is hashed and stored nowhere.
    pub replicas: u32,
    /// Names of storage classes; none: the cluster's default.
    pub classes: Vec<String>,
}

impl Default for PutOptions {
    fn default() -> Self {
        PutOptions { replicas: 2, classes: Vec::new() }
    }
}

/// What a writer leaves behind to be called when its block is stored, or cannot be: with the signed
/// locator. Called once, on a thread of the client; it must not wait for another block there.
pub type PutWaiter = Box<dyn FnOnce(Result<Locator, KeepError>) + Send>;

/// Who waits for a block to be stored. Dropped without an outcome, it gives an error.
pub(super) struct PutGuard {
    waiter: Option<PutWaiter>,
    md5: Option<Md5>,
    size: u64,
    stop: Arc<AtomicBool>,
}

impl PutGuard {
    /// `stop`: set when the client is shut down.
    pub(super) fn new(waiter: PutWaiter, size: u64, stop: Arc<AtomicBool>) -> Self {
        PutGuard { waiter: Some(waiter), md5: None, size, stop }
    }

    /// Gives the outcome; what fails while the client is shut down fails because of that.
    fn complete(mut self, outcome: Result<Locator, KeepError>) {
        if outcome.is_err() && self.stop.load(Ordering::Acquire) {
            return;
        }
        if let Some(waiter) = self.waiter.take() {
            call(waiter, outcome);
        }
    }

    /// Ends it with an error of the client's own, or with the shutdown.
    pub(super) fn fail(mut self, why: &str) {
        self.tell(why);
    }

    fn tell(&mut self, why: &str) {
        let Some(waiter) = self.waiter.take() else { return };
        let stopped = self.stop.load(Ordering::Acquire);
        let (failure, why) = if stopped { (Failure::ShutDown, "") } else { (Failure::Server, why) };
        call(waiter, Err(self.error(failure, why)));
    }

    fn error(&self, failure: Failure, why: &str) -> KeepError {
        KeepError::not_written(failure, (self.md5, self.size), why.into(), Attempts::default())
    }
}

impl Drop for PutGuard {
    fn drop(&mut self) {
        self.tell("the task that wrote it has died");
    }
}

/// What the tasks that write work with.
pub(super) struct Putter {
    uploader: Uploader,
    storage: Arc<Storage>,
    pool: HashHandle,
    hashing: Semaphore,
    uploads: Semaphore,
}

impl Putter {
    /// So many blocks at a time.
    pub(super) fn new(
        uploader: Uploader,
        storage: Arc<Storage>,
        pool: HashHandle,
        uploads: usize,
    ) -> Self {
        let uploads = uploads.clamp(1, Semaphore::MAX_PERMITS);
        let (hashing, uploads) = (Semaphore::new(uploads), Semaphore::new(uploads));
        Putter { uploader, storage, pool, hashing, uploads }
    }

    /// One block, from the hash to the waiter.
    pub(super) async fn run(
        self: Arc<Self>,
        mut guard: PutGuard,
        pieces: Pieces,
        options: PutOptions,
    ) {
        let outcome = self.put(&mut guard, pieces, &options).await;
        guard.complete(outcome);
    }

    async fn put(
        &self,
        guard: &mut PutGuard,
        pieces: Pieces,
        options: &PutOptions,
    ) -> Result<Locator, KeepError> {
        let size = pieces.len();
        if size > MAX_BLOCK {
            return Err(guard.error(Failure::TooLarge, ""));
        }
        let Some(md5) = self.hash(&pieces).await else {
            return Err(guard.error(Failure::ShutDown, ""));
        };
        guard.md5 = Some(md5);
        let block = Outgoing { md5, size: size as u32, pieces };
        if options.replicas == 0 {
            return Ok(block.locator());
        }
        let turn = self.uploads.acquire().await;
        let locator = self.uploader.store(&block, options).await?;
        drop(turn);
        // Whatever fails here has been told, and the block is stored.
        let _ = self.cache(&block).await;
        Ok(locator)
    }

    /// The digest; `None` if the pool has ended.
    async fn hash(&self, pieces: &Pieces) -> Option<Md5> {
        let _turn = self.hashing.acquire().await;
        let digesting = Digesting::new(self.pool.clone());
        let mut cursor = pieces.cursor();
        for part in cursor.parts(PART) {
            digesting.push(part).await;
        }
        digesting.finish().await
    }

    /// Puts a block that is stored into the cache, unless it is there.
    async fn cache(&self, block: &Outgoing) -> io::Result<()> {
        if block.size == 0 || self.storage.has(block.md5) {
            return Ok(());
        }
        let mut sink = self.storage.sink(&block.locator());
        let mut cursor = block.pieces.cursor();
        for part in cursor.parts(PART) {
            sink.push(part).await?;
        }
        let kept = sink.finish().await?;
        self.storage.keep(block.md5, kept).await;
        Ok(())
    }
}
