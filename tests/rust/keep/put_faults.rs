// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Whatever services do with a block that is written: it is stored or an error, in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arvados_fuse::keep::{Answer, Failure, KeepClient, Services, StaticServices};

use super::put::{copies, pieces};
use super::support::taking::{Take, signed};
use super::support::{Server, data, locator, ordered, quick, service, until};

const LEN: usize = 300_000;

/// Every fault, what it comes to when all services have it, and how often each is asked in two
/// rounds.
fn faults() -> Vec<(Take, Failure, usize)> {
    let wrong = |text: String| (Take::Answer(text), Failure::Corrupt, 2);
    let (block, other) = (data(1, LEN), data(2, LEN));
    let status = |status, failure, rounds| (Take::Status(status), failure, rounds);
    vec![
        status(403, Failure::Forbidden, 1),
        status(401, Failure::Forbidden, 1),
        status(400, Failure::Server, 1),
        status(404, Failure::Server, 1),
        status(413, Failure::Server, 1),
        status(301, Failure::Server, 1),
        status(429, Failure::Server, 2),
        status(408, Failure::Server, 2),
        status(500, Failure::Server, 2),
        status(503, Failure::Server, 2),
        (Take::Refuse(403), Failure::Forbidden, 1),
        (Take::Refuse(503), Failure::Server, 2),
        wrong(signed(&other)),
        wrong(signed(&block).replace("+300000+", "+300001+")),
        wrong("no locator".into()),
        wrong(String::new()),
        wrong(format!("{}{}", signed(&block), " ".repeat(100_000))),
        (Take::CloseMid, Failure::Server, 2),
        (Take::ResetMid, Failure::Server, 2),
        (Take::Stall, Failure::Timeout, 2),
        (Take::StallMid, Failure::Timeout, 2),
    ]
}

fn pair() -> [Server; 2] {
    [Server::start(), Server::start()]
}

#[test]
fn one_bad_service_costs_no_more_than_another_request() {
    let block = data(1, LEN);
    for (fault, _, _) in faults() {
        let servers = pair();
        servers[0].always_take(fault.clone());
        let client = KeepClient::new(quick(), ordered(&block, &servers));
        let start = Instant::now();
        let stored = client
            .put_blocking(pieces(&block), &copies(1))
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(stored.to_string(), signed(&block), "{fault:?}");
        assert!(servers[1].stored(&block), "{fault:?}");
        assert_eq!((servers[0].requests(), servers[1].requests()), (1, 1), "{fault:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{fault:?}: {:?}", start.elapsed());
    }
}

#[test]
fn all_bad_services_are_an_error_that_tells_what_each_said() {
    let block = data(1, LEN);
    for (fault, failure, rounds) in faults() {
        let servers = pair();
        servers.iter().for_each(|server| server.always_take(fault.clone()));
        let mut config = quick();
        config.num_retries = 1;
        let client = KeepClient::new(config, ordered(&block, &servers));
        let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("none is good");
        assert_eq!(error.failure(), failure, "{fault:?}: {error}");
        let roots: Vec<_> = error.answers().iter().map(|(root, _)| root.clone()).collect();
        assert_eq!(roots, [servers[0].root(), servers[1].root()], "{error}");
        let text = error.to_string();
        let name = locator(&block).to_string();
        assert!(text.contains(&format!("block {name} not written: ")), "{text}");
        assert!(text.contains("req-") && text.contains("0 of 1 copies stored"), "{text}");
        assert!(text.contains(&servers[1].root()), "{text}");
        assert!(!text.contains("secret") && !text.contains("+A0123"), "{text}");
        assert_eq!(error.phrase(), "Keep write error");
        assert!(client.try_get(&locator(&block)).is_none(), "{fault:?}");
        assert_eq!(client.cached_bytes(), (0, 0));
        // What cannot change is not asked again.
        assert_eq!(servers[0].requests(), rounds, "{fault:?}");
    }
}

#[test]
fn a_body_that_no_buffer_holds_meets_the_same() {
    // Enough that a part of it is not even in the kernel's hands.
    let block = data(3, 24 << 20);
    let faults = [
        (Take::StallMid, Failure::Timeout),
        (Take::ResetMid, Failure::Server),
        (Take::CloseMid, Failure::Server),
        (Take::Refuse(403), Failure::Forbidden),
        (Take::Refuse(503), Failure::Server),
    ];
    for (fault, failure) in faults {
        let server = [Server::start()];
        server[0].always_take(fault.clone());
        let mut config = quick();
        config.num_retries = 0;
        let client = KeepClient::new(config, ordered(&block, &server));
        let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("none is good");
        assert_eq!(error.failure(), failure, "{fault:?}: {error}");
        let answer = &error.answers()[0].1;
        match &fault {
            Take::StallMid => {
                // On a busy machine the wait for an answer may end first.
                let said = ["less than 32768 bytes a second", "no answer in"];
                assert!(said.iter().any(|it| answer.to_string().contains(it)), "{answer}");
            }
            Take::Refuse(status) => assert_eq!(*answer, Answer::Status(*status)),
            _ => {}
        }
    }
}

