// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How far the fetching of one block has come: when something of it last arrived, and what stands in
//! the way since.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::report::report_as;

/// Between one line about a block that is waited for and the next.
const AGAIN: Duration = Duration::from_secs(60);

/// Shared by the task that fetches and the one that watches over it.
pub(super) struct Progress {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    /// When a byte last arrived.
    moved: Instant,
    /// Whom it waits for, and what that one does or did, as text for a log.
    obstacle: (String, String),
}

impl Progress {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        let state = State { moved: begun, obstacle: Default::default() };
        Progress { begun, state: Mutex::new(state) }
    }

    /// Something of the block has arrived.
    pub(super) fn moved(&self) {
        self.state.lock().moved = Instant::now();
    }

    /// What is waited for, or what failed.
    pub(super) fn stands_at(&self, who: &str, what: &str) {
        self.state.lock().obstacle = (who.to_string(), what.to_string());
    }

    /// Returns when nothing has arrived for as long as `patience`, with what stood in the way. Says
    /// in the log that readers wait for `block`, where `wanted` says that there are any, once nothing
    /// has arrived for `notice`.
    pub(super) async fn watch(
        &self,
        block: &str,
        notice: Duration,
        patience: Duration,
        wanted: impl Fn() -> bool,
    ) -> String {
        let mut told = None;
        loop {
            let moved = self.state.lock().moved;
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
        let text = format!(
            "waiting for block {block} since {:.0} s, nothing came for {:.0} s: {who}: {what}; \
             trying for {:.0} s more",
            self.begun.elapsed().as_secs_f64(),
            waited.as_secs_f64(),
            left.as_secs_f64(),
        );
        report_as(log::Level::Warn, &format!("waiting for {who}"), &text);
    }
}
