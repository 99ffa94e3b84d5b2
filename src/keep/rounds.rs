// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How often all services are asked, and how long it takes from one time to the next.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::config::{Config, Timeouts};

/// Doublings of the time to connect, at most.
const MAX_DOUBLINGS: u32 = 5;

/// The rounds over all services that one block is worth.
pub(super) struct Rounds {
    begun: u32,
    most: u32,
    wait: Duration,
    max_wait: Duration,
    /// When the next one may begin.
    next: Instant,
}

impl Rounds {
    pub(super) fn new(config: &Config) -> Self {
        Rounds {
            begun: 0,
            most: config.num_retries.saturating_add(1),
            wait: config.backoff,
            max_wait: config.max_backoff,
            next: Instant::now(),
        }
    }

    /// Waits until another round may begin, and returns its number, from 0; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<u32> {
        if self.begun == self.most {
            return None;
        }
        if self.begun > 0 {
            sleep_until(self.next).await;
        }
        self.next = Instant::now() + self.wait.mul_f64(1.0 - 0.1 * fastrand::f64());
        self.wait = (self.wait * 2).min(self.max_wait);
        self.begun += 1;
        Some(self.begun - 1)
    }
}

/// The limits of a request in that round; `proxy` where any service is one.
pub(super) fn limits(config: &Config, proxy: bool, round: u32) -> Timeouts {
    let mut limits = if proxy { config.proxy_timeouts } else { config.timeouts };
    limits.connect *= 1 << round.min(MAX_DOUBLINGS);
    limits
}
