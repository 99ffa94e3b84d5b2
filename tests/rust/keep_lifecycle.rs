// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Threads, sockets and files: none before the first use, none after the shutdown.

#[path = "keep/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arvados_fuse::keep::{
    Failure, KeepClient, Operation, Priority, PutOptions, Services, StaticServices,
};
use arvados_fuse::net::Proxies;
use parking_lot::Mutex;
use support::taking::Take;
use support::{Fault, Scratch, Server, cached, data, locator, quick, read_all, services, until};

/// The tests count what the whole process has: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The clients' threads, by their names, and all descriptors of this process.
fn held() -> (usize, usize) {
    let names = std::fs::read_dir("/proc/self/task").expect("proc").flatten();
    let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("proc").count();
    (names.filter(|name| name.starts_with("keep-")).count(), descriptors)
}

#[test]
fn nothing_is_started_before_the_first_use_nor_left_after_the_shutdown() {
    let _alone = ALONE.lock();
    let blocks: Vec<_> = (0..20).map(|seed| data(seed, 10_000)).collect();
    let dir = Scratch::new("lifecycle");
    let before_server = held();
    let server = [Server::start()];
    blocks.iter().for_each(|block| server[0].add(block));
    let before = held();
    let client = KeepClient::new(cached(&dir), services(&server));
    assert!(client.try_get(&locator(&blocks[0])).is_none());
    assert_eq!(held(), before);
    for block in &blocks {
        read_all(&client, &locator(block));
    }
    until("files are held open", || client.cached_bytes().1 == 200_000);
    assert!(held().0 > before.0 && held().1 > before.1 + 20);
    client.shutdown();
    assert_eq!(client.cached_bytes(), (0, 0));
    drop(server);
    assert_eq!(held(), before_server);

    let outcome = client.get_blocking(&locator(&blocks[0]));
    assert_eq!(outcome.expect_err("shut down").failure(), Failure::ShutDown);
    client.prefetch(&locator(&blocks[0]));
    client.shutdown();
    assert_eq!(held(), before_server);
}

#[test]
fn a_shutdown_under_load_is_quick_and_every_waiter_is_told() {
    let _alone = ALONE.lock();
    let before = held();
    let blocks: Vec<_> = (0..200).map(|seed| data(seed, 100_000)).collect();
    let dir = Scratch::new("load");
    let server = [Server::start()];
    blocks.iter().for_each(|block| server[0].add(block));
    server[0].behave(|_, number| match number % 4 {
        0 => Fault::Stall,
        1 => Fault::StallMid,
        2 => Fault::Status(503),
        _ => Fault::None,
    });
    let mut config = cached(&dir);
    config.timeouts.read = Duration::from_secs(60);
    config.backoff = Duration::from_secs(60);
    config.max_backoff = Duration::from_secs(60);
    let client = KeepClient::new(config, services(&server));
    let (sender, receiver) = channel();
    for block in &blocks {
        let sender = sender.clone();
        let waiter = Box::new(move |outcome: Result<_, _>| {
            sender.send(outcome.map(|_| ())).expect("the test waits");
        });
        client.get(&locator(block), Priority::Demand, waiter);
    }
    drop(sender);
    until("all have been asked for", || server[0].requests() == 200);
    let start = Instant::now();
    client.shutdown();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let outcomes: Vec<_> = receiver.iter().collect();
    assert_eq!(outcomes.len(), 200, "each is told once");
    let shut = |outcome: &Result<(), arvados_fuse::keep::KeepError>| {
        outcome.as_ref().is_err_and(|error| error.failure() == Failure::ShutDown)
    };
    assert!(outcomes.iter().filter(|outcome| shut(outcome)).count() >= 150);
    drop(server);
    assert_eq!(held(), before);
}

