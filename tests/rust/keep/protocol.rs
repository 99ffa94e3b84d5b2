// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What goes over the wire, and how often.

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};

use arvados_fuse::keep::{Failure, KeepClient, Priority, Service, ServiceType, StaticServices};
use arvados_fuse::types::{Locator, Md5};

use super::support::{Fault, Server, data, locator, quick, service, services, until};

fn signed(data: &[u8], letter: char) -> Locator {
    let signature = letter.to_string().repeat(40);
    format!("{}+A{signature}@7fffffff", locator(data)).parse().expect("a locator")
}

#[test]
fn a_request_is_what_keepstore_expects_and_connections_are_kept() {
    let blocks: Vec<_> = (0..5).map(|seed| data(seed, 1000)).collect();
    let server = Server::start();
    blocks.iter().for_each(|block| server.add(block));
    let server = [server];
    let client = KeepClient::new(quick(), services(&server));
    for block in &blocks {
        client.get_blocking(&signed(block, 'a')).unwrap_or_else(|error| panic!("{error}"));
    }
    let seen = server[0].seen();
    assert_eq!(seen[0].path, format!("/{}", signed(&blocks[0], 'a')));
    assert_eq!(seen[0].headers["authorization"], "Bearer the-secret-token");
    assert_eq!(seen[0].headers["accept"], "application/octet-stream");
    let id = &seen[0].headers["x-request-id"];
    assert!(id.len() == 24 && id.starts_with("req-"), "{id}");
    assert_ne!(seen[1].headers["x-request-id"], *id);
    // A second one if the first was not back in its pool in time.
    assert!(server[0].connections() <= 2, "connections are kept");

    let metrics = client.metrics();
    let totals = || (metrics.gets.get(), metrics.hits.get(), metrics.misses.get());
    assert_eq!(totals(), (5, 0, 5));
    assert_eq!(metrics.bytes_downloaded.get(), 5000);
    assert!(client.try_get(&locator(&blocks[3])).is_some());
    assert_eq!(totals(), (6, 1, 5));
}

#[test]
fn one_fetch_serves_everybody_who_waits() {
    let block = data(1, 1 << 20);
    let server = Server::start();
    server.add(&block);
    let server = [server];
    let client = KeepClient::new(quick(), services(&server));
    let (sender, receiver) = channel();
    let start = Arc::new(Barrier::new(8));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..25 {
                    let sender = sender.clone();
                    let here = std::thread::current().id();
                    let waiter = Box::new(move |outcome: Result<arvados_fuse::keep::Block, _>| {
                        let elsewhere = std::thread::current().id() != here;
                        sender.send((elsewhere, outcome)).expect("the test waits");
                    });
                    client.get(&locator(&block), Priority::Demand, waiter);
                }
            });
        }
    });
    for _ in 0..200 {
        let (elsewhere, outcome) = receiver.recv().expect("each is called");
        assert!(elsewhere, "not on the caller's thread");
        assert!(outcome.expect("a good server").as_slice() == Some(&block[..]));
    }
    assert!(receiver.try_recv().is_err(), "each is called once");
    assert_eq!(server[0].requests(), 1);
    let metrics = client.metrics();
    assert_eq!((metrics.hits.get(), metrics.misses.get()), (199, 1));
}

#[test]
fn a_reader_with_a_good_signature_is_not_failed_by_anothers_expired_one() {
    let block = data(2, 1000);
    let server = Server::start();
    server.add(&block);
    let gate = Arc::new(Barrier::new(2));
    let at_server = gate.clone();
    server.behave(move |seen, number| {
        if number == 0 {
            at_server.wait();
        }
        if seen.path.contains("+Abbb") { Fault::None } else { Fault::Status(403) }
    });
    let server = [server];
    let client = KeepClient::new(quick(), services(&server));
    let (sender, receiver) = channel();
    for letter in ['a', 'b', 'a', 'c'] {
        let sender = sender.clone();
        let waiter = Box::new(move |outcome: Result<arvados_fuse::keep::Block, _>| {
            sender.send((letter, outcome.map(|_| ()))).expect("the test waits");
        });
        client.get(&signed(&block, letter), Priority::Demand, waiter);
    }
    gate.wait();
    let mut outcomes: Vec<_> = receiver.iter().take(4).collect();
    outcomes.sort_by_key(|(letter, _)| *letter);
    for (letter, outcome) in outcomes {
        match letter {
            'a' => assert_eq!(outcome.expect_err("expired").failure(), Failure::Forbidden),
            _ => outcome.expect("a good signature fetched it"),
        }
    }
    assert_eq!(server[0].requests(), 2);
}

