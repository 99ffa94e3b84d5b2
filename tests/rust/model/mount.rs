// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! A file system under test: its layer above, and requests to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

use arvados_fuse::fs::cache::InodeCache;
use arvados_fuse::fs::operations::Utf8;
use arvados_fuse::fs::{Attr, Caller, Errno, Fh, FileSystem, Ino, Read, SinkFull};

use super::blocks::Version;
use super::memory::MemoryNode;
use super::world::{Above, Served, Table, World};

pub(crate) const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };

/// An entry of a listing: name, attributes, and where the listing goes on.
pub(crate) type Listed = (String, Attr, u64);

/// A file system whose root is a directory of the layer above.
pub(crate) struct Mount {
    pub world: Arc<World>,
    pub table: Arc<Table>,
    pub served: Arc<Served>,
    pub root: MemoryNode,
}

impl Mount {
    /// An empty root, over `collections` that exist elsewhere.
    pub(crate) fn new(collections: Vec<Version>) -> Self {
        let world = Arc::new(World::default());
        *world.truth.lock() = collections;
        let cache = Arc::new(InodeCache::new(1 << 30, 0));
        let table: Arc<Table> = Table::new(cache, Arc::new(Above(Arc::clone(&world))));
        let _ = world.table.set(Arc::downgrade(&table));
        let root = MemoryNode::directory(&world, 0, false);
        root.0.state.set_parent(Some(Ino::ROOT.0));
        table.add(&super::world::Entry::Host(root.clone())).expect("a root");
        let served = Arc::new(Served::new(Arc::clone(&table), Box::new(Utf8)));
        let _ = world.served.set(Arc::downgrade(&served));
        served.enable_write.store(true, SeqCst);
        Mount { world, table, served, root }
    }

    /// Runs a request as a worker does.
    pub(crate) fn ask<T>(&self, request: impl FnOnce(&dyn FileSystem) -> T) -> T {
        self.world.request(|| request(&*self.served))
    }

    /// Does, in this thread, what the removal thread would, unless that runs.
    pub(crate) fn drain(&self) {
        self.table.wait_removal();
    }

    pub(crate) fn lookup(&self, parent: u64, name: &str) -> Result<Attr, Errno> {
        self.ask(|fs| fs.lookup(&CALLER, Ino(parent), name.as_bytes()))
    }

    /// Looks up one name after the other, from the root on; answers the last one's number.
    pub(crate) fn walk(&self, path: &str) -> u64 {
        path.split('/').fold(Ino::ROOT.0, |at, name| self.lookup(at, name).expect(path).ino.0)
    }

    pub(crate) fn forget(&self, ino: u64, count: u64) {
        self.ask(|fs| fs.forget(&[(Ino(ino), count)]));
    }

    pub(crate) fn open(&self, ino: u64) -> Result<Fh, Errno> {
        self.ask(|fs| fs.open(&CALLER, Ino(ino), libc::O_RDONLY)).map(|opened| opened.fh)
    }

    pub(crate) fn opendir(&self, ino: u64) -> Result<Fh, Errno> {
        self.ask(|fs| fs.opendir(&CALLER, Ino(ino))).map(|opened| opened.fh)
    }

    /// Reads, and waits for the answer.
    pub(crate) fn read(&self, fh: Fh, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let start = match self.ask(|fs| fs.read(Ino(0), fh, offset, size))? {
            Read::Now(data) => return Ok(data.bytes().to_vec()),
            Read::Later(start) => start,
        };
        let (answer, answered) = mpsc::sync_channel(1);
        start(Box::new(move |result| {
            let _ = answer.send(result.map(|data| data.bytes().to_vec()));
        }));
        // Once one was not answered, others need not be waited for as long while that shrinks.
        static LATE: AtomicBool = AtomicBool::new(false);
        let patience = if LATE.load(SeqCst) { 1 } else { 60 };
        answered.recv_timeout(Duration::from_secs(patience)).unwrap_or_else(|_| {
            LATE.store(true, SeqCst);
            panic!("a read is never answered")
        })
    }

    /// Lists up to `room` entries from `offset` on: what was taken, and how it ended.
    pub(crate) fn list(
        &self,
        fh: Fh,
        offset: u64,
        plus: bool,
        room: usize,
    ) -> (Vec<Listed>, Result<(), Errno>) {
        let mut taken = Vec::new();
        let mut sink = |name: &[u8], attr: &Attr, next: u64| {
            if taken.len() == room {
                return Err(SinkFull);
            }
            let name = String::from_utf8(name.to_vec()).expect("names are text");
            taken.push((name, attr.clone(), next));
            Ok(())
        };
        let ended = self.ask(|fs| {
            if plus {
                fs.readdirplus(Ino(0), fh, offset, &mut sink)
            } else {
                fs.readdir(Ino(0), fh, offset, &mut sink)
            }
        });
        (taken, ended)
    }

    pub(crate) fn release(&self, fh: Fh) -> Result<(), Errno> {
        self.ask(|fs| fs.release(Ino(0), fh))
    }
}
