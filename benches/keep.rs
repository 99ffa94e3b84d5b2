// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How fast blocks are hashed, fetched and found, beside what the machine can do:
//! `cargo bench --no-default-features --bench keep`.
//!
//! The services run in a process of their own, as they would. Every row is the best of three,
//! since other work on the machine only ever makes a run slower.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arvados_fuse::keep::{Config, KeepClient, Priority, StaticServices};
use arvados_fuse::types::{Locator, Md5};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const BLOCKS: usize = 8;
const LEN: usize = 64 << 20;
const TOTAL: f64 = (BLOCKS * LEN) as f64;

fn block(seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    fastrand::Rng::with_seed(seed as u64).fill(&mut bytes);
    bytes
}

/// A service that has the blocks, and nothing else to do.
fn serve() {
    let blocks: Vec<_> = (0..BLOCKS).map(block).map(|data| (Md5::of(&data), data)).collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    println!("{}", listener.local_addr().expect("bound"));
    blocks.iter().for_each(|(md5, _)| println!("{md5}"));
    std::thread::scope(|scope| {
        for stream in listener.incoming().map_while(Result::ok) {
            scope.spawn(|| drop(answer(stream, &blocks)));
        }
    });
}

fn answer(mut stream: TcpStream, blocks: &[(Md5, Vec<u8>)]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if let Some(path) = line.strip_prefix("GET /") {
            let (_, data) = blocks
                .iter()
                .find(|(md5, _)| path.starts_with(&md5.to_string()))
                .ok_or(std::io::ErrorKind::NotFound)?;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(data)?;
        }
        line.clear();
    }
    Ok(())
}

struct Service {
    child: Child,
    root: String,
    locators: Vec<Locator>,
}

impl Service {
    fn start() -> Self {
        let me = std::env::current_exe().expect("proc");
        let mut child = Command::new(me).arg("serve").stdout(Stdio::piped()).spawn().expect("me");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("a line").expect("utf-8");
        let root = format!("http://{}/", line());
        let locators =
            (0..BLOCKS).map(|_| format!("{}+{LEN}", line()).parse().expect("md5")).collect();
        Service { child, root, locators }
    }

    fn client(&self, disk: Option<&std::path::Path>) -> Arc<KeepClient> {
        let mut config = Config::default();
        config.cache.disk_dir = disk.map(std::path::Path::to_path_buf);
        config.cache.max_bytes = 4 << 30;
        let services = StaticServices::from_setting(&self.root).expect("a URL");
        KeepClient::new(config, Arc::new(services))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It serves until it is told to end.
        self.child.kill().and_then(|()| self.child.wait()).expect("our child");
    }
}

/// Seconds of the quickest of three runs, and the least processor time of this process and of
/// those that it waited for.
#[derive(Clone, Copy)]
struct Best {
    seconds: f64,
    processor: f64,
}

fn best(mut work: impl FnMut() -> Duration) -> Best {
    let mut best = Best { seconds: f64::MAX, processor: f64::MAX };
    for _ in 0..3 {
        let before = processor_time();
        best.seconds = best.seconds.min(work().as_secs_f64());
        best.processor = best.processor.min(processor_time() - before);
    }
    best
}

fn processor_time() -> f64 {
    let whose = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN];
    let used = whose.map(|whose| getrusage(whose).expect("ours"));
    let times = used.iter().flat_map(|used| [used.user_time(), used.system_time()]);
    times.map(|time| time.num_microseconds() as f64 / 1e6).sum()
}

fn row(what: &str, best: Best, bytes: f64) {
    let (wall, processor) = (bytes / best.seconds / 1e9, best.processor / bytes * 1e9);
    println!("{what:<56}{wall:>8.3} GB/s {processor:>8.3} processor s/GB");
}