#[test]
fn hints_name_gateways_and_proxies_are_taken_from_settings() {
    let block = data(3, 1000);
    let pair = [Server::start(), Server::start()];
    pair.iter().for_each(|server| server.add(&block));
    let gateway = Service { kind: ServiceType::Gateway, ..service(1, pair[1].root()) };
    let hinted: Locator = format!("{}+K@{}", locator(&block), gateway.uuid).parse().expect("one");
    let list = StaticServices::new(vec![service(0, pair[0].root()), gateway]);
    let client = KeepClient::new(quick(), Arc::new(list));
    client.get_blocking(&hinted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((pair[0].requests(), pair[1].requests()), (0, 1));

    let setting = format!("http://{}", pair[0].address);
    let list = StaticServices::from_setting(&setting).expect("a URL");
    let client = KeepClient::new(quick(), Arc::new(list));
    client.get_blocking(&locator(&block)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pair[0].requests(), 1);
}

#[test]
fn a_locator_with_a_wrong_size_finds_nothing() {
    let block = data(4, 1000);
    let server = Server::start();
    server.add(&block);
    let client = KeepClient::new(quick(), services(std::slice::from_ref(&server)));
    let wrong: Locator = format!("{}+999", Md5::of(&block)).parse().expect("a locator");
    client.get_blocking(&locator(&block)).unwrap_or_else(|error| panic!("{error}"));
    assert!(client.try_get(&wrong).is_none());
    assert!(client.get_blocking(&wrong).is_err());
    assert!(client.try_get(&locator(&block)).is_some());
}

#[test]
fn the_empty_block_needs_no_service() {
    let client = KeepClient::new(quick(), Arc::new(StaticServices::new(vec![])));
    let block = client.get_blocking(&locator(b"")).expect("nothing to fetch");
    assert!(block.is_empty());
}

#[test]
fn a_prefetch_is_joined_by_its_reader_and_tries_only_once_without_one() {
    let blocks: Vec<_> = (10..13).map(|seed| data(seed, 1000)).collect();
    let server = Server::start();
    server.add(&blocks[0]);
    server.add(&blocks[1]);
    let stalled = format!("/{}", locator(&blocks[1]));
    server.behave(move |seen, _| if seen.path == stalled { Fault::Stall } else { Fault::None });
    let server = [server];
    let mut config = quick();
    config.timeouts.read = std::time::Duration::from_secs(60);
    config.prefetches = 1;
    let client = KeepClient::new(config, services(&server));
    client.prefetch(&locator(&blocks[2]));
    until("the missing block has been asked for", || server[0].requests() == 1);
    client.prefetch(&locator(&blocks[1]));
    until("the stalled one has, too", || server[0].requests() == 2);
    // Behind the stalled one, until somebody waits for it.
    client.prefetch(&locator(&blocks[0]));
    client.prefetch(&locator(&blocks[0]));
    client.get_blocking(&locator(&blocks[0])).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(server[0].requests(), 3);
}

#[test]
fn a_local_store_is_read_instead_of_any_service() {
    let dir = super::support::Scratch::new("local");
    let (good, bad, missing) = (data(20, 500), data(21, 500), data(22, 500));
    std::fs::write(dir.0.join(Md5::of(&good).to_string()), &*good).expect("writable");
    std::fs::write(dir.0.join(Md5::of(&bad).to_string()), &*good).expect("writable");
    let mut config = quick();
    config.local_store = Some(dir.0.clone());
    let client = KeepClient::new(config, Arc::new(StaticServices::new(vec![])));
    assert!(
        client.get_blocking(&locator(&good)).expect("it is there").as_slice() == Some(&good[..])
    );
    let failure = |block: &[u8]| client.get_blocking(&locator(block)).expect_err("no").failure();
    assert_eq!((failure(&bad), failure(&missing)), (Failure::Corrupt, Failure::NotFound));
}
