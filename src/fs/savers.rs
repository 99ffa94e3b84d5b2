// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The threads that save: a few, which end when nothing is to be done.
//!
//! A thread stays for a while, because what it has to do with (a client of the API, say) may be kept for
//! each thread.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Something to be done.
pub type Job = Box<dyn FnOnce() + Send>;

/// How many saves are under way at a time, at most.
const MOST: usize = 4;
/// How long a thread waits for something to do.
const PATIENCE: Duration = Duration::from_secs(300);

struct Pool {
    /// The process whose threads these are: after a fork, the child has none of them.
    process: u32,
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> =
    Mutex::new(Pool { process: 0, jobs: VecDeque::new(), threads: 0, idle: 0 });
static ADDED: Condvar = Condvar::new();

/// Whether those are threads of the process that this one was forked from; they are this one's from now on.
fn is_inherited(process: &mut u32) -> bool {
    let own = std::process::id();
    std::mem::replace(process, own) != own
}

/// Has a thread do it, in its turn.
pub fn run(job: Job) {
    let mut pool = POOL.lock();
    if is_inherited(&mut pool.process) {
        (pool.threads, pool.idle) = (0, 0);
        pool.jobs.clear();
    }
    pool.jobs.push_back(job);
    if pool.idle >= pool.jobs.len() || pool.threads >= MOST {
        ADDED.notify_one();
        return;
    }
    pool.threads += 1;
    drop(pool);
    let started = std::thread::Builder::new().name("saver".into()).spawn(work);
    if let Err(error) = started {
        log::error!("no thread for saving: {error}");
        let mut pool = POOL.lock();
        pool.threads -= 1;
        // Others will come to it, where there are any.
        let jobs = if pool.threads == 0 { std::mem::take(&mut pool.jobs) } else { VecDeque::new() };
        drop(pool);
        jobs.into_iter().for_each(|job| job());
    }
}

struct Timer {
    /// As that of the pool.
    process: u32,
    /// By when they are due.
    jobs: BTreeMap<Instant, Vec<Job>>,
    running: bool,
}

static TIMER: Mutex<Timer> =
    Mutex::new(Timer { process: 0, jobs: BTreeMap::new(), running: false });
static SOONER: Condvar = Condvar::new();

/// Has a thread do it after a while.
pub fn run_after(delay: Duration, job: Job) {
    let mut timer = TIMER.lock();
    if is_inherited(&mut timer.process) {
        timer.running = false;
        timer.jobs.clear();
    }
    timer.jobs.entry(Instant::now() + delay).or_default().push(job);
    SOONER.notify_one();
    if std::mem::replace(&mut timer.running, true) {
        return;
    }
    drop(timer);
    let started = std::thread::Builder::new().name("save-timer".into()).spawn(wait);
    if let Err(error) = started {
        log::error!("no thread for saving later: {error}");
        let mut timer = TIMER.lock();
        timer.running = false;
        let jobs = std::mem::take(&mut timer.jobs);
        drop(timer);
        jobs.into_values().flatten().for_each(run);
    }
}

fn wait() {
    let mut timer = TIMER.lock();
    while let Some(entry) = timer.jobs.first_entry() {
        let due = *entry.key();
        if due <= Instant::now() {
            let jobs = entry.remove();
            drop(timer);
            jobs.into_iter().for_each(run);
            timer = TIMER.lock();
        } else {
            SOONER.wait_until(&mut timer, due);
        }
    }
    timer.running = false;
}

fn work() {
    let mut pool = POOL.lock();
    loop {
        if let Some(job) = pool.jobs.pop_front() {
            drop(pool);
            job();
            pool = POOL.lock();
            continue;
        }
        pool.idle += 1;
        let late = ADDED.wait_for(&mut pool, PATIENCE).timed_out();
        pool.idle -= 1;
        if late && pool.jobs.is_empty() {
            pool.threads -= 1;
            return;
        }
    }
}
