// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The cluster's clock, by which signatures end.
//!
//! This machine's may be wrong. What the API answers says what time it is there; so there is one such clock in a
//! process, as there is one API. Until it has answered, the clocks agree.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// How many seconds the cluster's clock is ahead of this machine's.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// Clocks that differ by less agree: an answer takes some time, and tells whole seconds.
const UNSURE: Duration = Duration::from_secs(10);

/// An answer that just came from the API was given at that time: its header `Date` (RFC 9110, 6.6.1). What is no
/// time is ignored.
pub fn is_told(date: &str) {
    let Ok(there) = httpdate::parse_http_date(date) else { return };
    let here = SystemTime::now();
    let (apart, sign) = match there.duration_since(here) {
        Ok(ahead) => (ahead, 1),
        Err(error) => (error.duration(), -1),
    };
    let seconds = i64::try_from(apart.as_secs()).unwrap_or(0);
    AHEAD.store(if apart < UNSURE { 0 } else { sign * seconds }, Ordering::Relaxed);
}

/// Seconds since the epoch by the cluster's clock, about.
#[must_use]
pub fn now() -> u64 {
    let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    here.as_secs().saturating_add_signed(AHEAD.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ahead: i64) -> i64 {
        let here = SystemTime::now();
        let apart = Duration::from_secs(ahead.unsigned_abs());
        let there = if ahead < 0 { here - apart } else { here + apart };
        is_told(&httpdate::fmt_http_date(there));
        let here = here.duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs();
        now().cast_signed() - here.cast_signed()
    }

    #[test]
    fn it_is_as_far_ahead_or_behind_as_was_told_last() {
        for ahead in [3600, -3600] {
            assert!((told(ahead) - ahead).abs() <= 2);
            is_told("Thursday");
            assert!((told(ahead) - ahead).abs() <= 2);
        }
        assert!(told(5) <= 2, "that may be the way of the answer");
        assert_eq!(AHEAD.load(Ordering::Relaxed), 0);
    }
}
