// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Keep client: what is at hand is given out at once, what is not is fetched once for all who
//! wait.
//!
//! Nothing is started, opened or read before the first block that is not at hand: the process may
//! fork between making the client and using it. In a child that forks later the client starts
//! anew.
//!
//! Locks, in order: `running`, then the flights' table, then the cache's tables. None is held while
//! a waiter is called or a system call made, except that `running` is held while starting.

use super::block::{Block, DiskBlock};
use super::cache::Cache;
use super::config::Config;
use super::counters::Counters;
use super::disk::DiskCache;
use super::error::{Failure, KeepError};
use super::fetch::Fetcher;
use super::flight::{Boarding, Flights, Priority, Ticket, Waiter, call, deliver};
use super::hashing::HashPool;
use super::http::Http;
use super::service::Services;
use crate::types::{Locator, Md5};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;

/// Verified bytes waiting to be written to the disk cache. Beyond this the disk is too slow, and
/// blocks stay in memory only.
const MAX_UNWRITTEN: u64 = 256 << 20;
/// Files written at the same time.
const WRITERS: usize = 2;
/// Files read and verified at the same time.
const VERIFIERS: usize = 4;
/// Requests to services at the same time, to bound sockets. Far above what a mount has in hand.
const REQUESTS: usize = 512;
/// Blocks that wait to be fetched ahead; more are not noted.
const MAX_AHEAD: usize = 64;
/// Threads for what blocks: the disk, and the list of services.
const BLOCKING_THREADS: usize = WRITERS + VERIFIERS + 4;
/// How long a shutdown waits for threads that block.
const GRACE: Duration = Duration::from_millis(700);

/// Reads blocks, from memory, the disk cache and Keep. See the [module](super).
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
    cache: Cache,
    flights: Arc<Flights>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

impl KeepClient {
    /// A client that has not started anything yet.
    pub fn new(config: Config, services: Arc<dyn Services>) -> Arc<Self> {
        let disk = match config.cache.max_bytes {
            0 => u64::MAX,
            given => given.max(super::MAX_BLOCK),
        };
        let shared = Shared {
            cache: Cache::new(config.cache.memory_limit(), (disk, config.cache.max_files())),
            config,
            services,
            flights: Arc::default(),
            counters: Arc::default(),
            stop: Arc::default(),
        };
        Arc::new(KeepClient { shared: Arc::new(shared), running: Mutex::new(State::New) })
    }

    /// A block at hand and verified: never waits, makes no system call. Counts as a get and a hit.
    pub fn try_get(&self, locator: &Locator) -> Option<Block> {
        let block = self.shared.at_hand(locator)?;
        self.shared.counters.hit();
        Some(block)
    }

    /// Gets a block and calls `waiter` with it, on a thread of the client; on the caller's only
    /// if the client is or was just shut down or cannot start its threads.
    pub fn get(&self, locator: &Locator, priority: Priority, waiter: Waiter) {
        let shared = &self.shared;
        match shared.flights.board(locator, priority, Some(waiter), || shared.at_hand(locator)) {
            Boarding::Joined => shared.counters.hit(),
            Boarding::AtHand(block, waiter) => {
                shared.counters.hit();
                let Some(waiter) = waiter else { return };
                match self.worker() {
                    Ok((handle, _)) => deliver(&handle, waiter, Ok(block)),
                    Err(_) => call(waiter, Ok(block)),
                }
            }
            Boarding::Start(ticket) => self.start(ticket, locator),
            Boarding::Closed(waiter) => {
                let error = KeepError::new(Failure::ShutDown, locator.md5(), locator.size(), "");
                waiter.into_iter().for_each(|waiter| call(waiter, Err(error.clone())));
            }
        }
    }

