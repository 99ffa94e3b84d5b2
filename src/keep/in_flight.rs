// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Blocks on their way: one fetch for each, however many readers wait for it.
//!
//! Invariant: every waiter is called exactly once, also if the fetch's task panics or is dropped
//! with the runtime: a [`FetchGuard`] that goes away without an outcome gives its waiters an error.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::block::Block;
use super::error::{Failure, KeepError};
use crate::types::{Locator, Md5};

/// What a reader leaves behind to be called when its block has arrived, or cannot be had. Called
/// once, on a thread of the client; it must not wait for another block there.
pub type Waiter = Box<dyn FnOnce(Result<Block, KeepError>) + Send>;

/// How much a block is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Nobody is held up yet: few at a time, and one round over the services is enough.
    Prefetch,
    /// A reader is held up: at once, and with all retries.
    Demand,
}

/// Names a fetch: the size too, so that a locator with a wrong one fails alone.
type Key = (Md5, u32);

/// Every block on its way.
#[derive(Default)]
pub(super) struct InFlight {
    table: Mutex<HashMap<Key, Fetch>>,
    closed: AtomicBool,
}

struct Fetch {
    waiters: Vec<(Locator, Waiter)>,
    demand: Arc<Demand>,
}

/// Whether a reader waits for a fetch that may have begun as a prefetch.
#[derive(Default)]
pub(super) struct Demand {
    wanted: AtomicBool,
    changed: Notify,
}

impl Demand {
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Returns once a reader waits.
    pub(super) async fn wanted(&self) {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        if !self.is_wanted() {
            changed.await;
        }
    }

    fn want(&self) {
        self.wanted.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// What came of asking for a block.
pub(super) enum JoinOutcome {
    /// It is at hand after all.
    AtHand(Block, Option<Waiter>),
    /// It is on its way already.
    Joined,
    /// The caller is to start it.
    Start(FetchGuard),
    /// The client has been shut down.
    Closed(Option<Waiter>),
}

impl InFlight {
    /// Joins or opens the fetch of a block. `at_hand` looks in the cache once more, so that a
    /// block that has just completed is not fetched again.
    pub(super) fn join(
        self: &Arc<Self>,
        locator: &Locator,
        priority: Priority,
        waiter: Option<Waiter>,
        at_hand: impl FnOnce() -> Option<Block>,
    ) -> JoinOutcome {
        let key = (locator.md5(), locator.size());
        let mut table = self.table.lock();
        if self.closed.load(Ordering::Acquire) {
            return JoinOutcome::Closed(waiter);
        }
        if let Some(fetch) = table.get_mut(&key) {
            fetch.waiters.extend(waiter.map(|waiter| (locator.clone(), waiter)));
            if priority == Priority::Demand {
                fetch.demand.want();
            }
            return JoinOutcome::Joined;
        }
        if let Some(block) = at_hand() {
            return JoinOutcome::AtHand(block, waiter);
        }
        let demand = Arc::new(Demand::default());
        let waiters = waiter.into_iter().map(|waiter| (locator.clone(), waiter)).collect();
        if priority == Priority::Demand {
            demand.want();
        }
        table.insert(key, Fetch { waiters, demand: demand.clone() });
        JoinOutcome::Start(FetchGuard { in_flight: self.clone(), key, demand, completed: false })
    }

    /// From now on nothing is started.
    pub(super) fn close(&self) {
        let _table = self.table.lock();
        self.closed.store(true, Ordering::Release);
    }

    /// How many blocks are on their way.
    pub(super) fn len(&self) -> usize {
        self.table.lock().len()
    }
}

/// Held by the task that gets a block.
pub(super) struct FetchGuard {
    in_flight: Arc<InFlight>,
    key: Key,
    pub demand: Arc<Demand>,
    completed: bool,
}

impl FetchGuard {
    /// Ends the fetch and returns who waited.
    pub(super) fn complete(mut self) -> Vec<Waiter> {
        self.completed = true;
        self.leave().into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Takes out the waiters whose locator is the refused one. A locator of somebody
    /// else (another signature) is returned to try next; the fetch then goes on. If there is none, the fetch has
    /// ended.
    pub(super) fn refuse(&mut self, refused: &[Locator]) -> (Vec<Waiter>, Option<Locator>) {
        let mut table = self.in_flight.table.lock();
        let Some(fetch) = table.get_mut(&self.key) else { return (Vec::new(), None) };
        let (out, rest): (Vec<_>, Vec<_>) =
            fetch.waiters.drain(..).partition(|(locator, _)| refused.contains(locator));
        let next = rest.first().map(|(locator, _)| locator.clone());
        fetch.waiters = rest;
        if next.is_none() {
            table.remove(&self.key);
            self.completed = true;
        }
        (out.into_iter().map(|(_, waiter)| waiter).collect(), next)
    }

    fn leave(&self) -> Vec<(Locator, Waiter)> {
        self.in_flight.table.lock().remove(&self.key).map_or(Vec::new(), |fetch| fetch.waiters)
    }
}

impl Drop for FetchGuard {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let (failure, note) = if self.in_flight.closed.load(Ordering::Acquire) {
            (Failure::ShutDown, "")
        } else {
            (Failure::Server, "the task that fetched it has died")
        };
        let error = KeepError::new(failure, self.key.0, self.key.1, note);
        for (_, waiter) in self.leave() {
            call(waiter, Err(error.clone()));
        }
    }
}

/// Calls a waiter from a task of its own. If the runtime ends before the task has begun, the
/// waiter is called as the task is dropped.
pub(super) fn deliver(runtime: &Handle, waiter: Waiter, outcome: Result<Block, KeepError>) {
    let delivery = Delivery(Some((waiter, outcome)));
    runtime.spawn(async move { drop(delivery) });
}

struct Delivery(Option<(Waiter, Result<Block, KeepError>)>);

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some((waiter, outcome)) = self.0.take() {
            call(waiter, outcome);
        }
    }
}

/// Calls a waiter; a panic of it harms nobody else.
pub(super) fn call<T>(
    waiter: Box<dyn FnOnce(Result<T, KeepError>) + Send>,
    outcome: Result<T, KeepError>,
) {
    // The panic hook has told of it.
    let _ = catch_unwind(AssertUnwindSafe(|| waiter(outcome)));
}
