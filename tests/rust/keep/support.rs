// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A Keep service that can be told to misbehave, and what tests of the client share.

// Each test binary uses its part.
#![allow(dead_code)]

#[path = "support/taking.rs"]
pub(crate) mod taking;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arvados_fuse::keep::{Config, KeepClient, Service, Services, StaticServices, Timeouts};
use arvados_fuse::types::{Locator, Md5};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::{Condvar, Mutex};

/// How a server answers one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The right bytes, ended by the end of the connection instead of a length.
    NoLength,
    Status(u16),
    /// One bit differs.
    WrongBytes,
    /// Another length, announced as such.
    Shorter,
    Longer,
    /// More bytes than the block has, without a length.
    EndlessBody,
    /// Ends, without a length, before the block does.
    EndsEarly,
    /// Closed in mid body.
    CloseMid,
    /// Reset in mid body.
    ResetMid,
    /// Reset instead of an answer.
    Reset,
    /// No answer at all.
    Stall,
    /// Nothing more in mid body.
    StallMid,
    /// A few bytes now and then, for ever.
    Trickle,
    /// Not HTTP.
    Garbage,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

type Behaviour = Box<dyn Fn(&Seen, usize) -> Fault + Send + Sync>;

struct Shared {
    blocks: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    behaviour: Mutex<Behaviour>,
    taking: taking::Takes,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    stopped: Mutex<bool>,
    stop: Condvar,
    open: Mutex<Vec<TcpStream>>,
}

/// A service on loopback.
pub(crate) struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            blocks: Mutex::default(),
            behaviour: Mutex::new(Box::new(|_, _| Fault::None)),
            taking: taking::Takes::default(),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
            open: Mutex::default(),
        });
        let threads = Arc::new(Mutex::new(Vec::new()));
        let (for_all, serving) = (shared.clone(), threads.clone());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if *for_all.stopped.lock() {
                    return;
                }
                for_all.connections.fetch_add(1, Ordering::Relaxed);
                for_all.open.lock().push(stream.try_clone().expect("a descriptor"));
                let shared = for_all.clone();
                serving.lock().push(std::thread::spawn(move || shared.serve(stream)));
            }
        });
        Server { address, shared, threads, accepting: Some(accepting) }
    }

    pub(crate) fn root(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn add(&self, data: &Arc<Vec<u8>>) {
        self.shared.blocks.lock().insert(Md5::of(data).to_string(), data.clone());
    }

    /// What it has under that hash.
    pub(crate) fn block(&self, md5: Md5) -> Option<Arc<Vec<u8>>> {
        self.shared.blocks.lock().get(&md5.to_string()).cloned()
    }

    /// Answers every request by what `behaviour` says of it and of how many came before.
    pub(crate) fn behave(&self, behaviour: impl Fn(&Seen, usize) -> Fault + Send + Sync + 'static) {
        *self.shared.behaviour.lock() = Box::new(behaviour);
    }

    pub(crate) fn always(&self, fault: Fault) {
        self.behave(move |_, _| fault);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.shared.stopped.lock() = true;
        self.shared.stop.notify_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().expect("the server's thread");
        }
        for stream in self.shared.open.lock().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.lock().drain(..) {
            thread.join().expect("a connection's thread");
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        while let Some(seen) = read_request(&mut reader) {
            let number = {
                let mut all = self.seen.lock();
                all.push(seen.clone());
                all.len() - 1
            };
            if seen.method == "PUT" {
                match self.take(&mut reader, &stream, &seen, number) {
                    Ok(true) => continue,
                    _ => break,
                }
            }
            let fault = (self.behaviour.lock())(&seen, number);
            let hash =
                seen.path.trim_start_matches('/').split('+').next().unwrap_or("").to_string();
            let block = self.blocks.lock().get(&hash).cloned();
            match self.answer(&stream, fault, block) {
                Ok(true) => {}
                _ => break,
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    /// Whether the connection stays open.
    fn answer(
        &self,
        mut stream: &TcpStream,
        fault: Fault,
        block: Option<Arc<Vec<u8>>>,
    ) -> std::io::Result<bool> {
        let (fault, block) = match (fault, block) {
            (Fault::None, None) => (Fault::Status(404), Arc::default()),
            (fault, block) => (fault, block.unwrap_or_default()),
        };
        let half = &block[..block.len() / 2];
        let length = |n: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n");
        let endless = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        let mut send = |head: &str, body: &[u8]| {
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body))
        };
        match fault {
            Fault::None => send(&length(block.len()), &block).map(|()| true),
            Fault::NoLength => send(endless, &block).map(|()| false),
            Fault::Status(status) => {
                let body = "no";
                let head = format!("HTTP/1.1 {status} Told so\r\nContent-Length: 2\r\n\r\n");
                send(&head, body.as_bytes()).map(|()| true)
            }
            Fault::WrongBytes => {
                let mut wrong = block.to_vec();
                let at = wrong.len() / 3;
                wrong[at] ^= 1;
                send(&length(wrong.len()), &wrong).map(|()| true)
            }
            Fault::Shorter => send(&length(half.len()), half).map(|()| true),
            Fault::Longer => {
                send(&length(block.len() + 1), &block)?;
                send("", b"x").map(|()| true)
            }
            Fault::EndlessBody => {
                send(endless, &block)?;
                while !*self.stopped.lock() {
                    send("", &[0; 8192])?;
                }
                Ok(false)
            }
            Fault::EndsEarly => send(endless, half).map(|()| false),
            Fault::CloseMid => send(&length(block.len()), half).map(|()| false),
            Fault::ResetMid | Fault::Reset => {
                if fault == Fault::ResetMid {
                    send(&length(block.len()), half)?;
                }
                self.reset(stream)
            }
            Fault::Stall => {
                self.wait(Duration::MAX);
                Ok(false)
            }
            Fault::StallMid => {
                send(&length(block.len()), half)?;
                self.wait(Duration::MAX);
                Ok(false)
            }
            Fault::Trickle => {
                send(&length(block.len()), &[])?;
                for byte in block.iter() {
                    send("", &[*byte])?;
                    if self.wait(Duration::from_millis(20)) {
                        break;
                    }
                }
                Ok(false)
            }
            Fault::Garbage => send("EHLO keep\r\n\r\n", &[]).map(|()| false),
        }
    }

    /// Has the connection end with a reset.
    fn reset(&self, stream: &TcpStream) -> std::io::Result<bool> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &linger)?;
        self.open.lock().retain(|open| open.peer_addr().ok() != stream.peer_addr().ok());
        Ok(false)
    }

    /// Waits that long or until the server is stopped, which it tells.
    fn wait(&self, long: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        let end = Instant::now().checked_add(long);
        while !*stopped {
            match end {
                None => self.stop.wait(&mut stopped),
                Some(end) if self.stop.wait_until(&mut stopped, end).timed_out() => break,
                Some(_) => {}
            }
        }
        *stopped
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ').map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_string()),
            None => return Some(Seen { method, path, headers }),
        };
    }
}

