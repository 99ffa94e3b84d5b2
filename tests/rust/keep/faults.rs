// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Whatever a service does: the right bytes or an error, in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arvados_fuse::keep::{Failure, KeepClient, Service, Services, ServicesError};

use super::support::{Fault, Server, data, locator, ordered, quick, replicas, service, services};

const LEN: usize = 300_000;

/// Every fault, and what it comes to when all services have it.
const FAULTS: [(Fault, Failure); 20] = [
    (Fault::Status(403), Failure::Forbidden),
    (Fault::Status(401), Failure::Forbidden),
    (Fault::Status(404), Failure::NotFound),
    (Fault::Status(410), Failure::NotFound),
    (Fault::Status(301), Failure::Server),
    (Fault::Status(429), Failure::Server),
    (Fault::Status(500), Failure::Server),
    (Fault::Status(503), Failure::Server),
    (Fault::WrongBytes, Failure::Corrupt),
    (Fault::Shorter, Failure::Corrupt),
    (Fault::Longer, Failure::Corrupt),
    (Fault::EndlessBody, Failure::Corrupt),
    (Fault::EndsEarly, Failure::Corrupt),
    (Fault::CloseMid, Failure::Server),
    (Fault::ResetMid, Failure::Server),
    (Fault::Reset, Failure::Server),
    (Fault::Garbage, Failure::Server),
    (Fault::Stall, Failure::Timeout),
    (Fault::StallMid, Failure::Timeout),
    (Fault::Trickle, Failure::Timeout),
];

#[test]
fn one_bad_replica_costs_no_more_than_another_request() {
    let block = data(1, LEN);
    for (fault, _) in FAULTS {
        let servers = replicas(&block);
        servers[0].always(fault);
        let mut config = quick();
        // Connecting counts into the time to wait for an answer.
        config.timeouts.connect = Duration::from_millis(200);
        let client = KeepClient::new(config, ordered(&block, &servers));
        let got =
            client.get_blocking(&locator(&block)).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert!(got.as_slice() == Some(&block[..]), "{fault:?}");
        assert_eq!((servers[0].requests(), servers[1].requests()), (1, 1), "{fault:?}");
    }
}

#[test]
fn all_bad_replicas_are_an_error_that_tells_what_each_said() {
    let block = data(2, LEN);
    for (fault, failure) in FAULTS {
        let servers = replicas(&block);
        servers.iter().for_each(|server| server.always(fault));
        let mut config = quick();
        config.num_retries = 1;
        config.timeouts.connect = Duration::from_millis(100);
        let client = KeepClient::new(config, ordered(&block, &servers));
        let error = client.get_blocking(&locator(&block)).expect_err("no server is good");
        assert_eq!(error.failure(), failure, "{fault:?}: {error}");
        let roots: Vec<_> = error.answers().iter().map(|(root, _)| root.clone()).collect();
        assert_eq!(roots, [servers[0].root(), servers[1].root()], "{error}");
        let text = error.to_string();
        assert!(text.contains(&locator(&block).to_string()) && text.contains(&servers[1].root()));
        assert!(!text.contains("secret"), "{text}");
        assert!(client.try_get(&locator(&block)).is_none());
        // What cannot change is not asked again.
        let rounds = match fault {
            Fault::Status(status) if ![429, 500, 503].contains(&status) => 1,
            _ => 2,
        };
        assert_eq!(servers[0].requests(), rounds, "{fault:?}");
    }
}

#[test]
fn what_passes_is_retried_with_backoff() {
    let block = data(3, LEN);
    for fault in [Fault::Status(503), Fault::Status(429), Fault::Reset, Fault::WrongBytes] {
        let server = Server::start();
        server.add(&block);
        server.behave(move |_, number| if number < 2 { fault } else { Fault::None });
        let mut config = quick();
        config.backoff = Duration::from_millis(100);
        config.max_backoff = Duration::from_millis(150);
        let client = KeepClient::new(config, services(std::slice::from_ref(&server)));
        let start = Instant::now();
        client.get_blocking(&locator(&block)).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(start.elapsed() > Duration::from_millis(200), "0.9 x (100 + 150) ms");
    }
}

#[test]
fn the_deadline_ends_everything() {
    let block = data(4, LEN);
    for fault in [Fault::Stall, Fault::StallMid, Fault::Trickle, Fault::Status(503)] {
        let servers = replicas(&block);
        servers.iter().for_each(|server| server.always(fault));
        let mut config = quick();
        config.num_retries = 1000;
        config.timeouts.read = Duration::from_secs(60);
        config.deadline = Duration::from_millis(400);
        let client = KeepClient::new(config, ordered(&block, &servers));
        let start = Instant::now();
        let error = client.get_blocking(&locator(&block)).expect_err("no server is good");
        assert_eq!(error.failure(), Failure::Timeout, "{error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", start.elapsed());
    }
}

#[test]
fn nobody_listening_is_an_error() {
    let block = data(5, 10);
    let server = Server::start();
    let root = server.root();
    drop(server);
    let list = arvados_fuse::keep::StaticServices::new(vec![service(0, root)]);
    let client = KeepClient::new(quick(), Arc::new(list));
    let error = client.get_blocking(&locator(&block)).expect_err("nobody there");
    assert_eq!(error.failure(), Failure::Server);
    assert!(error.to_string().contains("refused"), "{error}");
}

