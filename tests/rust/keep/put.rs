// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Writing blocks: what goes over the wire, to whom, and when it is enough.

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use arvados_fuse::keep::{
    Failure, KeepClient, Operation, Priority, PutOptions, Service, ServiceType, Services,
    StaticServices,
};
use arvados_fuse::types::{Locator, Md5};
use bytes::Bytes;

use super::support::taking::{Take, signed};
use super::support::{
    Scratch, Server, cached, data, locator, ordered, quick, read_all, services, until,
};
use crate::seed::seed;

pub(crate) fn pieces(data: &Arc<Vec<u8>>) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(data)]
}

pub(crate) fn copies(replicas: u32) -> PutOptions {
    PutOptions { replicas, ..PutOptions::default() }
}

fn in_classes(replicas: u32, classes: &[&str]) -> PutOptions {
    PutOptions { replicas, classes: classes.iter().map(ToString::to_string).collect() }
}

fn servers<const N: usize>() -> [Server; N] {
    std::array::from_fn(|_| Server::start())
}

/// These servers as a list that is changed by `change`, each by its place.
fn changed(
    data: &[u8],
    servers: &[Server],
    change: impl Fn(usize, &mut Service),
) -> Arc<dyn Services> {
    let mut list = ordered(data, servers).list(false).expect("a fixed list");
    list.iter_mut().enumerate().for_each(|(place, service)| change(place, service));
    Arc::new(StaticServices::new(list))
}