#[test]
fn a_shutdown_while_uploading_is_quick_and_every_writer_is_told() {
    let _alone = ALONE.lock();
    let before = held();
    let dir = Scratch::new("uploads");
    let server = [Server::start(), Server::start()];
    server[0].take(|_, number| match number % 4 {
        0 => Take::Stall,
        1 => Take::StallMid,
        2 => Take::Status(503),
        _ => Take::Store(1, Some("")),
    });
    server[1].always_take(Take::StallMid);
    let mut config = cached(&dir);
    config.timeouts.read = Duration::from_secs(60);
    config.backoff = Duration::from_secs(60);
    config.max_backoff = Duration::from_secs(60);
    config.uploads = 6;
    let client = KeepClient::new(config, services(&server));
    let (sender, receiver) = channel();
    // Some are in the kernel's buffers as a whole, some are not.
    for number in 0..20 {
        let sender = sender.clone();
        let waiter = Box::new(move |outcome: Result<_, _>| {
            sender.send(outcome.map(|_| ())).expect("the test waits");
        });
        let len = if number % 2 == 0 { 10_000 } else { 12 << 20 };
        client.put(vec![data(number, len).to_vec().into()], &PutOptions::default(), waiter);
    }
    drop(sender);
    until("six are on their way", || server[1].requests() == 6);
    let start = Instant::now();
    client.shutdown();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let outcomes: Vec<_> = receiver.iter().collect();
    assert_eq!(outcomes.len(), 20, "each is told once");
    for outcome in outcomes {
        let error = outcome.expect_err("none has two copies");
        assert_eq!((error.failure(), error.operation()), (Failure::ShutDown, Operation::Put));
    }
    assert_eq!(dir.unfinished(), 0);
    drop(server);
    assert_eq!(held(), before);

    let error = client.put_blocking(vec!["foo".into()], &PutOptions::default()).expect_err("late");
    assert_eq!(error.failure(), Failure::ShutDown);
    assert_eq!(held(), before);
}

#[test]
fn uploads_that_fail_leak_nothing() {
    let _alone = ALONE.lock();
    let block = data(1, 6 << 20);
    let server = [Server::start()];
    server[0].take(|_, number| match number % 8 {
        0 => Take::CloseMid,
        1 => Take::ResetMid,
        2 => Take::StallMid,
        3 => Take::Refuse(503),
        4 => Take::Status(403),
        5 => Take::Answer("no locator".into()),
        6 => Take::Stall,
        _ => Take::Store(1, None),
    });
    let mut config = quick();
    config.num_retries = 0;
    config.timeouts.read = Duration::from_millis(100);
    config.cache.max_bytes = 64 << 20;
    let client = KeepClient::new(config, services(&server));
    let options = PutOptions { replicas: 1, ..PutOptions::default() };
    let data = bytes::Bytes::copy_from_slice(&block);
    let run = |times| {
        for _ in 0..times {
            // Seven of eight fail, as they should.
            let _ = client.put_blocking(vec![data.clone()], &options);
            client.clear_cache();
        }
    };
    run(8);
    let threads = held().0;
    run(64);
    until("only kept connections are left", || established(&server[0]) <= 2);
    // Those that had nothing to do for a while have ended.
    assert!(held().0 <= threads, "{} threads, not {threads}", held().0);
    until("nobody has the block any more", || data.is_unique());
}

/// Connections that clients have to that server.
fn established(server: &Server) -> usize {
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").expect("proc");
    // The state follows the other end's address.
    let server = format!(":{:04X} 01 ", server.address.port());
    sockets.lines().filter(|line| line.contains(&server)).count()
}

#[test]
fn many_faults_leak_nothing() {
    let _alone = ALONE.lock();
    let block = data(1, 100_000);
    let server = [Server::start()];
    server[0].add(&block);
    server[0].behave(|_, number| match number % 8 {
        0 => Fault::CloseMid,
        1 => Fault::Reset,
        2 => Fault::WrongBytes,
        3 => Fault::EndlessBody,
        4 => Fault::Garbage,
        5 => Fault::Longer,
        6 => Fault::Status(404),
        _ => Fault::None,
    });
    let mut config = quick();
    config.num_retries = 0;
    let client = KeepClient::new(config, services(&server));
    let run = |times| {
        for _ in 0..times {
            // Seven of eight fail, as they should.
            let _ = client.get_blocking(&locator(&block));
            client.clear_cache();
        }
    };
    run(16);
    let threads = held().0;
    run(400);
    // Closed ones take a moment on both sides.
    until("only kept connections are left", || established(&server[0]) <= 2);
    assert!(held().0 <= threads, "{} threads, not {threads}", held().0);
}