/// A list that a test changes.
struct Changing<F>(F, AtomicUsize);

impl<F> Services for Changing<F>
where
    F: Fn(usize) -> Result<Vec<Service>, ServicesError> + Send + Sync,
{
    fn list(&self, _refresh: bool) -> Result<Vec<Service>, ServicesError> {
        (self.0)(self.1.fetch_add(1, Ordering::Relaxed))
    }
}

#[test]
fn a_changed_list_of_services_is_seen_after_a_failure() {
    let block = data(6, LEN);
    let [old, new] = replicas(&block);
    old.always(Fault::Status(500));
    let roots = [old.root(), new.root()];
    let changing = move |call: usize| Ok(vec![service(call.min(1), roots[call.min(1)].clone())]);
    let mut config = quick();
    // A list is not asked for again within a second.
    config.backoff = Duration::from_millis(600);
    config.max_backoff = Duration::from_millis(600);
    let client = KeepClient::new(config, Arc::new(Changing(changing, AtomicUsize::new(0))));
    client.get_blocking(&locator(&block)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(new.requests(), 1);
    assert!(old.requests() >= 1);
}

#[test]
fn a_list_that_cannot_be_had_is_an_error_and_is_retried() {
    let block = data(7, LEN);
    let never = |_| Err(ServicesError("the API is away".into()));
    let client = KeepClient::new(quick(), Arc::new(Changing(never, AtomicUsize::new(0))));
    let error = client.get_blocking(&locator(&block)).expect_err("no list");
    assert_eq!(error.failure(), Failure::NoServices);
    assert!(error.to_string().contains("the API is away"), "{error}");

    let server = Server::start();
    server.add(&block);
    let root = server.root();
    let later = move |call| match call {
        0 => Err(ServicesError("not yet".into())),
        _ => Ok(vec![service(0, root.clone())]),
    };
    let client = KeepClient::new(quick(), Arc::new(Changing(later, AtomicUsize::new(0))));
    client.get_blocking(&locator(&block)).unwrap_or_else(|error| panic!("{error}"));

    let panics = |_| panic!("a service list of somebody else's");
    let client = KeepClient::new(quick(), Arc::new(Changing(panics, AtomicUsize::new(0))));
    let error = client.get_blocking(&locator(&block)).expect_err("no list");
    assert_eq!(error.failure(), Failure::NoServices);
}

#[test]
fn stalled_readers_do_not_hold_up_others() {
    let stalled: Vec<_> = (0..200).map(|seed| data(1000 + seed, 1000)).collect();
    let good = data(8, LEN);
    let server = Server::start();
    let path = format!("/{}", locator(&good));
    server.behave(move |seen, _| if seen.path == path { Fault::None } else { Fault::StallMid });
    server.add(&good);
    stalled.iter().for_each(|block| server.add(block));
    let mut config = quick();
    config.timeouts.read = Duration::from_secs(60);
    let server = [server];
    let client = KeepClient::new(config, services(&server));
    for block in &stalled {
        let waiter = Box::new(|outcome: Result<_, _>| assert!(outcome.is_err()));
        client.get(&locator(block), arvados_fuse::keep::Priority::Demand, waiter);
    }
    super::support::until("all have been asked for", || server[0].requests() == 200);
    let start = Instant::now();
    client.get_blocking(&locator(&good)).unwrap_or_else(|error| panic!("{error}"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_reader_waits_no_longer_than_the_patience_for_a_byte() {
    let block = data(8, LEN);
    let limit = Duration::from_millis(600);
    for fault in [Fault::Stall, Fault::StallMid, Fault::Status(503)] {
        let servers = replicas(&block);
        servers.iter().for_each(|server| server.always(fault));
        let mut config = quick();
        config.num_retries = 1000;
        config.timeouts.read = Duration::from_secs(60);
        config.patience = limit;
        let client = KeepClient::new(config, ordered(&block, &servers));
        let start = Instant::now();
        let error = client.get_blocking(&locator(&block)).expect_err("no server is good");
        let took = start.elapsed();
        assert_eq!(error.failure(), Failure::Timeout, "{error}");
        assert!(took >= limit && took < 10 * limit, "{fault:?}: {took:?}");
        let text = error.to_string();
        assert!(text.contains("nothing came for 0.6 s: http://"), "{text}");
    }
}

#[test]
fn a_slow_body_takes_longer_than_the_patience_for_a_byte() {
    let block = data(9, 100);
    let server = Server::start();
    server.add(&block);
    server.always(Fault::Trickle);
    let mut config = quick();
    config.timeouts.read = Duration::from_secs(20);
    config.timeouts.min_bandwidth = 1;
    config.patience = Duration::from_millis(900);
    let client = KeepClient::new(config, services(std::slice::from_ref(&server)));
    let start = Instant::now();
    // Closed at the end without what it announced, which is told as such.
    let outcome = client.get_blocking(&locator(&block));
    assert!(start.elapsed() > Duration::from_millis(1500), "a byte in 20 ms");
    assert!(outcome.is_ok(), "{outcome:?}");
}
