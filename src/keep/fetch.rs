// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Getting a block that is not at hand: which services are asked, how often, and when to give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::error::{Answer, Attempts, Failure, KeepError};
use super::http::Http;
use super::local_store;
use super::progress::Progress;
use super::rendezvous::probe_order;
use super::service::{Service, ServiceType, Services};
use super::storage::{Storage, Stored};
use crate::report::{report, report_as};
use crate::types::Locator;

/// A list younger than this is not asked for again because of failures: many blocks fail
/// together when a service goes away.
const FRESH: Duration = Duration::from_secs(1);

/// Doublings of the time to connect, at most.
const MAX_DOUBLINGS: u32 = 5;

pub(super) struct Fetcher {
    config: Config,
    http: Http,
    storage: Arc<Storage>,
    source: Arc<dyn Services>,
    known: tokio::sync::Mutex<Option<(Arc<[Service]>, Instant)>>,
    listing: Arc<AtomicBool>,
}

impl Fetcher {
    /// Blocks of services go into the storage as they arrive.
    pub(super) fn new(
        config: Config,
        http: Http,
        storage: Arc<Storage>,
        source: Arc<dyn Services>,
    ) -> Self {
        let (known, listing) = Default::default();
        Fetcher { config, http, storage, source, known, listing }
    }

    /// Fetches a block. `wanted` is asked before each further round: ahead of a reader, one
    /// round is enough.
    pub(super) async fn fetch(
        &self,
        locator: &Locator,
        wanted: impl Fn() -> bool,
    ) -> Result<Stored, KeepError> {
        let start = Instant::now();
        let mut attempts = Attempts { request_id: self.request_id(), ..Attempts::default() };
        let progress = Progress::new();
        let block = format!("{}+{}", locator.md5(), locator.size());
        let Config { notice, patience, deadline, .. } = self.config;
        let outcome = tokio::select! {
            outcome = self.rounds(locator, &mut attempts, &wanted, &progress) => outcome,
            obstacle = progress.watch(&block, notice, patience, &wanted) => {
                let note = format!("nothing came for {} s: {obstacle}", patience.as_secs_f64());
                Err((Failure::Timeout, note))
            }
            () = tokio::time::sleep(deadline) => Err((Failure::Timeout, "deadline passed".into())),
        };
        attempts.took = start.elapsed();
        outcome.map_err(|(failure, note)| {
            KeepError::after(failure, locator.md5(), locator.size(), note, attempts)
        })
    }

    async fn rounds(
        &self,
        locator: &Locator,
        attempts: &mut Attempts,
        wanted: impl Fn() -> bool,
        progress: &Progress,
    ) -> Result<Stored, (Failure, String)> {
        if let Some(dir) = self.config.local_store.clone() {
            return local_store::read(dir, locator.clone()).await.map(Stored::Memory);
        }
        let mut wait = self.config.backoff;
        let mut note = String::new();
        for round in 0..=self.config.num_retries {
            let next = Instant::now() + wait.mul_f64(1.0 - 0.1 * fastrand::f64());
            attempts.rounds = round + 1;
            progress.stands_at("the API", "the list of Keep services is asked for");
            match self.services(round > 0).await {
                Err(error) => {
                    progress.stands_at("no list of Keep services", &error);
                    note = error;
                }
                Ok(services) => {
                    note.clear();
                    match self.round(locator, &services, attempts, round, progress).await {
                        Some(stored) => return Ok(stored),
                        None if attempts.all_final() => break,
                        None => {}
                    }
                }
            }
            if round == self.config.num_retries || !wanted() {
                break;
            }
            tokio::time::sleep_until(next).await;
            wait = (wait * 2).min(self.config.max_backoff);
        }
        Err((attempts.verdict(), note))
    }

    /// Asks each service that may still have the block, best first.
    async fn round(
        &self,
        locator: &Locator,
        services: &[Service],
        attempts: &mut Attempts,
        round: u32,
        progress: &Progress,
    ) -> Option<Stored> {
        let proxy = services.iter().any(|service| service.kind == ServiceType::Proxy);
        let mut limits = if proxy { self.config.proxy_timeouts } else { self.config.timeouts };
        limits.connect *= 1 << round.min(MAX_DOUBLINGS);
        let roots = probe_order(locator, services);
        // Services that have left the list neither fail nor save the block.
        attempts.answers.retain(|(root, _)| roots.contains(root));
        for root in roots {
            if attempts.gave_final_answer(&root) {
                continue;
            }
            let id = &attempts.request_id;
            let sink = self.storage.sink(locator);
            progress.stands_at(&root, "no answer yet");
            match self.http.get(&root, locator, id, limits, sink, progress).await {
                Ok(stored) => return Some(stored),
                Err(answer) => {
                    let (md5, size) = (locator.md5(), locator.size());
                    let text = format!("[{id}] {root}: block {md5}+{size}: {answer}");
                    match answer {
                        Answer::Corrupt(_) => report_as(log::Level::Warn, &root, &text),
                        _ => log::debug!("{text}"),
                    }
                    progress.stands_at(&root, &answer.to_string());
                    attempts.record(&root, answer);
                }
            }
        }
        None
    }

    /// The services as known, or as their source has them now. An old list serves while a new
    /// one cannot be had.
    async fn services(&self, refresh: bool) -> Result<Arc<[Service]>, String> {
        let mut known = self.known.lock().await;
        if let Some((list, at)) = &*known
            && (!refresh || at.elapsed() < FRESH)
        {
            return Ok(list.clone());
        }
        // A call that was given up with its reader's deadline may still be running: one is enough.
        if self.listing.swap(true, Ordering::AcqRel) {
            let waiting = || "the list of Keep services is slow to come".to_string();
            return known.as_ref().map(|(list, _)| list.clone()).ok_or_else(waiting);
        }
        let listing = Listing(self.listing.clone());
        let source = self.source.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let _listing = listing;
            source.list(refresh)
        });
        match listed.await {
            Ok(Ok(list)) => {
                let list: Arc<[Service]> = list.into();
                *known = Some((list.clone(), Instant::now()));
                Ok(list)
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "listing the Keep services panicked".into(),
                };
                report(log::Level::Warn, &format!("no list of Keep services: {why}"));
                known.as_ref().map(|(list, _)| list.clone()).ok_or(why)
            }
        }
    }

    fn request_id(&self) -> String {
        let random = || std::iter::repeat_with(|| fastrand::digit(36)).take(20).collect::<String>();
        self.config.request_id.clone().unwrap_or_else(|| format!("req-{}", random()))
    }
}

/// Set while the source is being asked, whoever still waits for the answer.
struct Listing(Arc<AtomicBool>);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
