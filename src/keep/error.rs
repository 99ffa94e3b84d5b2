// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What can go wrong while reading or writing a block, with what each service said.
//!
//! Messages carry the block's hash and size, never its signature, and never the token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::report::{self, phrases};
use crate::types::Md5;

/// The outcome of asking one service, as told in a [`KeepError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP status that is no success.
    Status(u16),
    /// No connection, or it broke: the reason.
    Broken(String),
    /// Too slow to connect, to answer, or below the minimum bandwidth.
    TimedOut(String),
    /// The bytes, or the locator of what was written, are not those of the block: why.
    Corrupt(String),
    /// It stored so many copies; but those of all services are too few, or not of every storage
    /// class.
    Stored(u32),
}

impl Answer {
    /// Whether the same service may give another answer later. 404, 403 and 410 are final for
    /// this service, as in the SDK, and what it stored; 429 is worth another try, as in the Go client.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Answer::Status(status) => {
                (100..600).contains(status)
                    && !matches!(status, 408 | 409 | 423 | 429 | 500 | 502..=504)
            }
            Answer::Broken(_) | Answer::TimedOut(_) | Answer::Corrupt(_) => false,
            Answer::Stored(_) => true,
        }
    }
}

impl Answer {
    /// The answer without what differs from block to block.
    fn kind(&self) -> String {
        match self {
            Answer::Status(status) => status.to_string(),
            Answer::Broken(why) => why.clone(),
            Answer::TimedOut(_) => "slow".into(),
            Answer::Corrupt(_) => "corrupt".into(),
            Answer::Stored(_) => "stored".into(),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status(status) => write!(f, "HTTP status {status}"),
            Answer::Broken(why) | Answer::TimedOut(why) | Answer::Corrupt(why) => f.write_str(why),
            Answer::Stored(1) => f.write_str("stored 1 copy"),
            Answer::Stored(copies) => write!(f, "stored {copies} copies"),
        }
    }
}

/// The kind of failure, for those above to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Every service says that it does not have the block (404, 410).
    NotFound,
    /// At least one service refuses (401, 403) and none failed otherwise: most often the
    /// locator's signature has expired; a fresh manifest may cure it.
    Forbidden,
    /// The only answers were bytes that are not the block's, or locators of another block.
    Corrupt,
    /// Too slow, or the total deadline has passed.
    Timeout,
    /// Services failed in other ways, perhaps for a while only.
    Server,
    /// There is no service to ask: the list is empty or could not be had.
    NoServices,
    /// A block was stored, but in fewer copies than asked for, or not in every storage class.
    TooFewCopies,
    /// What is to be written is larger than any block. Nobody was asked.
    TooLarge,
    /// The client has been shut down.
    ShutDown,
}

/// What was to be done with a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// It was to be read.
    #[default]
    Get,
    /// It was to be written.
    Put,
}

/// Why a block could not be read or written. Cheap to clone: many waiters get the same one.
#[derive(Clone)]
pub struct KeepError(Arc<Inner>);

struct Inner {
    operation: Operation,
    failure: Failure,
    /// `None` where it was not hashed yet.
    block: Option<Md5>,
    size: u64,
    request_id: String,
    attempts: u32,
    took: Duration,
    answers: Vec<(String, Answer)>,
    note: String,
}

impl KeepError {
    pub(super) fn new(failure: Failure, block: Md5, size: u32, note: impl Into<String>) -> Self {
        Self::after(failure, block, size, note.into(), Attempts::default())
    }

    pub(super) fn after(
        failure: Failure,
        block: Md5,
        size: u32,
        note: String,
        attempts: Attempts,
    ) -> Self {
        Self::of(Operation::Get, failure, (Some(block), size.into()), note, attempts)
    }

    /// Of a block that was to be written: its hash, where it is known, and its size.
    pub(super) fn not_written(
        failure: Failure,
        block: (Option<Md5>, u64),
        note: String,
        attempts: Attempts,
    ) -> Self {
        Self::of(Operation::Put, failure, block, note, attempts)
    }

    fn of(
        operation: Operation,
        failure: Failure,
        (block, size): (Option<Md5>, u64),
        note: String,
        attempts: Attempts,
    ) -> Self {
        KeepError(Arc::new(Inner {
            operation,
            failure,
            block,
            size,
            note,
            request_id: attempts.request_id,
            attempts: attempts.rounds,
            took: attempts.took,
            answers: attempts.answers,
        }))
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.0.failure
    }

