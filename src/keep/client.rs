// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Keep client: what is at hand is given out at once, what is not is fetched once for all who
//! wait. What is written is stored, and then at hand.
//!
//! Nothing is started, opened or read before the first block that is not at hand: the process may
//! fork between making the client and using it. In a child that forks later the client starts
//! anew.
//!
//! Locks, in order: `running`, then the `in_flight`' table, then the cache's tables. None is held while
//! a waiter is called or a system call made, except that `running` is held while starting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

use super::block::Block;
use super::cache::Cache;
use super::config::{Config, MAX_BLOCK};
use super::error::{Attempts, Failure, KeepError};
use super::fetch::Fetcher;
use super::hashing::HashPool;
use super::http::Http;
use super::in_flight::{FetchGuard, InFlight, JoinOutcome, Priority, Waiter, call, deliver};
use super::pieces::Pieces;
use super::put::{PutGuard, PutOptions, PutWaiter, Putter};
use super::service::Services;
use super::service_list::ServiceList;
use super::storage::{Storage, VERIFIERS, WRITERS};
use super::upload::Uploader;
use crate::metrics;
use crate::types::{Locator, Md5};

/// Requests to services at the same time, to bound sockets. Far above what a mount has in hand.
const REQUESTS: usize = 512;
/// A block that is fetched ahead counts as one more for each so many bytes, up to [`AHEAD_PARTS`].
const AHEAD_PART: u64 = MAX_BLOCK / AHEAD_PARTS as u64;
const AHEAD_PARTS: u32 = 4;
/// Blocks that wait to be fetched ahead; more are not noted.
const MAX_AHEAD: usize = 64;
/// Threads for what blocks: the disk, and the list of services.
const BLOCKING_THREADS: usize = WRITERS + VERIFIERS + 4;
/// How long a shutdown waits for threads that block.
const GRACE: Duration = Duration::from_millis(700);

/// Reads blocks, from memory, the disk cache and Keep, and writes them. See the [module](super).
///
/// ```
/// use arvados_fuse::keep::{Config, Failure, KeepClient, StaticServices};
/// use arvados_fuse::types::Locator;
/// use std::sync::Arc;
///
/// let services = StaticServices::from_setting("https://keep.example.org").expect("a URL");
/// let client = KeepClient::new(Config::default(), Arc::new(services));
/// let foo: Locator = "acbd18db4cc2f85cedef654fccc4a4d8+3".parse().expect("a locator");
/// // Nothing is at hand yet, and nobody was asked; get_blocking would ask, and wait.
/// assert!(client.try_get(&foo).is_none());
/// client.shutdown();
/// let error = client.get_blocking(&foo).err().expect("it was shut down");
/// assert_eq!(error.failure(), Failure::ShutDown);
/// ```
pub struct KeepClient {
    shared: Arc<Shared>,
    running: Mutex<State>,
}

enum State {
    New,
    Running(Box<Running>),
    ShutDown,
}

/// What lives from the first use to the shutdown.
struct Running {
    pid: u32,
    /// Ends before the pool: tasks wait for it.
    runtime: Runtime,
    pool: HashPool,
    worker: Arc<Worker>,
}

/// What readers' threads touch.
struct Shared {
    config: Config,
    services: Arc<dyn Services>,
    cache: Arc<Cache>,
    in_flight: Arc<InFlight>,
    metrics: Arc<metrics::Keep>,
    stop: Arc<AtomicBool>,
}

impl KeepClient {
    /// A client that has not started anything yet.
    pub fn new(config: Config, services: Arc<dyn Services>) -> Arc<Self> {
        let cache = &config.cache;
        let shared = Shared {
            cache: Arc::new(Cache::new(cache.memory_limit(), cache.disk_limit())),
            config,
            services,
            in_flight: Arc::default(),
            metrics: metrics::register(),
            stop: Arc::default(),
        };
        Arc::new(KeepClient { shared: Arc::new(shared), running: Mutex::new(State::New) })
    }

    /// A block at hand and verified: never waits, makes no system call, allocates nothing. Counts as a
    /// get and a hit.
    pub fn at_hand(&self, md5: Md5, size: u32) -> Option<Block> {
        let block = self.shared.at_hand(md5, size)?;
        self.shared.metrics.hit();
        Some(block)
    }

    /// As [`KeepClient::at_hand`], by a locator.
    pub fn try_get(&self, locator: &Locator) -> Option<Block> {
        self.at_hand(locator.md5(), locator.size())
    }

    /// Gets a block and calls `waiter` with it, on a thread of the client; on the caller's only
    /// if the client is or was just shut down or cannot start its threads.
    pub fn get(&self, locator: &Locator, priority: Priority, waiter: Waiter) {
        let shared = &self.shared;
        match shared
            .in_flight
            .join(locator, priority, Some(waiter), || shared.at_hand(locator.md5(), locator.size()))
        {
            JoinOutcome::Joined => shared.metrics.hit(),
            JoinOutcome::AtHand(block, waiter) => {
                shared.metrics.hit();
                let Some(waiter) = waiter else { return };
                match self.worker() {
                    Ok((handle, _)) => deliver(&handle, waiter, Ok(block)),
                    Err(_) => call(waiter, Ok(block)),
                }
            }
            JoinOutcome::Start(guard) => self.start(guard, locator),
            JoinOutcome::Closed(waiter) => {
                let error = KeepError::new(Failure::ShutDown, locator.md5(), locator.size(), "");
                waiter.into_iter().for_each(|waiter| call(waiter, Err(error.clone())));
            }
        }
    }