fn put(client: &KeepClient, data: &Arc<Vec<u8>>, options: &PutOptions) -> Locator {
    client.put_blocking(pieces(data), options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_block_is_stored_as_keepstore_expects_and_read_back_from_the_cache() {
    let dir = Scratch::new("put");
    // Large ones go to their files, small ones follow.
    for (len, config, files) in
        [(1000, quick(), 0), (1000, cached(&dir), 1000), (400_000, cached(&dir), 401_000)]
    {
        let block = data(100 + len as u64, len);
        let pair = servers::<2>();
        let client = KeepClient::new(config, ordered(&block, &pair));
        let stored = put(&client, &block, &copies(2));
        assert_eq!(stored.to_string(), signed(&block));
        assert!(pair.iter().all(|server| server.stored(&block) && server.requests() == 1));
        let seen = &pair[0].seen()[0];
        assert_eq!((seen.method.as_str(), &seen.path), ("PUT", &format!("/{}", Md5::of(&block))));
        assert_eq!(seen.headers["authorization"], "Bearer the-secret-token");
        assert_eq!(seen.headers["accept"], "*/*");
        assert_eq!(seen.headers["content-length"], len.to_string());
        assert_eq!(seen.headers["x-keep-desired-replicas"], "2");
        for absent in ["content-type", "transfer-encoding", "x-keep-storage-classes", "expect"] {
            assert!(!seen.headers.contains_key(absent), "{absent}");
        }
        let id = &seen.headers["x-request-id"];
        assert!(id.len() == 24 && id.starts_with("req-"), "{id}");
        assert_eq!(pair[1].seen()[0].headers["x-request-id"], *id);

        assert!(client.at_hand(Md5::of(&block), len as u32).is_some(), "{len}");
        assert!(read_all(&client, &stored) == *block);
        assert_eq!((pair[0].requests(), pair[1].requests()), (1, 1));
        let metrics = client.metrics();
        assert_eq!((metrics.puts.get(), metrics.bytes_uploaded.get()), (1, 2 * len as u64));
        assert_eq!(metrics.misses.get(), 0);
        until("its file", || dir.bytes() == files && dir.unfinished() == 0);
    }
}

#[test]
fn the_waiter_is_called_on_a_thread_of_the_client() {
    let block = data(1, 100);
    let client = KeepClient::new(quick(), services(&servers::<1>()));
    let (sender, receiver) = channel();
    let waiter = Box::new(move |outcome| {
        let name = std::thread::current().name().unwrap_or_default().to_string();
        sender.send((name, outcome)).expect("the test waits");
    });
    client.put(pieces(&block), &copies(0), waiter);
    let (name, outcome) = receiver.recv().expect("called");
    assert_eq!((name.as_str(), outcome.expect("hashed")), ("keep-io", locator(&block)));
    assert!(client.try_get(&locator(&block)).is_none(), "stored nowhere");
}

#[test]
fn the_empty_block_is_stored_too() {
    let server = servers::<1>();
    let client = KeepClient::new(quick(), services(&server));
    let stored = put(&client, &data(0, 0), &copies(1));
    assert_eq!(stored.to_string(), signed(b""));
    let seen = server[0].seen();
    assert_eq!(seen[0].path, format!("/{}", Md5::EMPTY));
    assert_eq!(seen[0].headers["content-length"], "0");
}

#[test]
fn what_is_larger_than_any_block_is_refused() {
    let server = servers::<1>();
    let mut config = quick();
    config.timeouts.read = Duration::from_secs(20);
    let client = KeepClient::new(config, services(&server));
    let mebibyte = Bytes::from(vec![0; 1 << 20]);
    let mut data = vec![mebibyte; 64];
    data.push(Bytes::from_static(b"x"));
    let error = client.put_blocking(data.clone(), &copies(1)).expect_err("too large");
    assert_eq!((error.failure(), error.operation()), (Failure::TooLarge, Operation::Put));
    assert_eq!(error.to_string(), "block of 67108865 bytes not written: larger than any block");
    assert_eq!(server[0].requests(), 0);
    data.pop();
    let stored = client.put_blocking(data, &copies(1)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(stored.size(), 64 << 20);
}

#[test]
fn the_best_services_store_it_all_of_them_at_once() {
    let block = data(2, 1000);
    let five = servers::<5>();
    // None answers before all three have been asked.
    let gate = Arc::new(Barrier::new(3));
    for server in &five {
        let gate = gate.clone();
        server.take(move |_, _| {
            gate.wait();
            Take::Store(1, Some(""))
        });
    }
    let client = KeepClient::new(quick(), ordered(&block, &five));
    put(&client, &block, &copies(3));
    let requests: Vec<_> = five.iter().map(Server::requests).collect();
    assert_eq!(requests, [1, 1, 1, 0, 0]);
}

#[test]
fn a_service_that_stores_several_copies_is_enough() {
    let block = data(3, 1000);
    let three = servers::<3>();
    three[0].always_take(Take::Store(2, Some("")));
    three[1].always_take(Take::Stall);
    let mut config = quick();
    config.timeouts.read = Duration::from_secs(60);
    let client = KeepClient::new(config, ordered(&block, &three));
    let start = Instant::now();
    put(&client, &block, &copies(2));
    assert!(start.elapsed() < Duration::from_secs(10), "nobody waits for the other one");
    assert_eq!(three[2].requests(), 0);
}

#[test]
fn one_that_does_not_count_its_copies_has_made_one() {
    let block = data(4, 1000);
    let three = servers::<3>();
    three.iter().for_each(|server| server.always_take(Take::Silently));
    let client = KeepClient::new(quick(), ordered(&block, &three));
    put(&client, &block, &copies(2));
    let requests: Vec<_> = three.iter().map(Server::requests).collect();
    assert_eq!(requests, [1, 1, 0]);
}

#[test]
fn where_there_is_a_proxy_one_is_asked_at_a_time() {
    let block = data(5, 1000);
    for stored in [2, 1] {
        let pair = servers::<2>();
        pair[1].always_take(Take::Store(1, Some("")));
        // The second one is asked only after this one has answered.
        pair[0].take(move |_, _| {
            std::thread::sleep(Duration::from_millis(50));
            Take::Store(stored, Some(""))
        });
        let list = changed(&block, &pair, |place, service| {
            service.kind = if place == 1 { ServiceType::Proxy } else { ServiceType::Disk };
        });
        let client = KeepClient::new(quick(), list);
        put(&client, &block, &copies(2));
        assert_eq!(pair[0].requests(), 1);
        assert_eq!(pair[1].requests(), usize::from(stored == 1));
        assert_eq!(pair[0].seen()[0].headers["x-keep-desired-replicas"], "2");
    }
}

#[test]
fn those_that_are_read_only_and_gateways_are_left_out() {
    let block = data(6, 1000);
    let three = servers::<3>();
    let list = changed(&block, &three, |place, service| match place {
        0 => service.read_only = true,
        1 => service.kind = ServiceType::Gateway,
        _ => {}
    });
    let client = KeepClient::new(quick(), list);
    put(&client, &block, &copies(1));
    let requests: Vec<_> = three.iter().map(Server::requests).collect();
    assert_eq!(requests, [0, 0, 1]);

    let list = changed(&block, &three, |_, service| service.read_only = true);
    let client = KeepClient::new(quick(), list);
    let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("nobody to ask");
    assert_eq!(error.failure(), Failure::NoServices, "{error}");
    // They are read from all the same.
    three.iter().for_each(|server| server.add(&block));
    assert!(read_all(&client, &locator(&block)) == *block);
}

#[test]
fn a_read_only_proxy_does_not_count_as_one() {
    let block = data(7, 1000);
    let three = servers::<3>();
    let gate = Arc::new(Barrier::new(2));
    for server in &three {
        let gate = gate.clone();
        server.take(move |_, _| {
            gate.wait();
            Take::Store(1, Some(""))
        });
    }
    let list = changed(&block, &three, |place, service| {
        if place == 0 {
            (service.kind, service.read_only) = (ServiceType::Proxy, true);
        }
    });
    put(&KeepClient::new(quick(), list), &block, &copies(2));
}

#[test]
fn classes_are_asked_for_until_each_is_confirmed() {
    let block = data(8, 1000);
    let three = servers::<3>();
    three[0].always_take(Take::Store(1, Some("default=1")));
    three[1].always_take(Take::Store(1, Some("default=1, archive=1")));
    three[2].always_take(Take::Store(1, Some("archive=1")));
    let client = KeepClient::new(quick(), ordered(&block, &three));
    put(&client, &block, &in_classes(1, &["default", "archive"]));
    let asked = |server: &Server| {
        let seen = server.seen();
        seen.iter().map(|seen| seen.headers["x-keep-storage-classes"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(&three[0]), ["archive, default"]);
    assert_eq!(asked(&three[1]), ["archive"]);
    assert!(asked(&three[2]).is_empty());
}

#[test]
fn a_class_is_confirmed_late_by_a_service_that_comes_to_itself() {
    let block = data(9, 1000);
    let pair = servers::<2>();
    pair[0].always_take(Take::Store(1, Some("default=1")));
    pair[1].take(|_, number| match number {
        0 => Take::Status(503),
        _ => Take::Store(1, Some("archive=1")),
    });
    let client = KeepClient::new(quick(), ordered(&block, &pair));
    put(&client, &block, &in_classes(1, &["default", "archive"]));
    assert_eq!((pair[0].requests(), pair[1].requests()), (1, 2));
    assert_eq!(pair[1].seen()[1].headers["x-keep-storage-classes"], "archive");
}

#[test]
fn a_class_that_nobody_confirms_is_an_error() {
    let block = data(10, 1000);
    let pair = servers::<2>();
    pair.iter().for_each(|server| server.always_take(Take::Store(1, Some("default=1"))));
    let client = KeepClient::new(quick(), ordered(&block, &pair));
    let options = in_classes(1, &["default", "archive"]);
    let error = client.put_blocking(pieces(&block), &options).expect_err("not archived");
    assert_eq!(error.failure(), Failure::TooFewCopies);
    let text = error.to_string();
    assert!(text.contains("2 of 1 copies stored, too few of storage class archive"), "{text}");
    // Who has stored it is not asked again.
    assert_eq!((pair[0].requests(), pair[1].requests()), (1, 1));
    assert!(client.try_get(&locator(&block)).is_none());
}

#[test]
fn where_services_do_not_tell_of_classes_copies_are_enough() {
    for said in [None, Some("default=many")] {
        let block = data(11, 1000);
        let pair = servers::<2>();
        pair.iter().for_each(|server| server.always_take(Take::Store(1, said)));
        let client = KeepClient::new(quick(), ordered(&block, &pair));
        put(&client, &block, &in_classes(1, &["default", "archive"]));
        assert_eq!((pair[0].requests(), pair[1].requests()), (1, 0));
    }
}

#[test]
fn a_local_store_is_written_instead_of_any_service() {
    let dir = Scratch::new("local-put");
    let block = data(12, 500);
    let mut config = quick();
    config.local_store = Some(dir.0.clone());
    let client = KeepClient::new(config, Arc::new(StaticServices::new(vec![])));
    for _ in 0..2 {
        let stored = client
            .put_blocking(
                vec![block[..200].to_vec().into(), block[200..].to_vec().into()],
                &copies(2),
            )
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(stored, locator(&block), "not signed");
    }
    let names: Vec<_> = std::fs::read_dir(&dir.0).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "no file is left beside it: {names:?}");
    let path = dir.0.join(Md5::of(&block).to_string());
    assert!(std::fs::read(&path).expect("stored") == *block);
    client.clear_cache();
    assert!(read_all(&client, &locator(&block)) == *block);

    std::fs::remove_dir_all(&dir.0).expect("ours");
    let error = client.put_blocking(pieces(&block), &copies(2)).expect_err("no folder");
    assert_eq!(error.failure(), Failure::Server);
    assert!(error.to_string().contains("local store: No such file"), "{error}");
}

#[test]
fn many_blocks_at_once_are_sent_a_few_at_a_time() {
    const UPLOADS: usize = 3;
    let blocks: Vec<_> = (0..40).map(|seed| data(1000 + seed, 20_000)).collect();
    let server = servers::<1>();
    server[0].always_take(Take::Slowly(Duration::from_millis(20)));
    let mut config = quick();
    config.uploads = UPLOADS;
    let client = KeepClient::new(config, services(&server));
    let (sender, receiver) = channel();
    for block in &blocks {
        let (sender, expected) = (sender.clone(), signed(block));
        let waiter = Box::new(move |outcome: Result<Locator, _>| {
            sender.send((outcome, expected)).expect("the test waits");
        });
        client.put(pieces(block), &copies(1), waiter);
    }
    drop(sender);
    let mut count = 0;
    for (outcome, expected) in receiver {
        let stored: Locator = outcome.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(stored.to_string(), expected);
        count += 1;
    }
    assert_eq!((count, server[0].requests()), (40, 40));
    assert_eq!(server[0].most_at_once(), UPLOADS);
    // A reader is not held up by them.
    assert!(blocks.iter().all(|block| client.try_get(&locator(block)).is_some()));
}

#[test]
fn a_reader_does_not_wait_for_writers() {
    let (slow, wanted) = (data(13, 1000), data(14, 1000));
    let server = servers::<1>();
    server[0].add(&wanted);
    server[0].always_take(Take::Stall);
    let mut config = quick();
    config.timeouts.read = Duration::from_secs(60);
    config.uploads = 1;
    let client = KeepClient::new(config, services(&server));
    client.put(pieces(&slow), &copies(1), Box::new(|_| ()));
    until("it is on its way", || server[0].requests() == 1);
    let (sender, receiver) = channel();
    let waiter = Box::new(move |outcome| drop(sender.send(outcome)));
    client.get(&locator(&wanted), Priority::Demand, waiter);
    let got = receiver.recv_timeout(Duration::from_secs(5)).expect("in time");
    assert!(got.is_ok());
}

#[test]
fn wherever_it_is_cut_the_same_block_arrives() {
    let mut random = fastrand::Rng::with_seed(seed());
    let dir = Scratch::new("pieces");
    for round in 0..60 {
        let block = data(random.u64(..), random.usize(..600_000));
        let mut left = &block[..];
        let mut cut = Vec::new();
        let most = [1, 100, 5000, 70_000, 300_000][random.usize(..5)];
        while !left.is_empty() {
            // Single bytes for a while only: there may be half a million.
            let most = if cut.len() > 2000 { 100_000 } else { most };
            let (piece, rest) = left.split_at(random.usize(..=most).min(left.len()));
            cut.push(Bytes::copy_from_slice(piece));
            left = rest;
        }
        let pair = servers::<2>();
        let config = if round % 2 == 0 { quick() } else { cached(&dir) };
        let client = KeepClient::new(config, services(&pair));
        let stored = client.put_blocking(cut, &copies(2)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(stored.to_string(), signed(&block));
        assert!(pair.iter().all(|server| server.stored(&block)));
        assert!(read_all(&client, &stored) == *block);
        assert_eq!(client.metrics().misses.get(), 0);
    }
}