    /// Gets a block and waits for it. Not for a thread of the client.
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
        if shared.cache.contains(&locator.md5()) || shared.flights.len() >= MAX_AHEAD {
            return;
        }
        if let Boarding::Start(ticket) =
            shared.flights.board(locator, Priority::Prefetch, None, || None)
        {
            self.start(ticket, locator);
        }
    }

    /// The running totals.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Bytes of verified blocks in memory, and in cache files held open.
    pub fn cached_bytes(&self) -> (u64, u64) {
        self.shared.cache.bytes()
    }

    /// Bytes of blocks that can be kept in memory for readers: what read-ahead has to fit into.
    pub fn memory_bytes(&self) -> u64 {
        self.shared.config.cache.memory_limit().0
    }

    /// Forgets every cached block. Cache files stay for the next process.
    pub fn clear_cache(&self) {
        self.shared.cache.clear();
    }

    /// Ends all threads, closes sockets and files; readers that wait get an error. Takes less than a
    /// second, except that a call of [`Services::list`] cannot be interrupted and is left behind.
    pub fn shutdown(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.flights.close();
        let state = std::mem::replace(&mut *self.running.lock(), State::ShutDown);
        if let State::Running(running) = state {
            running.end();
        }
        self.shared.cache.clear();
    }

    fn start(&self, ticket: Ticket, locator: &Locator) {
        match self.worker() {
            Ok((handle, worker)) => drop(handle.spawn(worker.fly(ticket, locator.clone()))),
            Err(why) => {
                let error = KeepError::new(Failure::Server, locator.md5(), locator.size(), why);
                ticket.land().into_iter().for_each(|waiter| call(waiter, Err(error.clone())));
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
    fn at_hand(&self, locator: &Locator) -> Option<Block> {
        if locator.size() == 0 && locator.md5() == Md5::EMPTY {
            return Some(Block::memory(Arc::default()));
        }
        self.cache.get(locator)
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
        let http = Http::new(&shared.config, pool.handle(), shared.counters.clone())?;
        let cache = &shared.config.cache;
        let disk = |dir: &PathBuf| DiskCache::new(dir, cache.max_bytes, shared.stop.clone());
        let worker = Worker {
            disk: cache.disk_dir.as_ref().map(disk).map(Arc::new),
            fetcher: Fetcher::new(shared.config.clone(), http, shared.services.clone()),
            shared: shared.clone(),
            ahead: Semaphore::new(shared.config.prefetches.max(1)),
            requests: Semaphore::new(REQUESTS),
            verifying: Semaphore::new(VERIFIERS),
            writing: Semaphore::new(WRITERS),
            unwritten: AtomicU64::new(0),
            measured: tokio::sync::OnceCell::new(),
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
    disk: Option<Arc<DiskCache>>,
    ahead: Semaphore,
    requests: Semaphore,
    verifying: Semaphore,
    writing: Semaphore,
    unwritten: AtomicU64,
    measured: tokio::sync::OnceCell<()>,
}

impl Worker {
    /// One flight, from take-off to landing.
    async fn fly(self: Arc<Self>, mut ticket: Ticket, locator: Locator) {
        let mut locator = locator;
        let mut refused = Vec::new();
        loop {
            let error = match self.obtain(&locator, &ticket).await {
                Ok(block) => {
                    for waiter in ticket.land() {
                        deliver(&Handle::current(), waiter, Ok(block.clone()));
                    }
                    return;
                }
                Err(error) => error,
            };
            // A locator's signature may be what was wrong. Whoever came with another one
            // deserves another try.
            if !matches!(error.failure(), Failure::Forbidden | Failure::NotFound) {
                return fail(ticket.land(), &error);
            }
            refused.push(locator);
            let (waiters, next) = ticket.refuse(&refused);
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
        ticket: &Ticket,
    ) -> Result<Block, KeepError> {
        let shared = &self.shared;
        if let Some(block) = self.find_on_disk(locator).await {
            if ticket.demand.is_wanted() {
                shared.counters.hit();
            }
            return Ok(block);
        }
        shared.counters.miss();
        let demand = &ticket.demand;
        let _ahead = tokio::select! {
            biased;
            () = demand.wanted() => None,
            permit = self.ahead.acquire() => permit.ok(),
        };
        let _request = self.requests.acquire().await;
        let data = Arc::new(self.fetcher.fetch(locator, || demand.is_wanted()).await?);
        shared.cache.insert_memory(locator.md5(), data.clone());
        self.write_later(locator, &data);
        Ok(Block::memory(data))
    }

    /// A block of the cache folder, verified: in memory where it was read for that.
    async fn find_on_disk(self: &Arc<Self>, locator: &Locator) -> Option<Block> {
        let disk = self.disk.clone()?;
        let _turn = self.verifying.acquire().await.ok()?;
        let (wanted, md5) = (locator.clone(), locator.md5());
        let found = tokio::task::spawn_blocking(move || disk.find(&wanted)).await.ok()?;
        let (data, file) = found?;
        let file = Arc::new(file);
        self.keep_file(file.clone()).await;
        let Some(data) = data.map(Arc::new) else { return Some(Block::file(file)) };
        self.shared.cache.insert_memory(md5, data.clone());
        Some(Block::memory(data))
    }

    /// Has a block written to the cache folder. It stays in memory until then: being in use
    /// here, it is not evicted.
    fn write_later(self: &Arc<Self>, locator: &Locator, data: &Arc<Vec<u8>>) {
        let Some(disk) = self.disk.clone() else { return };
        let size = data.len() as u64;
        if self.unwritten.fetch_add(size, Ordering::AcqRel) + size > MAX_UNWRITTEN.max(size) {
            self.unwritten.fetch_sub(size, Ordering::AcqRel);
            return;
        }
        let (worker, data, md5) = (self.clone(), data.clone(), locator.md5());
        tokio::spawn(async move {
            if let Ok(_turn) = worker.writing.acquire().await {
                worker.measure(&disk).await;
                let shared = worker.shared.clone();
                let write = move || disk.store(md5, &data, &|| shared.cache.pop_file());
                // Otherwise the disk cache has told why, and the block stays in memory.
                if let Ok(Ok(Some(file))) = tokio::task::spawn_blocking(write).await {
                    worker.keep_file(Arc::new(file)).await;
                }
            }
            worker.unwritten.fetch_sub(size, Ordering::AcqRel);
        });
    }

    /// Adds a file to the table, and removes from the disk what that pushes out.
    async fn keep_file(self: &Arc<Self>, file: Arc<DiskBlock>) {
        let evicted = self.shared.cache.insert_file(file);
        let Some(disk) = self.disk.clone().filter(|_| !evicted.is_empty()) else { return };
        let remove = move || {
            for block in evicted {
                disk.evict(&block);
            }
        };
        // It fails only if the removal panics, or at shutdown.
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    /// Sets the limit of the disk cache, once.
    async fn measure(&self, disk: &Arc<DiskCache>) {
        let shared = &self.shared;
        let max_files = shared.config.cache.max_files();
        let measure = || async move {
            let disk = disk.clone();
            let measured = tokio::task::spawn_blocking(move || disk.measure(max_files));
            if let Ok(limit) = measured.await {
                shared.cache.limit_files(limit, max_files);
            }
        };
        self.measured.get_or_init(measure).await;
    }
}

fn fail(waiters: Vec<Waiter>, error: &KeepError) {
    for waiter in waiters {
        deliver(&Handle::current(), waiter, Err(error.clone()));
    }
}