#[test]
fn a_child_forked_before_the_first_use_has_a_client_of_its_own() {
    let _alone = ALONE.lock();
    let block = data(2, 100_000);
    let server = [Server::start()];
    server[0].add(&block);
    let client = KeepClient::new(quick(), services(&server));
    assert!(forked(|| *read_all(&client, &locator(&block)) == **block));
    // And one that forks later starts anew, whatever threads its parent has.
    assert!(read_all(&client, &locator(&block)) == *block);
    client.clear_cache();
    assert!(forked(|| *read_all(&client, &locator(&block)) == **block));
    assert!(read_all(&client, &locator(&block)) == *block);

    let options = PutOptions { replicas: 1, ..PutOptions::default() };
    let put = |seed| {
        let block = data(seed, 100_000);
        client.put_blocking(vec![block.to_vec().into()], &options).is_ok()
            && server[0].stored(&block)
    };
    assert!(put(3));
    assert!(forked(|| {
        let block = data(4, 100_000);
        client.put_blocking(vec![block.to_vec().into()], &options).is_ok()
    }));
    assert!(put(5));
}

/// Runs `work` in a child; whether it ended well within ten seconds.
#[allow(unsafe_code)]
fn forked(work: impl FnOnce() -> bool) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    // SAFETY: the child allocates, which glibc makes safe after a fork; locks of the harness that another
    // thread may hold are not touched, because it leaves by _exit.
    match unsafe { nix::unistd::fork() }.expect("a process") {
        nix::unistd::ForkResult::Child => {
            let good =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
            // SAFETY: ends this process and nothing else.
            unsafe { nix::libc::_exit(i32::from(!good)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let mut status = WaitStatus::StillAlive;
            until("the child ends", || {
                status = waitpid(child, Some(WaitPidFlag::WNOHANG)).expect("our child");
                status != WaitStatus::StillAlive
            });
            matches!(status, WaitStatus::Exited(_, 0))
        }
    }
}

/// A source that does not answer.
struct Stuck(Mutex<()>);

impl Services for Stuck {
    fn list(
        &self,
        _refresh: bool,
    ) -> Result<Vec<arvados_fuse::keep::Service>, arvados_fuse::keep::ServicesError> {
        drop(self.0.lock());
        StaticServices::new(Vec::new()).list(false)
    }
}

#[test]
fn a_stuck_list_of_services_does_not_hold_up_the_shutdown() {
    let _alone = ALONE.lock();
    let before = held();
    let stuck = Arc::new(Stuck(Mutex::new(())));
    let lock = stuck.0.lock();
    let client = KeepClient::new(quick(), stuck.clone());
    let (sender, receiver) = channel();
    let waiter = Box::new(move |outcome: Result<_, _>| {
        sender.send(outcome.is_err()).expect("the test waits");
    });
    client.get(&locator(&data(3, 10)), Priority::Demand, waiter);
    let start = Instant::now();
    client.shutdown();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(receiver.recv(), Ok(true));
    drop(lock);
    until("its thread ends with the call", || held() == before);
}

#[test]
fn a_shutdown_is_quick_where_nobody_answers_the_handshake_or_for_the_proxy() {
    let _alone = ALONE.lock();
    let block = data(1, 1000);
    // Connections are taken, and nothing is ever answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    let proxies: [Option<&str>; 3] = [None, Some("http_proxy"), Some("https_proxy")];
    for (proxy, scheme) in proxies.into_iter().zip(["https", "http", "https"]) {
        let mut config = quick();
        config.timeouts.connect = Duration::from_secs(60);
        config.timeouts.read = Duration::from_secs(60);
        config.proxies = Some(Proxies::from_lookup(|name| {
            (Some(name) == proxy).then(|| format!("http://{address}"))
        }));
        let list = vec![support::service(0, format!("{scheme}://{address}/"))];
        let client = KeepClient::new(config, Arc::new(StaticServices::new(list)));
        let (sender, receiver) = channel();
        let waiter = Box::new(move |outcome: Result<_, _>| {
            sender.send(outcome.map(|_| ())).expect("the test waits");
        });
        client.get(&locator(&block), Priority::Demand, waiter);
        let (connection, _) = silent.accept().expect("it connects");
        connection.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        assert_eq!(connection.peek(&mut [0]).expect("it asks"), 1);
        let start = Instant::now();
        client.shutdown();
        assert!(start.elapsed() < Duration::from_secs(1), "{proxy:?}: {:?}", start.elapsed());
        let error = receiver.recv().expect("it is called").expect_err("nobody answers");
        assert_eq!(error.failure(), Failure::ShutDown, "{error}");
    }
}
