// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What is outside of the file system: upcalls, newer versions of collections, the clock, and what the
//! kernel was told.
//!
//! Lock order: the lock of the layer above, then that of changes. Both are taken before anything in
//! the file system is asked, never within it: an upcall that finds a lock of the file system held stands
//! still, and is found by that.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use arvados_fuse::collection::NodeId;
use arvados_fuse::fs::any_node::AnyNode;
use arvados_fuse::fs::handles::Handle;
use arvados_fuse::fs::inodes::{Inodes, Upcalls};
use arvados_fuse::fs::node::{Identity, Outcome};
use arvados_fuse::fs::operations::Operations;
use arvados_fuse::fs::{Errno, Fh, Halt, Ino, Timestamp};
use parking_lot::{Condvar, Mutex};

use super::blocks::{Content, Version};
use super::directory::{MemoryHost, Mounted};
use super::memory::MemoryNode;

/// An entry of the file systems under test.
pub(crate) type Entry = AnyNode<MemoryHost>;
/// The inode table under test.
pub(crate) type Table = Inodes<Entry>;
/// The file system under test.
pub(crate) type Served = Operations<Entry>;

/// A lock that its thread may take again, and that is released without a guard.
#[derive(Default)]
pub(crate) struct Reentrant {
    owner: Mutex<Option<(ThreadId, u32)>>,
    free: Condvar,
}

impl Reentrant {
    pub(crate) fn lock(&self) {
        let me = std::thread::current().id();
        let mut owner = self.owner.lock();
        loop {
            match &mut *owner {
                Some((who, depth)) if *who == me => {
                    *depth += 1;
                    return;
                }
                Some(_) => {
                    let late = self.free.wait_for(&mut owner, Duration::from_secs(120));
                    assert!(!late.timed_out(), "a lock of the layer above is never released");
                }
                None => {
                    *owner = Some((me, 1));
                    return;
                }
            }
        }
    }

    pub(crate) fn unlock(&self) {
        let mut owner = self.owner.lock();
        match &mut *owner {
            Some((_, depth)) if *depth > 1 => *depth -= 1,
            _ => {
                *owner = None;
                self.free.notify_one();
            }
        }
    }

    pub(crate) fn is_mine(&self) -> bool {
        matches!(&*self.owner.lock(), Some((who, _)) if *who == std::thread::current().id())
    }
}

/// Something that the layer above did, in the order in which it did so.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The collection of that directory was loaded.
    Loaded { dir: u64, version: Version },
    /// It shows another version. What was made for that, by path, where it has objects of its own.
    Followed { dir: u64, version: Version, made: Vec<(String, u64)> },
    /// Objects superseded it, by path.
    TakenOver { dir: u64, made: Vec<(String, u64)> },
    /// The contents of a directory were dropped.
    Cleared { dir: u64 },
}

/// What the kernel was told to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Inode(u64),
    Name(u64, String),
}

/// How entries of the layer above are answered for.
#[derive(Default)]
pub(crate) struct Hook {
    /// Every method is an upcall: it takes the lock of the layer above until the request ends.
    pub enabled: AtomicBool,
    /// Upcalls call back into the inode table.
    pub probing: AtomicBool,
    /// Upcalls so far.
    pub calls: AtomicU64,
    /// The number of the upcall that fails; 0: none.
    pub fail_at: AtomicU64,
    failed: Mutex<Option<&'static str>>,
    /// Done at the next call of that name, by whatever hand that is.
    meanwhile: Mutex<Option<Meanwhile>>,
}

