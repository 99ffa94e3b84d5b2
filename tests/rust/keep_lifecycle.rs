// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Threads, sockets and files: none before the first use, none after the shutdown.

#[path = "keep/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arvados_fuse::keep::{Failure, KeepClient, Priority, Proxies, Services, StaticServices};
use parking_lot::Mutex;
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
    // Closed connections take a moment on both sides.
    let ours = || {
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").expect("proc");
        let server = format!(":{:04X} ", server[0].address.port());
        sockets.lines().filter(|line| line.contains(&server) && line.contains(" 01 ")).count()
    };
    run(16);
    let threads = held().0;
    run(400);
    until("only kept connections are left", || ours() <= 4);
    assert_eq!(held().0, threads);
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