    /// What was to be done with the block.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// What crunch-run and the owner of a container are told: see [`crate::report`]. A block that
    /// no service has or gives out is the SDK's `NotFoundError`, anything else its `KeepReadError`; one that is
    /// not written is its `KeepWriteError`.
    #[must_use]
    pub fn phrase(&self) -> &'static str {
        match (self.0.operation, self.0.failure) {
            (Operation::Put, _) => phrases::KEEP_WRITE,
            (Operation::Get, Failure::NotFound | Failure::Forbidden) => phrases::BLOCK_NOT_FOUND,
            (Operation::Get, _) => phrases::UNHANDLED,
        }
    }

    /// Says it in the log: a failure like one of the last minute is only counted.
    pub fn report(&self) {
        let inner = &*self.0;
        let mut answers: Vec<_> = inner
            .answers
            .iter()
            .map(|(root, answer)| format!("{root}: {}", answer.kind()))
            .collect();
        // Each block has its own order of services.
        answers.sort();
        let phrase = self.phrase();
        let kind = format!("{phrase} {:?} {} {}", inner.failure, inner.note, answers.join(" "));
        report::report_as(log::Level::Error, &kind, &format!("{phrase}: {self}"));
    }

    /// The last answer of each service that was asked, by its root URL, in the order asked.
    #[must_use]
    pub fn answers(&self) -> &[(String, Answer)] {
        &self.0.answers
    }
}

/// What was tried before giving up.
#[derive(Default)]
pub(super) struct Attempts {
    pub request_id: String,
    pub rounds: u32,
    pub took: Duration,
    pub answers: Vec<(String, Answer)>,
}

impl Attempts {
    /// Records the newest answer of a service.
    pub(super) fn record(&mut self, root: &str, answer: Answer) {
        match self.answers.iter_mut().find(|(known, _)| known == root) {
            Some((_, last)) => *last = answer,
            None => self.answers.push((root.to_string(), answer)),
        }
    }

    /// Whether asking this service again is pointless.
    pub(super) fn gave_final_answer(&self, root: &str) -> bool {
        self.answers.iter().any(|(known, answer)| known == root && answer.is_final())
    }

    /// Whether asking any of the services again is pointless. False before one was asked.
    pub(super) fn all_final(&self) -> bool {
        !self.answers.is_empty() && self.answers.iter().all(|(_, answer)| answer.is_final())
    }

    /// Forgets services that have left the list, which neither fail nor save the block. What they
    /// stored is stored.
    pub(super) fn keep_only(&mut self, roots: &[String]) {
        self.answers
            .retain(|(root, answer)| roots.contains(root) || matches!(answer, Answer::Stored(_)));
    }

    /// As [`Attempts::verdict`], of a block that was to be written.
    pub(super) fn verdict_of_put(&self) -> Failure {
        let all = |test: fn(&Answer) -> bool| self.answers.iter().all(|(_, answer)| test(answer));
        if self.answers.is_empty() {
            Failure::NoServices
        } else if !all(|answer| !matches!(answer, Answer::Stored(_))) {
            Failure::TooFewCopies
        } else if all(|answer| matches!(answer, Answer::Status(401 | 403))) {
            Failure::Forbidden
        } else if all(|answer| matches!(answer, Answer::Corrupt(_) | Answer::Status(401 | 403))) {
            Failure::Corrupt
        } else if all(|answer| matches!(answer, Answer::TimedOut(_) | Answer::Status(401 | 403))) {
            Failure::Timeout
        } else {
            Failure::Server
        }
    }

    /// The failure that the last answers of all services add up to.
    pub(super) fn verdict(&self) -> Failure {
        let all = |test: fn(&Answer) -> bool| self.answers.iter().all(|(_, answer)| test(answer));
        if self.answers.is_empty() {
            Failure::NoServices
        } else if all(|a| matches!(a, Answer::Status(404 | 410))) {
            Failure::NotFound
        } else if all(|a| matches!(a, Answer::Status(401 | 403 | 404 | 410))) {
            Failure::Forbidden
        } else if all(|a| matches!(a, Answer::Corrupt(_) | Answer::Status(401 | 403 | 404 | 410))) {
            Failure::Corrupt
        } else if all(|a| matches!(a, Answer::TimedOut(_) | Answer::Status(401 | 403 | 404 | 410)))
        {
            Failure::Timeout
        } else {
            Failure::Server
        }
    }
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let put = inner.operation == Operation::Put;
        let what = match inner.failure {
            Failure::NotFound => "not found",
            Failure::Forbidden => "permission denied",
            Failure::Corrupt if put => "only wrong locators were given",
            Failure::Corrupt => "only wrong bytes were sent",
            Failure::Timeout => "timed out",
            Failure::Server => "services failed",
            Failure::NoServices => "no Keep services available",
            Failure::TooFewCopies => "too few copies",
            Failure::TooLarge => "larger than any block",
            Failure::ShutDown => "the Keep client was shut down",
        };
        if !inner.request_id.is_empty() {
            write!(f, "[{}] ", inner.request_id)?;
        }
        match inner.block {
            Some(block) => write!(f, "block {block}+{}", inner.size)?,
            None => write!(f, "block of {} bytes", inner.size)?,
        }
        write!(f, "{}: {what}", if put { " not written" } else { "" })?;
        if !inner.note.is_empty() {
            write!(f, " ({})", inner.note)?;
        }
        if inner.attempts > 0 {
            let plural = if inner.attempts == 1 { "" } else { "s" };
            write!(f, " after {} attempt{plural}", inner.attempts)?;
            write!(f, " in {:.1} s", inner.took.as_secs_f64())?;
        }
        for (number, (root, answer)) in inner.answers.iter().enumerate() {
            write!(f, "{} {root}: {answer}", if number == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.failure)
    }
}

impl std::error::Error for KeepError {}
