// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The list of services as last had, asked for again when they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Progress;
use super::service::{Service, Services};
use crate::report::report;

/// A list younger than this is not asked for again because of failures: many blocks fail
/// together when a service goes away.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct ServiceList {
    source: Arc<dyn Services>,
    known: tokio::sync::Mutex<Option<(Arc<[Service]>, Instant)>>,
    listing: Arc<AtomicBool>,
}

impl ServiceList {
    pub(super) fn new(source: Arc<dyn Services>) -> Self {
        let (known, listing) = Default::default();
        ServiceList { source, known, listing }
    }

    /// As [`ServiceList::get`], for a round over all services; what is waited for is told as it goes.
    pub(super) async fn of_round(
        &self,
        round: u32,
        progress: &Progress,
    ) -> Result<Arc<[Service]>, String> {
        progress.stands_at("the API", "the list of Keep services is asked for");
        let listed = self.get(round > 0).await;
        listed.inspect_err(|error| progress.stands_at("no list of Keep services", error))
    }

    /// The services as known, or as their source has them now. An old list serves while a new
    /// one cannot be had. The error is text for a log.
    async fn get(&self, refresh: bool) -> Result<Arc<[Service]>, String> {
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
}

/// Set while the source is being asked, whoever still waits for the answer.
struct Listing(Arc<AtomicBool>);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
