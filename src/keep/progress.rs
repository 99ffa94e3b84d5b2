// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How far the reading or writing of one block has come: when something of it last moved, and what stands in
//! the way since.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::config::Config;
use super::error::{Failure, Operation};
use crate::report::report_as;

/// Between one line about a block that is waited for and the next.
const AGAIN: Duration = Duration::from_secs(60);

/// Shared by those who fetch or send and the one that watches over it.
pub(super) struct Progress {
    begun: Instant,
    operation: Operation,
    state: Mutex<State>,
}

struct State {
    /// When a byte last arrived, or a service last stored a copy.
    moved: Instant,
    /// When each request that is under way was last able to send something, by its number.
    sending: Vec<(u64, Instant)>,
    requests: u64,
    /// Whom it waits for, and what that one does or did, as text for a log.
    obstacle: (String, String),
}

impl Progress {
    pub(super) fn new(operation: Operation) -> Self {
        let begun = Instant::now();
        let (sending, obstacle) = Default::default();
        let state = State { moved: begun, sending, requests: 0, obstacle };
        Progress { begun, operation, state: Mutex::new(state) }
    }

    /// Something of the block has arrived.
    pub(super) fn moved(&self) {
        self.state.lock().moved = Instant::now();
    }

    /// What is waited for, or what failed.
    pub(super) fn stands_at(&self, who: &str, what: &str) {
        self.state.lock().obstacle = (who.to_string(), what.to_string());
    }

    /// The outcome of `work`, unless nothing moves for as long as the patience, or the deadline
    /// passes. Tells of waiting as [`Progress::watch`] does.
    pub(super) async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, (Failure, String)>>,
        config: &Config,
        block: &str,
        wanted: impl Fn() -> bool,
    ) -> Result<T, (Failure, String)> {
        let Config { notice, patience, deadline, .. } = *config;
        tokio::select! {
            outcome = work => outcome,
            obstacle = self.watch(block, notice, patience, wanted) => {
                let nothing = self.words().1;
                let note = format!("{nothing} for {} s: {obstacle}", patience.as_secs_f64());
                Err((Failure::Timeout, note))
            }
            () = tokio::time::sleep(deadline) => Err((Failure::Timeout, "deadline passed".into())),
        }
    }

    /// What it is waited for, and what is missing then.
    fn words(&self) -> (&'static str, &'static str) {
        match self.operation {
            Operation::Get => ("waiting for", "nothing came"),
            Operation::Put => ("writing", "nothing was taken"),
        }
    }

    /// Returns when nothing has moved for as long as `patience`, with what stood in the way. Says
    /// in the log that `block` is waited for, where `wanted` says that somebody does, once nothing
    /// has moved for `notice`.
    async fn watch(
        &self,
        block: &str,
        notice: Duration,
        patience: Duration,
        wanted: impl Fn() -> bool,
    ) -> String {
        let mut told = None;
        loop {
            let moved = self.state.lock().last();
            let end = moved + patience;
            let next = told.map_or(moved + notice, |told: Instant| told + AGAIN);
            let now = Instant::now();
            if now >= end {
                let (who, what) = self.state.lock().obstacle.clone();
                return format!("{who}: {what}");
            }
            if now < next {
                sleep_until(next.min(end)).await;
                continue;
            }
            // Asked again as long as nobody waits: a reader may come.
            if wanted() {
                self.tell(block, now - moved, end - now);
                told = Some(now);
            } else {
                tokio::time::sleep(notice.min(Duration::from_secs(1))).await;
            }
        }
    }

    fn tell(&self, block: &str, waited: Duration, left: Duration) {
        let (who, what) = self.state.lock().obstacle.clone();
        let (waiting, nothing) = self.words();
        let text = format!(
            "{waiting} block {block} since {:.0} s, {nothing} for {:.0} s: {who}: {what}; \
             trying for {:.0} s more",
            self.begun.elapsed().as_secs_f64(),
            waited.as_secs_f64(),
            left.as_secs_f64(),
        );
        report_as(log::Level::Warn, &format!("{waiting} {who}"), &text);
    }
}

impl State {
    fn last(&self) -> Instant {
        self.sending.iter().map(|(_, at)| *at).fold(self.moved, Instant::max)
    }
}

/// A request that sends the block. What a service takes counts for as long as it may still store it:
/// sending all of it again and again to services that refuse it is no progress.
pub(super) struct Flow(Meter);

/// Tells that something of the request was taken.
pub(super) struct Meter {
    progress: Arc<Progress>,
    request: u64,
}

impl Flow {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        let mut state = progress.state.lock();
        let request = state.requests;
        state.requests += 1;
        let last = state.moved;
        state.sending.push((request, last));
        drop(state);
        Flow(Meter { progress, request })
    }

    pub(super) fn meter(&self) -> Meter {
        Meter { progress: self.0.progress.clone(), request: self.0.request }
    }

    /// The service has stored it.
    pub(super) fn settle(self) {
        self.0.progress.moved();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let request = self.0.request;
        self.0.progress.state.lock().sending.retain(|(known, _)| *known != request);
    }
}

impl Meter {
    pub(super) fn moved(&self) {
        let mut state = self.progress.state.lock();
        // The connection may take more when the request is over already.
        if let Some((_, at)) = state.sending.iter_mut().find(|(known, _)| *known == self.request) {
            *at = Instant::now();
        }
    }
}