    /// Gets a block and waits for it. Not for a thread of the client.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn get_blocking(&self, locator: &Locator) -> Result<Block, KeepError> {
        if let Some(block) = self.try_get(locator) {
            return Ok(block);
        }
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let waiter = Box::new(move |outcome| drop(sender.send(outcome)));
        self.get(locator, Priority::Demand, waiter);
        receiver.recv().unwrap_or_else(|_| {
            Err(KeepError::new(Failure::ShutDown, locator.md5(), locator.size(), ""))
        })
    }

    /// Has a block fetched before anybody asks for it. Does nothing if it is at hand or on its
    /// way, or if too many are waiting already.
    pub fn prefetch(&self, locator: &Locator) {
        let shared = &self.shared;
        if shared.cache.contains(&locator.md5()) || shared.in_flight.len() >= MAX_AHEAD {
            return;
        }
        if let JoinOutcome::Start(guard) =
            shared.in_flight.join(locator, Priority::Prefetch, None, || None)
        {
            self.start(guard, locator);
        }
    }

    /// Stores a block of at most 64 MiB, given in pieces, which are hashed and sent as they are, and
    /// calls `waiter` with its locator, which is signed where the cluster signs them. From then on
    /// the block is at hand.
    ///
    /// `waiter` is called on a thread of the client; on the caller's only if the client is or was
    /// just shut down or cannot start its threads.
    ///
    /// ```
    /// use arvados_fuse::keep::{Config, KeepClient, PutOptions, StaticServices};
    /// use std::sync::Arc;
    ///
    /// let services = StaticServices::new(Vec::new());
    /// let client = KeepClient::new(Config::default(), Arc::new(services));
    /// // Stored nowhere: nothing but the hash is computed.
    /// let options = PutOptions { replicas: 0, ..PutOptions::default() };
    /// let foo = client.put_blocking(vec!["f".into(), "oo".into()], &options)?;
    /// assert_eq!(foo.to_string(), "acbd18db4cc2f85cedef654fccc4a4d8+3");
    /// # Ok::<(), arvados_fuse::keep::KeepError>(())
    /// ```
    pub fn put(&self, data: Vec<Bytes>, options: &PutOptions, waiter: PutWaiter) {
        self.shared.metrics.puts.add(1);
        let pieces = Pieces::new(data);
        let guard = PutGuard::new(waiter, pieces.len(), self.shared.stop.clone());
        match self.worker() {
            Ok((handle, worker)) => {
                drop(handle.spawn(worker.putter.clone().run(guard, pieces, options.clone())));
            }
            Err(why) => guard.fail(&why),
        }
    }

    /// Stores a block and waits for it. Not for a thread of the client.
    ///
    /// # Errors
    /// Why it is not stored, or in too few copies.
    pub fn put_blocking(
        &self,
        data: Vec<Bytes>,
        options: &PutOptions,
    ) -> Result<Locator, KeepError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let size = data.iter().map(|piece| piece.len() as u64).sum();
        self.put(data, options, Box::new(move |outcome| drop(sender.send(outcome))));
        receiver.recv().unwrap_or_else(|_| {
            let shut = Failure::ShutDown;
            Err(KeepError::not_written(shut, (None, size), String::new(), Attempts::default()))
        })
    }

    /// The running totals.
    pub fn metrics(&self) -> &metrics::Keep {
        &self.shared.metrics
    }

    /// Bytes of verified blocks in memory, and in cache files held open.
    pub fn cached_bytes(&self) -> (u64, u64) {
        self.shared.cache.bytes()
    }

    /// Bytes that may be fetched ahead of a reader and are still there when it arrives: half of the
    /// cache on disk, or what memory holds where there is none, or none that takes blocks.
    pub fn room_ahead(&self) -> u64 {
        self.shared.cache.room_ahead()
    }

    /// Forgets every cached block. Cache files stay for the next process.
    pub fn clear_cache(&self) {
        self.shared.cache.clear();
    }

    /// Ends all threads, closes sockets and files; readers that wait get an error. Takes less than a
    /// second, except that a call of [`Services::list`] cannot be interrupted and is left behind.
    pub fn shutdown(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.in_flight.close();
        let state = std::mem::replace(&mut *self.running.lock(), State::ShutDown);
        if let State::Running(running) = state {
            running.end();
        }
        self.shared.cache.clear();
    }

    fn start(&self, guard: FetchGuard, locator: &Locator) {
        match self.worker() {
            Ok((handle, worker)) => drop(handle.spawn(worker.fetch_block(guard, locator.clone()))),
            Err(why) => {
                let error = KeepError::new(Failure::Server, locator.md5(), locator.size(), why);
                guard.complete().into_iter().for_each(|waiter| call(waiter, Err(error.clone())));
            }
        }
    }

    fn worker(&self) -> Result<(Handle, Arc<Worker>), String> {
        let mut state = self.running.lock();
        let here = std::process::id();
        if let State::Running(running) = &*state {
            if running.pid == here {
                return Ok((running.runtime.handle().clone(), running.worker.clone()));
            }
            // Forked: the threads are the parent's. Dropping would wait for them for ever.
            std::mem::forget(std::mem::replace(&mut *state, State::New));
        }
        if matches!(*state, State::ShutDown) {
            return Err("the Keep client was shut down".into());
        }
        let running = Running::start(&self.shared)?;
        let started = (running.runtime.handle().clone(), running.worker.clone());
        *state = State::Running(Box::new(running));
        Ok(started)
    }
}