/// A disk service of that number at that root.
pub(crate) fn service(number: usize, root: String) -> Service {
    let mut service = Service::from_record("", "unused", 1, false, "disk", false);
    service.uuid = format!("zzzzz-bi6l4-{number:015}");
    service.root = root;
    service
}

/// A list of services for these servers.
pub(crate) fn services(servers: &[Server]) -> Arc<dyn Services> {
    let list = servers.iter().enumerate().map(|(number, server)| service(number, server.root()));
    Arc::new(StaticServices::new(list.collect()))
}

/// Two servers that have these blocks.
pub(crate) fn replicas(data: &Arc<Vec<u8>>) -> [Server; 2] {
    let pair = [Server::start(), Server::start()];
    pair.iter().for_each(|server| server.add(data));
    pair
}

/// The list of services by which these servers are asked for a block in this order.
pub(crate) fn ordered(data: &[u8], servers: &[Server]) -> Arc<dyn Services> {
    // The heaviest UUID goes to the first server.
    let hash = Md5::of(data).to_string();
    let mut weighed: Vec<_> = (0..servers.len())
        .map(|number| (Md5::of(format!("{hash}{number:015}").as_bytes()), number))
        .collect();
    weighed.sort();
    let numbers = weighed.iter().rev().map(|(_, number)| *number);
    let list = numbers.zip(servers).map(|(number, server)| service(number, server.root()));
    Arc::new(StaticServices::new(list.collect()))
}

/// Settings that fail fast.
pub(crate) fn quick() -> Config {
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        read: Duration::from_millis(300),
        min_bandwidth: 32_768,
    };
    Config {
        token: "the-secret-token".into(),
        num_retries: 2,
        timeouts,
        proxy_timeouts: timeouts,
        backoff: Duration::from_millis(20),
        max_backoff: Duration::from_millis(50),
        deadline: Duration::from_secs(20),
        ..Config::default()
    }
}

/// Bytes that look random and differ by seed.
pub(crate) fn data(seed: u64, len: usize) -> Arc<Vec<u8>> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    Arc::new(bytes)
}

pub(crate) fn locator(data: &[u8]) -> Locator {
    format!("{}+{}", Md5::of(data), data.len()).parse().expect("a locator")
}

/// A folder under target/tmp, removed at the end.
pub(crate) struct Scratch(pub PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("keep-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("target is writable");
        Scratch(dir)
    }

    /// Where the cache puts a block.
    pub(crate) fn file(&self, data: &[u8]) -> PathBuf {
        let hash = Md5::of(data).to_string();
        self.0.join(&hash[..3]).join(format!("{hash}.keepcacheblock"))
    }

    fn files(&self) -> impl Iterator<Item = std::fs::DirEntry> {
        let folders = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten()).flatten()
    }

    /// Bytes of all cache files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// How many files are being written, or were left behind.
    pub(crate) fn unfinished(&self) -> usize {
        let temporary = |name: &str| name.starts_with("tmp") && name.ends_with(".keepcacheblock");
        self.files().filter(|file| file.file_name().to_str().is_some_and(temporary)).count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings with a disk cache: large blocks are those of more than 150,000 bytes.
pub(crate) fn cached(dir: &Scratch) -> Config {
    let mut config = quick();
    config.cache.disk_dir = Some(dir.0.clone());
    config.cache.max_bytes = 1 << 30;
    config.cache.write_behind_bytes = 150_000;
    config
}

/// Waits until something is so; fails the test after ten seconds.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A block through the client as a mount reads it: again if a cached file turned out changed.
pub(crate) fn read_all(client: &KeepClient, locator: &Locator) -> Vec<u8> {
    for _ in 0..5 {
        let block = client.get_blocking(locator).unwrap_or_else(|error| panic!("{error}"));
        if let Ok(bytes) = block.to_vec() {
            return bytes;
        }
    }
    panic!("{locator} is stale again and again");
}
