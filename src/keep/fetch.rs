// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Getting a block that is not at hand: which services are asked, how often, and when to give up.

use std::sync::Arc;

use tokio::time::Instant;

use super::config::Config;
use super::error::{Answer, Attempts, Failure, KeepError, Operation};
use super::http::Http;
use super::local_store;
use super::progress::Progress;
use super::rendezvous::probe_order;
use super::rounds::{Rounds, limits};
use super::service::{Service, ServiceType};
use super::service_list::ServiceList;
use super::storage::{Storage, Stored};
use crate::report::report_as;
use crate::types::Locator;

pub(super) struct Fetcher {
    config: Config,
    http: Arc<Http>,
    storage: Arc<Storage>,
    list: Arc<ServiceList>,
}

impl Fetcher {
    /// Blocks of services go into the storage as they arrive.
    pub(super) fn new(
        config: Config,
        http: Arc<Http>,
        storage: Arc<Storage>,
        list: Arc<ServiceList>,
    ) -> Self {
        Fetcher { config, http, storage, list }
    }

    /// Fetches a block. `wanted` is asked before each further round: ahead of a reader, one
    /// round is enough.
    pub(super) async fn fetch(
        &self,
        locator: &Locator,
        wanted: impl Fn() -> bool,
    ) -> Result<Stored, KeepError> {
        let start = Instant::now();
        let mut attempts =
            Attempts { request_id: self.config.id_of_request(), ..Attempts::default() };
        let progress = Progress::new(Operation::Get);
        let block = format!("{}+{}", locator.md5(), locator.size());
        let rounds = self.rounds(locator, &mut attempts, &wanted, &progress);
        let outcome = progress.bound(rounds, &self.config, &block, &wanted).await;
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
        let mut rounds = Rounds::new(&self.config);
        let mut note = String::new();
        while let Some(round) = rounds.next().await {
            attempts.rounds = round + 1;
            match self.list.of_round(round, progress).await {
                Err(error) => note = error,
                Ok(services) => {
                    note.clear();
                    match self.round(locator, &services, attempts, round, progress).await {
                        Some(stored) => return Ok(stored),
                        None if attempts.all_final() => break,
                        None => {}
                    }
                }
            }
            if !wanted() {
                break;
            }
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
        let limits = limits(&self.config, proxy, round);
        let roots = probe_order(locator, services);
        attempts.keep_only(&roots);
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
}