type Meanwhile = (&'static str, Box<dyn FnOnce() + Send>);

thread_local! {
    /// This thread is in an upcall that calls back.
    static PROBING: Cell<bool> = const { Cell::new(false) };
    /// This thread took the lock of the layer above for the request that it answers.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct World {
    pub table: OnceLock<Weak<Table>>,
    pub served: OnceLock<Weak<Served>>,
    pub hook: Hook,
    /// The lock of the layer above.
    pub above: Reentrant,
    /// Held while anything in the layer above changes.
    pub changing: Reentrant,
    /// The newest version of each collection.
    pub truth: Mutex<Vec<Version>>,
    pub events: Mutex<Vec<Event>>,
    pub notices: Mutex<Vec<Notice>>,
    pub reports: Mutex<Vec<String>>,
    /// Every collection that was ever mounted.
    pub mounted: Mutex<Vec<Weak<Mounted>>>,
    clock: AtomicI64,
    keys: AtomicU64,
}

impl World {
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.get().and_then(Weak::upgrade).expect("the table lives as long as its entries")
    }

    /// A number for an entry of the layer above.
    pub(crate) fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, SeqCst) + 1
    }

    /// The time; it goes on with each look.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(i128::from(self.clock.fetch_add(1, SeqCst)) * 1_000_000)
    }

    pub(crate) fn tell(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// An entry of the layer above is asked `what`.
    pub(crate) fn upcall(self: &Arc<Self>, what: &'static str) -> Outcome<()> {
        let meanwhile = {
            let mut meanwhile = self.hook.meanwhile.lock();
            meanwhile.take_if(|(call, _)| *call == what)
        };
        if let Some((_, act)) = meanwhile {
            act();
        }
        if !self.hook.enabled.load(SeqCst) || PROBING.get() {
            return Ok(());
        }
        if !self.above.is_mine() {
            self.above.lock();
            ENTERED.set(true);
        }
        if self.hook.probing.load(SeqCst) {
            PROBING.set(true);
            self.probe();
            PROBING.set(false);
        }
        let call = self.hook.calls.fetch_add(1, SeqCst) + 1;
        if call == self.hook.fail_at.load(SeqCst) {
            *self.hook.failed.lock() = Some(what);
            return Err(Halt::Upcall(Box::new(what)));
        }
        Ok(())
    }

    /// Does what the layer above may do at any time, and what takes every lock of the file system for
    /// writing: where one is held, this stands still.
    fn probe(self: &Arc<Self>) {
        let table = self.table();
        for ino in table.numbers() {
            let _ = table.get(ino);
        }
        let first = table.reserve(1);
        table.add_range(first, 1, Arc::new(Nothing(first)));
        table.drop_deserted(first);
        // Not in an eviction, which would go on for as long as there is an addition in it.
        if !table.cache().over_cap() {
            let node = Entry::Host(MemoryNode::file(self, Content::default(), 0, false));
            table.add(&node).expect("no upcall fails within another");
            table.touch(&node).expect("nor here");
            node.set_parent_inode(None).expect("nor here");
            table.remove(&node).expect("nor here");
        }
        for mounted in self.mounted.lock().iter().filter_map(Weak::upgrade) {
            let snapshot = mounted.snapshot();
            if snapshot.tree().len() > 1 {
                // It is in its collection: there is no orphan of that number to be forgotten.
                mounted.entry_of(&snapshot, NodeId(1)).forget();
            }
        }
        if let Some(served) = self.served.get().and_then(Weak::upgrade) {
            let fh = Fh(u64::MAX >> 1);
            let root = table.get(Ino::ROOT.0).expect("the root");
            let handle = Handle::file(root, None, false, None);
            served.handles.insert(fh, handle);
            served.handles.forget(fh);
        }
    }

    /// Runs one request, at the end of which the lock of the layer above is released.
    pub(crate) fn request<T>(&self, body: impl FnOnce() -> T) -> T {
        let result = body();
        if ENTERED.take() {
            self.above.unlock();
        }
        result
    }

    /// Changes something in the layer above, which nobody else changes meanwhile.
    pub(crate) fn change<T>(&self, body: impl FnOnce() -> T) -> T {
        let above = self.hook.enabled.load(SeqCst);
        if above {
            self.above.lock();
        }
        self.changing.lock();
        let result = body();
        self.changing.unlock();
        if above {
            self.above.unlock();
        }
        result
    }

    /// When an entry of the layer above is asked `what` next, `act` is done first.
    pub(crate) fn meanwhile(&self, what: &'static str, act: impl FnOnce() + Send + 'static) {
        *self.hook.meanwhile.lock() = Some((what, Box::new(act)));
    }

    /// From now on upcall number `at` fails. Answers how many there were until now.
    pub(crate) fn fail_at(&self, at: u64) -> u64 {
        let calls = self.hook.calls.swap(0, SeqCst);
        *self.hook.failed.lock() = None;
        self.hook.fail_at.store(at, SeqCst);
        calls
    }

    /// What failed, if anything did since [`World::fail_at`].
    pub(crate) fn failed(&self) -> Option<&'static str> {
        *self.hook.failed.lock()
    }
}

/// Answers for nothing.
struct Nothing(u64);

impl arvados_fuse::fs::inodes::RangeOwner<Entry> for Nothing {
    fn entry(&self, _ino: u64) -> Option<Entry> {
        None
    }
    fn is_deserted(&self) -> bool {
        true
    }
    fn ranges(&self) -> Vec<u64> {
        vec![self.0]
    }
}

/// What the inode table asks of the world.
pub(crate) struct Above(pub Arc<World>);

impl Upcalls for Above {
    fn run(&self, body: &mut dyn FnMut()) {
        if self.0.hook.enabled.load(SeqCst) {
            self.0.above.lock();
            body();
            self.0.above.unlock();
        } else {
            body();
        }
    }

    fn invalidate_inode(&self, ino: Ino) {
        self.0.notices.lock().push(Notice::Inode(ino.0));
    }

    // It asks again when the name is next used.
    fn expire_entry(&self, parent: Ino, name: &[u8]) {
        self.invalidate_entry(parent, name);
    }

    // Which inodes nothing uses, the generated requests say.
    fn prune(&self, _inos: Vec<Ino>) {}

    fn invalidate_entry(&self, parent: Ino, name: &[u8]) {
        let name = String::from_utf8(name.to_vec()).expect("names are text");
        self.0.notices.lock().push(Notice::Name(parent.0, name));
    }

    fn errno_of(&self, halt: Halt) -> Errno {
        match halt {
            Halt::Errno(errno) => errno,
            Halt::Upcall(_) => Errno::EIO,
        }
    }

    fn report(&self, what: &str, halt: Halt) {
        self.0.reports.lock().push(format!("{what}: {halt:?}"));
    }
}
