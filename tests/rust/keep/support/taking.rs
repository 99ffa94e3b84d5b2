// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How the service takes blocks, or does not.

use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arvados_fuse::types::Md5;
use parking_lot::Mutex;

use super::{Seen, Server, Shared};

/// What is done with a block that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It is stored: so many copies, and what is said of classes.
    Store(u32, Option<&'static str>),
    /// The same, without a word of copies or classes.
    Silently,
    /// Stored once, after so long.
    Slowly(Duration),
    /// Stored once; the first half is read at about so many bytes a second.
    Pace(usize),
    /// Answered with that status at once, and read on slowly.
    RefuseAndRead(u16),
    /// Taken, and answered with that status.
    Status(u16),
    /// Answered with that status before any of it is read.
    Refuse(u16),
    /// Taken; the answer is that instead of the locator.
    Answer(String),
    /// Taken, and never answered.
    Stall,
    /// Half of it is read, and the connection closed.
    CloseMid,
    /// Half of it is read, and the connection reset.
    ResetMid,
    /// Half of it is read, and nothing more.
    StallMid,
}

type Behaviour = Box<dyn Fn(&Seen, usize) -> Take + Send + Sync>;

pub(super) struct Takes {
    behaviour: Mutex<Behaviour>,
    busy: AtomicUsize,
    most: AtomicUsize,
    read_on: AtomicUsize,
}

impl Default for Takes {
    fn default() -> Self {
        let behaviour: Behaviour = Box::new(|_, _| Take::Store(1, Some("")));
        Takes {
            behaviour: Mutex::new(behaviour),
            busy: 0.into(),
            most: 0.into(),
            read_on: 0.into(),
        }
    }
}

impl Server {
    /// Takes every block by what `behaviour` says of the request and of how many came before.
    pub(crate) fn take(&self, behaviour: impl Fn(&Seen, usize) -> Take + Send + Sync + 'static) {
        *self.shared.taking.behaviour.lock() = Box::new(behaviour);
    }

    pub(crate) fn always_take(&self, take: Take) {
        self.take(move |_, _| take.clone());
    }

    /// What it has of a block.
    pub(crate) fn stored(&self, data: &[u8]) -> bool {
        let block = self.shared.blocks.lock().get(&Md5::of(data).to_string()).cloned();
        block.is_some_and(|block| **block == *data)
    }

    /// Bytes that it read of blocks that it had refused, once no more came.
    pub(crate) fn read_on(&self) -> usize {
        self.shared.taking.read_on.load(Ordering::Relaxed)
    }

    /// How many blocks it took at the same time, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.taking.most.load(Ordering::Relaxed)
    }
}

/// What a service answers that has stored a block.
pub(crate) fn signed(data: &[u8]) -> String {
    sign(&Md5::of(data).to_string(), data.len())
}

fn sign(hash: &str, size: usize) -> String {
    format!("{hash}+{size}+A{}@7fffffff", "0123456789".repeat(4))
}

impl Shared {
    /// Whether the connection stays open.
    pub(super) fn take(
        &self,
        reader: &mut impl BufRead,
        stream: &TcpStream,
        seen: &Seen,
        number: usize,
    ) -> std::io::Result<bool> {
        let busy = self.taking.busy.fetch_add(1, Ordering::AcqRel) + 1;
        self.taking.most.fetch_max(busy, Ordering::AcqRel);
        let take = (self.taking.behaviour.lock())(seen, number);
        let outcome = self.carry_out(&take, reader, stream, seen);
        self.taking.busy.fetch_sub(1, Ordering::AcqRel);
        outcome
    }

    fn carry_out(
        &self,
        take: &Take,
        reader: &mut impl BufRead,
        mut stream: &TcpStream,
        seen: &Seen,
    ) -> std::io::Result<bool> {
        let mut answer = |status: u16, headers: &str, body: &str| {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n{headers}\r\n");
            stream.write_all(format!("{head}{body}").as_bytes())
        };
        let Some(size) = seen.headers.get("content-length").and_then(|size| size.parse().ok())
        else {
            return answer(411, "", "no length").map(|()| false);
        };
        let part: usize = match take {
            Take::Refuse(status) => {
                answer(*status, "Connection: close\r\n", "no")?;
                // As Go's server: the answer is to arrive before the reset.
                stream.shutdown(std::net::Shutdown::Write)?;
                self.wait(Duration::from_millis(300));
                return Ok(false);
            }
            Take::RefuseAndRead(status) => {
                answer(*status, "", "no")?;
                let (mut read, mut piece) = (0, vec![0; 64 << 10]);
                while let Ok(more @ 1..) = reader.read(&mut piece) {
                    read += more;
                    self.wait(Duration::from_millis(5));
                }
                self.taking.read_on.fetch_add(read, Ordering::Relaxed);
                return Ok(false);
            }
            Take::CloseMid | Take::ResetMid | Take::StallMid => size / 2,
            _ => size,
        };
        let mut data = vec![0; part];
        match take {
            Take::Pace(speed) => {
                let (slow, fast) = data.split_at_mut(size / 2);
                for piece in slow.chunks_mut(speed / 100) {
                    reader.read_exact(piece)?;
                    self.wait(Duration::from_millis(10));
                }
                reader.read_exact(fast)?;
            }
            _ => reader.read_exact(&mut data)?,
        }
        let hash = Md5::of(&data).to_string();
        if part == size && seen.path != format!("/{hash}") {
            return answer(422, "", "not the block").map(|()| true);
        }
        let locator = sign(&hash, size);
        let stored = |copies: u32, classes: Option<&str>| {
            let confirmed = "X-Keep-Storage-Classes-Confirmed";
            let classes = classes.map(|said| format!("{confirmed}: {said}\r\n"));
            format!("X-Keep-Replicas-Stored: {copies}\r\n{}", classes.unwrap_or_default())
        };
        let headers = match take {
            Take::Store(copies, classes) => stored(*copies, *classes),
            Take::Silently => String::new(),
            Take::Slowly(long) => {
                self.wait(*long);
                stored(1, Some(""))
            }
            Take::Pace(_) => stored(1, Some("")),
            Take::Answer(text) => return answer(200, &stored(1, Some("")), text).map(|()| true),
            Take::Status(status) => return answer(*status, "", "no").map(|()| true),
            Take::Stall | Take::StallMid => {
                self.wait(Duration::MAX);
                return Ok(false);
            }
            Take::ResetMid => return self.reset(stream),
            Take::CloseMid | Take::Refuse(_) | Take::RefuseAndRead(_) => return Ok(false),
        };
        self.blocks.lock().insert(hash, Arc::new(data));
        answer(200, &headers, &format!("{locator}\n")).map(|()| true)
    }
}
