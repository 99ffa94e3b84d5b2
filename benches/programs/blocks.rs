// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A Keep service for benchmarks: it has its blocks in memory, so that it is never what is measured.
//!
//!     bench-blocks DIR
//!
//! Serves the files of a folder, named by their md5, over HTTP on loopback, and prints the port. It
//! asks for no signature and checks no hash. A block that is put is received, counted and
//! forgotten. It ends when its standard input does.
//!
//! Under `/_control/`: POST `stall` (hashes, a line each) has those blocks wait, POST `clear`
//! lets them go, POST `keep` has it serve blocks that are put from now on, POST `forget` no longer,
//! POST `link` (seconds, and bytes a second) has each answer begin so much later, and each connection
//! carry no more, GET `stats` tells what was asked.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile64;

/// Of the longest request head that is understood, in bytes.
const MAX_HEAD: u64 = 64 << 10;

struct Block {
    /// A file in memory, opened anew for each request: each has a position of its own.
    path: String,
    size: u64,
    _memory: File,
}

impl Block {
    fn new(from: &mut impl Read) -> io::Result<Self> {
        let mut memory = File::from(memfd_create("block", MFdFlags::MFD_CLOEXEC)?);
        let size = io::copy(from, &mut memory)?;
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        Ok(Block { path, size, _memory: memory })
    }

    /// Has the kernel send all of it, without a copy in between.
    fn send(&self, to: &TcpStream, link: Option<Link>) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let (mut sent, began) = (0, Instant::now());
        while sent < self.size {
            let mut left = usize::try_from(self.size - sent).unwrap_or(usize::MAX);
            if let Some(link) = link {
                left = left.min(AT_ONCE);
                let due = Duration::from_secs_f64((sent as f64) / link.rate);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            match sendfile64(to, &file, None, left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => sent += more as u64,
            }
        }
        Ok(sent)
    }
}

/// As if the service were far away.
#[derive(Clone, Copy)]
struct Link {
    delay: Duration,
    /// Bytes a second, for each connection.
    rate: f64,
}

/// Bytes that are sent together over a link.
const AT_ONCE: usize = 256 << 10;

#[derive(Default)]
struct Store {
    blocks: HashMap<String, Block>,
    /// Blocks that were put while it is told to keep them.
    kept: Mutex<HashMap<String, Arc<Block>>>,
    keeps: AtomicBool,
    stalled: Mutex<HashSet<String>>,
    link: Mutex<Option<Link>>,
    cleared: Condvar,
    waiting: AtomicU64,
    gets: AtomicU64,
    bytes: AtomicU64,
    puts: AtomicU64,
    put_bytes: AtomicU64,
}

struct Head {
    method: String,
    path: String,
    length: u64,
    expects: bool,
    close: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("a folder of blocks is missing")?;
    let store = Arc::new(Store { blocks: load(&folder)?, ..Store::default() });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    for connection in listener.incoming() {
        let (store, connection) = (Arc::clone(&store), connection?);
        std::thread::spawn(move || {
            // A client that leaves is no concern of the others.
            let _ = store.serve(&connection);
        });
    }
    Ok(())
}

fn load(folder: &OsString) -> Result<HashMap<String, Block>, Box<dyn Error>> {
    let mut blocks = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|_| "a name that is not utf-8")?;
        let block = Block::new(&mut File::open(entry.path())?)?;
        blocks.insert(name, block);
    }
    Ok(blocks)
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut text = Vec::new();
    let mut limited = reader.take(MAX_HEAD);
    while limited.read_until(b'\n', &mut text)? > 0 && !text.ends_with(b"\r\n\r\n") {}
    if text.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    match request.parse(&text) {
        Ok(status) if status.is_complete() => {}
        _ => return Err(bad("not a request")),
    }
    let value = |name: &str| {
        let header = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        header.and_then(|h| std::str::from_utf8(h.value).ok())
    };
    Ok(Some(Head {
        method: request.method.unwrap_or_default().into(),
        path: request.path.unwrap_or_default().into(),
        length: value("content-length").map_or(Ok(0), str::parse).map_err(|_| bad("length"))?,
        expects: value("expect").is_some(),
        close: value("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")),
    }))
}