#[test]
fn what_was_refused_is_sent_no_further() {
    let block = data(9, 32 << 20);
    let server = [Server::start()];
    server[0].always_take(Take::RefuseAndRead(403));
    let client = KeepClient::new(quick(), ordered(&block, &server));
    let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("refused");
    assert_eq!(error.failure(), Failure::Forbidden, "{error}");
    until("no more comes", || server[0].read_on() > 0);
    assert!(server[0].read_on() < 24 << 20, "{}", server[0].read_on());
}

#[test]
fn a_slow_service_is_waited_for_as_long_as_it_takes_enough() {
    let block = data(4, 48 << 20);
    let server = [Server::start()];
    server[0].always_take(Take::Pace(5 << 20));
    let mut config = quick();
    config.num_retries = 0;
    // From the last byte in the kernel's buffers to the answer it takes a while, too.
    config.timeouts.read = Duration::from_secs(2);
    let start = Instant::now();
    let client = KeepClient::new(config.clone(), ordered(&block, &server));
    client.put_blocking(pieces(&block), &copies(1)).unwrap_or_else(|error| panic!("{error}"));
    assert!(start.elapsed() > 2 * config.timeouts.read);

    config.timeouts.min_bandwidth = 1 << 30;
    let client = KeepClient::new(config, ordered(&block, &server));
    let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("too slow");
    assert_eq!(error.failure(), Failure::Timeout, "{error}");
}

#[test]
fn too_few_copies_are_an_error() {
    let block = data(5, LEN);
    for (fault, requests) in [(Take::Status(503), 3), (Take::Status(403), 1)] {
        let servers = pair();
        servers[1].always_take(fault);
        let client = KeepClient::new(quick(), ordered(&block, &servers));
        let error = client.put_blocking(pieces(&block), &copies(2)).expect_err("one is missing");
        assert_eq!(error.failure(), Failure::TooFewCopies, "{error}");
        assert_eq!(error.answers()[0], (servers[0].root(), Answer::Stored(1)));
        let text = error.to_string();
        assert!(text.contains("too few copies (1 of 2 copies stored)"), "{text}");
        assert!(text.contains("stored 1 copy"), "{text}");
        assert_eq!((servers[0].requests(), servers[1].requests()), (1, requests));
        assert!(client.try_get(&locator(&block)).is_none());
    }
    // With fewer services than copies there is nobody to ask again.
    let server = [Server::start()];
    let client = KeepClient::new(quick(), ordered(&block, &server));
    let error = client.put_blocking(pieces(&block), &copies(2)).expect_err("one is missing");
    assert_eq!((error.failure(), server[0].requests()), (Failure::TooFewCopies, 1));
}

#[test]
fn copies_of_several_rounds_add_up() {
    let block = data(6, LEN);
    let servers = pair();
    servers[1].take(|_, number| match number {
        0 | 1 => Take::Status(503),
        _ => Take::Store(1, Some("")),
    });
    let mut config = quick();
    config.backoff = Duration::from_millis(100);
    config.max_backoff = Duration::from_millis(150);
    let client = KeepClient::new(config, ordered(&block, &servers));
    let start = Instant::now();
    client.put_blocking(pieces(&block), &copies(2)).unwrap_or_else(|error| panic!("{error}"));
    assert!(start.elapsed() > Duration::from_millis(200), "0.9 x (100 + 150) ms");
    assert_eq!((servers[0].requests(), servers[1].requests()), (1, 3));
}

#[test]
fn deadline_and_patience_end_everything() {
    let block = data(7, LEN);
    for fault in [Take::Stall, Take::StallMid, Take::Status(503)] {
        for patience in [true, false] {
            let servers = pair();
            servers.iter().for_each(|server| server.always_take(fault.clone()));
            let mut config = quick();
            config.num_retries = 1000;
            config.timeouts.read = Duration::from_secs(60);
            let limit = Duration::from_millis(500);
            *(if patience { &mut config.patience } else { &mut config.deadline }) = limit;
            let client = KeepClient::new(config, ordered(&block, &servers));
            let start = Instant::now();
            let error = client.put_blocking(pieces(&block), &copies(2)).expect_err("none is good");
            let took = start.elapsed();
            assert_eq!(error.failure(), Failure::Timeout, "{error}");
            assert!(took >= limit && took < 10 * limit, "{fault:?}: {took:?}");
            let why = if patience { "nothing was taken for 0.5 s: http" } else { "deadline" };
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}

#[test]
fn nobody_listening_and_nobody_listed_are_errors() {
    let block = data(8, 10);
    let server = Server::start();
    let root = server.root();
    drop(server);
    for (list, failure) in
        [(vec![service(0, root)], Failure::Server), (Vec::new(), Failure::NoServices)]
    {
        let list: Arc<dyn Services> = Arc::new(StaticServices::new(list));
        let client = KeepClient::new(quick(), list);
        let error = client.put_blocking(pieces(&block), &copies(1)).expect_err("nobody there");
        assert_eq!(error.failure(), failure, "{error}");
    }
}