impl Drop for KeepClient {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn at_hand(&self, md5: Md5, size: u32) -> Option<Block> {
        if size == 0 && md5 == Md5::EMPTY {
            return Some(Block::memory(Arc::default()));
        }
        self.cache.get(md5, size)
    }
}

impl Running {
    fn start(shared: &Arc<Shared>) -> Result<Self, String> {
        let why = |error: std::io::Error| format!("cannot start threads: {error}");
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let hashers = match shared.config.hash_threads {
            0 => processors.min(8),
            given => given,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(processors.clamp(2, 4))
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("keep-io")
            .enable_all()
            .build()
            .map_err(why)?;
        let pool = HashPool::start(hashers).map_err(why)?;
        let http = Http::new(&shared.config, pool.handle(), shared.metrics.clone())?;
        let http = Arc::new(http);
        let cache = shared.cache.clone();
        let storage =
            Storage::new(cache, &shared.config.cache, shared.metrics.clone(), shared.stop.clone());
        let list = Arc::new(ServiceList::new(shared.services.clone()));
        let uploader = Uploader::new(shared.config.clone(), http.clone(), list.clone());
        let uploads = shared.config.uploads;
        let putter = Putter::new(uploader, storage.clone(), pool.handle(), uploads);
        let worker = Worker {
            fetcher: Fetcher::new(shared.config.clone(), http, storage.clone(), list),
            putter: Arc::new(putter),
            storage,
            shared: shared.clone(),
            ahead: Semaphore::new(shared.config.concurrent_prefetches() * AHEAD_PARTS as usize),
            requests: Semaphore::new(REQUESTS),
        };
        Ok(Running { pid: std::process::id(), runtime, pool, worker: Arc::new(worker) })
    }

    fn end(self) {
        let Running { pid, runtime, pool, worker } = self;
        if pid != std::process::id() {
            std::mem::forget((runtime, pool, worker));
        } else if Handle::try_current().is_ok() {
            // On one of our own threads, which cannot wait for itself.
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(GRACE);
        }
    }
}

/// What the tasks work with.
struct Worker {
    shared: Arc<Shared>,
    fetcher: Fetcher,
    putter: Arc<Putter>,
    storage: Arc<Storage>,
    ahead: Semaphore,
    requests: Semaphore,
}

impl Worker {
    /// One fetch, from the first request to the last waiter.
    async fn fetch_block(self: Arc<Self>, mut guard: FetchGuard, locator: Locator) {
        let mut locator = locator;
        let mut refused = Vec::new();
        loop {
            let error = match self.obtain(&locator, &guard).await {
                Ok(block) => {
                    for waiter in guard.complete() {
                        deliver(&Handle::current(), waiter, Ok(block.clone()));
                    }
                    return;
                }
                Err(error) => error,
            };
            // A locator's signature may be what was wrong. Whoever came with another one
            // deserves another try.
            if !matches!(error.failure(), Failure::Forbidden | Failure::NotFound) {
                return fail(guard.complete(), &error);
            }
            refused.push(locator);
            let (waiters, next) = guard.refuse(&refused);
            fail(waiters, &error);
            match next {
                Some(other) => locator = other,
                None => return,
            }
        }
    }

    /// The block, from the disk or from Keep, and in the cache.
    async fn obtain(
        self: &Arc<Self>,
        locator: &Locator,
        guard: &FetchGuard,
    ) -> Result<Block, KeepError> {
        let shared = &self.shared;
        if let Some(block) = self.storage.find(locator).await {
            if guard.demand.is_wanted() {
                shared.metrics.hit();
            }
            return Ok(block);
        }
        shared.metrics.miss();
        let demand = &guard.demand;
        let parts =
            u64::from(locator.size()).div_ceil(AHEAD_PART).clamp(1, AHEAD_PARTS.into()) as u32;
        let _ahead = tokio::select! {
            biased;
            () = demand.wanted() => None,
            permit = self.ahead.acquire_many(parts) => permit.ok(),
        };
        let _request = self.requests.acquire().await;
        let stored = self.fetcher.fetch(locator, || demand.is_wanted()).await?;
        Ok(self.storage.keep(locator.md5(), stored).await)
    }
}

fn fail(waiters: Vec<Waiter>, error: &KeepError) {
    for waiter in waiters {
        deliver(&Handle::current(), waiter, Err(error.clone()));
    }
}