/// The link that is told of; none where that is nothing.
fn link(text: &str) -> Option<Link> {
    let (delay, rate) = text.split_once(' ')?;
    let delay = Duration::try_from_secs_f64(delay.parse().ok()?).ok()?;
    Some(Link { delay, rate: rate.parse().ok()? })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(mut to: &TcpStream, status: &str, headers: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

impl Store {
    fn serve(&self, connection: &TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, connection);
        while let Some(head) = read_head(&mut reader)? {
            if head.expects {
                (&*connection).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            match (head.method.as_str(), head.path.strip_prefix("/_control/")) {
                (_, Some(command)) => {
                    let mut body = String::new();
                    reader.by_ref().take(head.length).read_to_string(&mut body)?;
                    answer(connection, "200 OK", "", &self.control(command, &body))?;
                }
                ("PUT", None) => self.put(&head, &mut reader, connection)?,
                ("GET" | "HEAD", None) => self.get(&head, connection)?,
                _ => answer(connection, "405 Method Not Allowed", "", "")?,
            }
            if head.close {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, head: &Head, mut to: &TcpStream) -> io::Result<()> {
        let hash = head.path.trim_start_matches('/').split('+').next().unwrap_or_default();
        let kept = locked(&self.kept).get(hash).cloned();
        let Some(block) = kept.as_deref().or_else(|| self.blocks.get(hash)) else {
            return answer(to, "404 Not Found", "", "");
        };
        self.wait_while_stalled(hash);
        let link = *locked(&self.link);
        if let Some(link) = link {
            std::thread::sleep(link.delay);
        }
        self.gets.fetch_add(1, Relaxed);
        write!(
            to,
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            block.size
        )?;
        if head.method == "GET" {
            self.bytes.fetch_add(block.send(to, link)?, Relaxed);
        }
        Ok(())
    }

    fn put(&self, head: &Head, reader: &mut impl Read, to: &TcpStream) -> io::Result<()> {
        let hash = head.path.trim_start_matches('/').split('+').next().unwrap_or_default();
        let mut body = reader.take(head.length);
        let received = if self.keeps.load(Relaxed) {
            let block = Block::new(&mut body)?;
            let size = block.size;
            locked(&self.kept).insert(hash.to_owned(), Arc::new(block));
            size
        } else {
            io::copy(&mut body, &mut io::sink())?
        };
        self.puts.fetch_add(1, Relaxed);
        self.put_bytes.fetch_add(received, Relaxed);
        // In the form of a signature, so that clients take it for a locator that they may use.
        let locator = format!("{hash}+{received}+A{:040}@7fffffff", 0);
        let headers = format!(
            "X-Keep-Locator: {locator}\r\nX-Keep-Replicas-Stored: 2\r\nX-Keep-Storage-Classes-Confirmed: default=2\r\n"
        );
        answer(to, "200 OK", &headers, &format!("{locator}\n"))
    }

    fn wait_while_stalled(&self, hash: &str) {
        let mut stalled = locked(&self.stalled);
        if stalled.contains(hash) {
            self.waiting.fetch_add(1, Relaxed);
            while stalled.contains(hash) {
                stalled = self.cleared.wait(stalled).unwrap_or_else(PoisonError::into_inner);
            }
            self.waiting.fetch_sub(1, Relaxed);
        }
    }

    fn control(&self, command: &str, body: &str) -> String {
        let mut stalled = locked(&self.stalled);
        match command {
            "stall" => stalled.extend(body.lines().map(String::from)),
            "clear" => {
                stalled.clear();
                self.cleared.notify_all();
            }
            "link" => *locked(&self.link) = link(body),
            "keep" => self.keeps.store(true, Relaxed),
            "forget" => {
                self.keeps.store(false, Relaxed);
                locked(&self.kept).clear();
            }
            _ => {}
        }
        format!(
            r#"{{"waiting": {}, "gets": {}, "bytes": {}, "puts": {}, "put_bytes": {}}}"#,
            self.waiting.load(Relaxed),
            self.gets.load(Relaxed),
            self.bytes.load(Relaxed),
            self.puts.load(Relaxed),
            self.put_bytes.load(Relaxed),
        )
    }
}
