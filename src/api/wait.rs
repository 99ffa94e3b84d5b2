// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The time that all attempts of one request may take together.

use std::future::Future;
use std::time::{Duration, Instant};

use log::Level;
use tokio::time::timeout;

use super::trouble::Trouble;
use crate::report::report;

/// How long a server may be silent before the log tells.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// What is sent or received at this rate, in bytes a second, may take longer than the time limit.
const SLOWEST: u64 = 64 << 10;
/// The longest answer, in bytes: the API's own limit for a manifest is far below.
const LONGEST: u64 = 1 << 30;

/// A request that is under way.
pub(super) struct Wait {
    /// Method, path and id: what the log calls it.
    pub what: String,
    /// Host and port.
    pub server: String,
    pub limit: Duration,
    began: Instant,
    sent: u64,
    received: u64,
}

impl Wait {
    /// Begins now, with a body of so many bytes.
    pub(super) fn new(what: String, server: String, limit: Duration, sent: u64) -> Self {
        Wait { what, server, limit, began: Instant::now(), sent, received: 0 }
    }

    /// The time that is left.
    pub(super) fn left(&self) -> Duration {
        let more = Duration::from_secs_f64((self.sent + self.received) as f64 / SLOWEST as f64);
        self.limit.saturating_add(more).saturating_sub(self.began.elapsed())
    }

    /// Counts bytes of answers.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), Trouble> {
        self.received += bytes as u64;
        if self.received > LONGEST {
            let what = format!("the API at {} sent more than {LONGEST} bytes", self.server);
            return Err(Trouble::Final(what));
        }
        Ok(())
    }

    /// Waits for something that the server does, as long as there is time, and says so.
    pub(super) async fn until<T>(&self, what: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut what = std::pin::pin!(what);
        loop {
            let left = self.left();
            if left.is_zero() {
                let Wait { what, limit, .. } = self;
                let reason = format!("no answer within {} s to {what}", limit.as_secs_f64());
                return Err(Trouble::unreachable(reason));
            }
            if let Ok(done) = timeout(left.min(TELL_AFTER), &mut what).await {
                return Ok(done);
            }
            if left > TELL_AFTER {
                self.tell();
            }
        }
    }

    fn tell(&self) {
        let Wait { what, server, limit, .. } = self;
        let (silent, limit) = (TELL_AFTER.as_secs_f64(), limit.as_secs_f64());
        let line = format!(
            "the API at {server} has not answered {what} for {silent} s; waiting up to {limit} s"
        );
        report(Level::Warn, &line);
    }
}
