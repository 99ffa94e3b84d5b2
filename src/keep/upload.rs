// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Storing a block: which services are sent it, how often, and when to give up.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::Config;
use super::error::{Answer, Attempts, Failure, KeepError, Operation};
use super::http::Http;
use super::local_store;
use super::progress::Progress;
use super::put::PutOptions;
use super::rendezvous::probe_order;
use super::rounds::{Rounds, limits};
use super::sending::{Outgoing, Wishes};
use super::service::{Service, ServiceType};
use super::service_list::ServiceList;
use super::tally::Tally;
use crate::report::{report, report_as};
use crate::types::Locator;

pub(super) struct Uploader {
    config: Config,
    http: Arc<Http>,
    list: Arc<ServiceList>,
}

/// What is known of one block's copies.
struct Copies {
    attempts: Attempts,
    /// Roots of services in the order asked.
    asked: Vec<String>,
    tally: Tally,
}

impl Uploader {
    pub(super) fn new(config: Config, http: Arc<Http>, list: Arc<ServiceList>) -> Self {
        Uploader { config, http, list }
    }

    /// Stores a block.
    pub(super) async fn store(
        &self,
        block: &Outgoing,
        options: &PutOptions,
    ) -> Result<Locator, KeepError> {
        let start = Instant::now();
        let attempts = Attempts { request_id: self.config.id_of_request(), ..Attempts::default() };
        let mut copies = Copies { attempts, asked: Vec::new(), tally: Tally::new(options) };
        let progress = Arc::new(Progress::new(Operation::Put));
        let rounds = self.rounds(block, options, &mut copies, &progress);
        let name = format!("{}+{}", block.md5, block.size);
        let outcome = progress.bound(rounds, &self.config, &name, || true).await;
        let Copies { mut attempts, asked, tally } = copies;
        attempts.answers.sort_by_key(|(root, _)| asked.iter().position(|known| known == root));
        attempts.took = start.elapsed();
        outcome.map_err(|(failure, note)| {
            let separator = if note.is_empty() { "" } else { "; " };
            let note = format!("{tally}{separator}{note}");
            let name = (Some(block.md5), u64::from(block.size));
            KeepError::not_written(failure, name, note, attempts)
        })
    }

    async fn rounds(
        &self,
        block: &Outgoing,
        options: &PutOptions,
        copies: &mut Copies,
        progress: &Arc<Progress>,
    ) -> Result<Locator, (Failure, String)> {
        if let Some(dir) = self.config.local_store.clone() {
            return local_store::write(dir, block.clone()).await;
        }
        let mut rounds = Rounds::new(&self.config);
        let mut note = String::new();
        while let Some(round) = rounds.next().await {
            copies.attempts.rounds = round + 1;
            match self.list.of_round(round, progress).await {
                Err(error) => note = error,
                Ok(services) => {
                    note.clear();
                    self.round(block, options, &services, round, copies, progress).await;
                    if let Some(locator) = copies.tally.done() {
                        return Ok(locator);
                    }
                    if copies.attempts.all_final() {
                        break;
                    }
                }
            }
        }
        Err((copies.attempts.verdict_of_put(), note))
    }

    /// Sends it to those services that may still store it, best first, until there are enough copies: to
    /// several at once where each makes one copy, as in the SDK.
    async fn round(
        &self,
        block: &Outgoing,
        options: &PutOptions,
        services: &[Service],
        round: u32,
        copies: &mut Copies,
        progress: &Arc<Progress>,
    ) {
        let Copies { attempts, asked, tally } = copies;
        let is_writable = |service: &&Service| !service.read_only && !service.is_gateway();
        let services: Vec<Service> = services.iter().filter(is_writable).cloned().collect();
        let proxy = services.iter().any(|service| service.kind == ServiceType::Proxy);
        let at_once = if proxy { 1 } else { tally.missing_copies().max(1) as usize };
        let roots = probe_order(&block.locator(), &services);
        attempts.keep_only(&roots);
        let mut roots: Vec<_> =
            roots.into_iter().filter(|root| !attempts.gave_final_answer(root)).rev().collect();
        // Whatever is under way when there are enough copies, or the time is up, ends with it.
        let mut requests = JoinSet::new();
        loop {
            while requests.len() < at_once.min(tally.missing()) {
                let Some(root) = roots.pop() else { break };
                progress.stands_at(&root, "no answer yet");
                if !asked.contains(&root) {
                    asked.push(root.clone());
                }
                let (http, block, progress) = (self.http.clone(), block.clone(), progress.clone());
                let wishes = Wishes {
                    request_id: attempts.request_id.clone(),
                    replicas: options.replicas,
                    classes: tally.missing_classes().join(", "),
                    limits: limits(&self.config, proxy, round),
                };
                requests.spawn(async move {
                    let outcome = http.put(&root, &block, &wishes, progress).await;
                    (root, outcome)
                });
            }
            let (root, outcome) = match requests.join_next().await {
                None => return,
                Some(Ok(answered)) => answered,
                // It panicked, of which the hook has told.
                Some(Err(_)) => continue,
            };
            match outcome {
                Ok(receipt) => {
                    attempts.record(&root, Answer::Stored(receipt.copies));
                    if !tally.count(receipt) {
                        let text = format!("{root} does not tell of storage classes");
                        report(log::Level::Warn, &text);
                    }
                    if tally.missing() == 0 {
                        return;
                    }
                }
                Err(answer) => {
                    let id = &attempts.request_id;
                    let text = format!("[{id}] {root}: writing {}: {answer}", block.locator());
                    match answer {
                        Answer::Corrupt(_) => report_as(log::Level::Warn, &root, &text),
                        _ => log::debug!("{text}"),
                    }
                    progress.stands_at(&root, &answer.to_string());
                    attempts.record(&root, answer);
                }
            }
        }
    }
}
