// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! One line in the log for what a server did, however often it did it.
//!
//! The first report of a kind is logged at once. Those like it in the next minute are counted, and
//! told with the first one after it, or when whoever reports something finds the minute over. No lock
//! is held while something is logged: that may mean waiting for Python.
//!
//! What is logged here goes to `arvados.arvados_fuse`, in whose lines crunch-run looks for the
//! [`phrases`]. It shows them to the owner of the container whose mount it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

/// The logger of the released package.
pub const LOGGER: &str = "arvados.arvados_fuse";

/// What crunch-run looks for.
pub mod phrases {
    /// Blocks could not be written.
    pub const KEEP_WRITE: &str = "Keep write error";
    /// No service has a block, or none gives it to this token.
    pub const BLOCK_NOT_FOUND: &str = "Block not found error";
    /// A request failed for any other reason that is not the caller's.
    pub const UNHANDLED: &str = "Unhandled exception during FUSE operation";
}

/// How long reports like one that was logged are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds that are remembered. Where there are more, everything is forgotten.
const KINDS: usize = 256;
/// A word this long is a request id, a UUID or a hash.
const LONG: usize = 20;

struct Kind {
    level: Level,
    logged: Instant,
    /// The latest one that was only counted.
    message: String,
    counted: u64,
}

/// What was reported lately.
pub struct Reports {
    window: Duration,
    kinds: Mutex<Option<HashMap<String, Kind>>>,
}

static REPORTS: Reports = Reports::new(WINDOW);

/// Logs a message, or counts it where one of its kind was logged in the last minute. Messages are
/// of one kind where they differ in nothing but request ids, UUIDs and hashes.
pub fn report(level: Level, message: &str) {
    report_as(level, &kind_of(message), message);
}

/// The same for a message of a kind that the caller knows.
pub fn report_as(level: Level, kind: &str, message: &str) {
    if log::max_level() >= level {
        REPORTS.take(level, kind, message, Instant::now()).into_iter().for_each(write);
    }
}

/// Logs what was only counted so far: for the end.
pub fn flush() {
    REPORTS.rest().into_iter().for_each(write);
}

fn write((level, text): (Level, String)) {
    log::log!(target: LOGGER, level, "{text}");
}

impl Reports {
    /// Counts for so long.
    #[must_use]
    pub const fn new(window: Duration) -> Self {
        Reports { window, kinds: Mutex::new(None) }
    }

    /// Takes a report; answers what is to be logged now.
    fn take(&self, level: Level, kind: &str, message: &str, now: Instant) -> Vec<(Level, String)> {
        let mut kinds = self.kinds.lock();
        let kinds = kinds.get_or_insert_default();
        let mut lines = Vec::new();
        match kinds.get_mut(kind) {
            Some(known) if now.duration_since(known.logged) < self.window => {
                known.counted += 1;
                known.message = message.to_string();
            }
            Some(known) => {
                lines.push((level, self.counting(message, known.counted)));
                *known = Kind { level, logged: now, message: String::new(), counted: 0 };
            }
            None => lines.push((level, message.to_string())),
        }
        let is_over = |known: &Kind| now.duration_since(known.logged) >= self.window;
        let crowded = kinds.len() >= KINDS && !kinds.contains_key(kind);
        let over = kinds.extract_if(|_, known| crowded || is_over(known));
        lines.extend(over.filter_map(|(_, known)| self.last_of(known)));
        kinds.entry(kind.to_string()).or_insert(Kind {
            level,
            logged: now,
            message: String::new(),
            counted: 0,
        });
        lines
    }

    fn rest(&self) -> Vec<(Level, String)> {
        let kinds = self.kinds.lock().take().unwrap_or_default();
        kinds.into_values().filter_map(|known| self.last_of(known)).collect()
    }

    /// What was only counted of a kind: its latest message stands for all.
    fn last_of(&self, known: Kind) -> Option<(Level, String)> {
        let others = known.counted.checked_sub(1)?;
        Some((known.level, self.counting(&known.message, others)))
    }

    fn counting(&self, message: &str, more: u64) -> String {
        match more {
            0 => message.to_string(),
            more => {
                format!(
                    "{message} (and {more} more like it in the last {} s)",
                    self.window.as_secs()
                )
            }
        }
    }
}

/// A message with its request ids, UUIDs and hashes left out.
fn kind_of(message: &str) -> String {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '@');
    let mut kind = String::with_capacity(message.len());
    for piece in message.split_inclusive(|c| !part_of_word(c)) {
        let word = piece.trim_end_matches(|c| !part_of_word(c));
        let has_digit = || word.bytes().any(|byte| byte.is_ascii_digit());
        // A request's id, of random letters, may have none.
        let id = word.len() >= LONG && (word.starts_with("req-") || has_digit());
        kind.push_str(if id { "#" } else { word });
        kind.push_str(&piece[word.len()..]);
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: Vec<(Level, String)>) -> Vec<String> {
        lines.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn the_first_is_told_and_those_like_it_are_counted() {
        let reports = Reports::new(WINDOW);
        let start = Instant::now();
        let at = |seconds: u64, kind: &str, message: &str| {
            let now = start + Duration::from_secs(seconds);
            texts(reports.take(Level::Error, kind, message, now))
        };
        assert_eq!(at(0, "a", "a 1"), ["a 1"]);
        for second in 1..=37 {
            assert!(at(second, "a", "a n").is_empty());
        }
        assert_eq!(at(38, "b", "b 1"), ["b 1"]);
        assert_eq!(at(61, "a", "a 2"), ["a 2 (and 37 more like it in the last 60 s)"]);
        assert!(at(62, "a", "a 3").is_empty() && at(63, "a", "a 4").is_empty());
        assert_eq!(at(200, "c", "c 1"), ["c 1", "a 4 (and 1 more like it in the last 60 s)"]);
        assert_eq!(at(300, "a", "a 5"), ["a 5"]);
        assert!(at(301, "a", "a 6").is_empty());
        assert_eq!(texts(reports.rest()), ["a 6"]);
        assert!(reports.rest().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let reports = Reports::new(WINDOW);
        let now = Instant::now();
        for number in 0..10 * KINDS {
            reports.take(Level::Error, &number.to_string(), "m", now);
            assert!(reports.kinds.lock().as_ref().map_or(0, HashMap::len) <= KINDS);
        }
    }

    #[test]
    fn ids_make_no_kind_of_their_own() {
        let one =
            "[req-2zrmc42zq8xxn1s7hu0v] keep0.example:25107: 503 (xlocl-4zz18-abcdefghij12345)";
        let other = one.replace("2zrmc42zq8", "1111111111").replace("abcdefghij", "0123456789");
        assert_eq!(kind_of(one), kind_of(&other));
        let letters = one.replace("2zrmc42zq8xxn1s7hu0v", "zzrmcazzqixxnlsyhuov");
        assert_eq!(kind_of(one), kind_of(&letters));
        assert_ne!(kind_of(one), kind_of(&one.replace("keep0", "keep1")));
        assert_ne!(kind_of(one), kind_of(&one.replace("503", "502")));
        assert!(kind_of(one).contains("keep0.example:25107: 503"), "{}", kind_of(one));
    }
}