fn curl(service: &Service) -> Duration {
    let start = Instant::now();
    let half = |locators: &[Locator]| {
        let one = |locator: &Locator| format!("curl -s {}{locator} | md5sum", service.root);
        let all = locators.iter().map(one).collect::<Vec<_>>().join("; ");
        Command::new("sh").args(["-c", &all]).stdout(Stdio::piped()).spawn().expect("sh")
    };
    let (a, b) = service.locators.split_at(BLOCKS / 2);
    for mut child in [half(a), half(b)] {
        let mut out = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut out).expect("utf-8");
        child.wait().expect("our child");
        assert_eq!(out.lines().count(), BLOCKS / 2);
    }
    start.elapsed()
}

/// All blocks in order, with so many asked for ahead.
fn fetch(client: &KeepClient, locators: &[Locator], ahead: usize) -> Duration {
    let start = Instant::now();
    for (number, locator) in locators.iter().enumerate() {
        for next in locators.iter().skip(number + 1).take(ahead) {
            client.prefetch(next);
        }
        let block = client.get_blocking(locator).expect("a good server");
        assert_eq!(block.len(), LEN);
    }
    start.elapsed()
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let data = block(0);
    let md5 = best(|| {
        let start = Instant::now();
        assert_ne!(Md5::of(&data), Md5::EMPTY);
        start.elapsed()
    });
    row("md5, one core", md5, LEN as f64);
    drop(data);

    let service = Service::start();
    let limit = best(|| curl(&service));
    row("limit: two parallel `curl | md5sum`", limit, TOTAL);
    for ahead in [0, 1, 4] {
        let seconds = best(|| fetch(&service.client(None), &service.locators, ahead));
        row(&format!("cold, memory cache, {ahead} ahead"), seconds, TOTAL);
    }
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-keep");
    let cold = best(|| {
        // It is not there the first time.
        let _ = std::fs::remove_dir_all(&dir);
        fetch(&service.client(Some(&dir)), &service.locators, 4)
    });
    row("cold, disk cache, 4 ahead", cold, TOTAL);
    let warm = best(|| fetch(&service.client(Some(&dir)), &service.locators, 4));
    row("found on disk by a new client, all verified, 4 ahead", warm, TOTAL);

    let client = service.client(Some(&dir));
    fetch(&client, &service.locators, 4);
    let held: Vec<_> =
        service.locators.iter().map(|locator| client.try_get(locator).expect("cached")).collect();
    for (what, in_memory) in [("memory", true), ("file", false)] {
        let Some(block) = held.iter().find(|block| block.as_slice().is_some() == in_memory) else {
            println!("no block in {what}");
            continue;
        };
        for size in [4 << 10, 128 << 10, 1 << 20] {
            let (mut scratch, mut into) = (Vec::new(), vec![0; size]);
            let seconds = best(|| {
                let start = Instant::now();
                for offset in (0..LEN).step_by(size) {
                    // What the reply costs besides is one copy from here.
                    let bytes = block.read_at(offset, size, &mut scratch).expect("unchanged");
                    into.copy_from_slice(bytes);
                }
                start.elapsed()
            });
            let each = seconds.seconds * 1e9 / (LEN / size) as f64;
            row(
                &format!("read_at and one copy, {what}, {} KiB ({each:.0} ns)", size >> 10),
                seconds,
                LEN as f64,
            );
        }
    }
    drop(held);

    let rounds = 1_000_000;
    for threads in [1, 4] {
        let seconds = best(|| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for locator in service.locators.iter().cycle().take(rounds) {
                            assert!(client.try_get(locator).is_some());
                        }
                    });
                }
            });
            start.elapsed()
        });
        let rate = (threads * rounds) as f64 / seconds.seconds / 1e6;
        println!("try_get, {threads} threads{rate:>53.1} million/s");
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let seconds = best(|| {
        let start = Instant::now();
        for locator in service.locators.iter().cycle().take(10_000) {
            let sender = sender.clone();
            let waiter = Box::new(move |outcome: Result<_, _>| {
                sender.send(outcome.is_ok()).expect("the bench waits");
            });
            client.get(locator, Priority::Demand, waiter);
            receiver.recv().expect("an answer");
        }
        start.elapsed()
    });
    println!("get of a block at hand{:>53.1} us", seconds.seconds * 1e6 / 10_000.0);
    client.shutdown();
    std::fs::remove_dir_all(&dir).expect("ours");
}
