// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Notifications to the kernel, sent by a thread of their own.
//!
//! Callers only queue. The kernel may hold the lock of the directory that a notification is about
//! for as long as a request about it is under way, so a handler that waited for one would wait
//! for itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use pyo3::prelude::*;

use super::fork_safe::{Condvar, Mutex};
use crate::fs::{Errno, Ino, KernelNotifier};

#[derive(Debug, PartialEq, Eq)]
enum Notification {
    Inode(Ino, bool),
    Entry(Ino, Vec<u8>),
    /// A name to ask for again; whether it may be dropped where the kernel cannot do that.
    Expired(Ino, Vec<u8>, bool),
    /// Inodes to give back; where the kernel cannot do that, the name to drop.
    Pruned(Vec<Ino>, Option<(Ino, Vec<u8>)>),
    Store(Ino, u64, Vec<u8>),
}

struct Queue {
    waiting: VecDeque<Notification>,
    /// An inode whose pages are being dropped.
    dropping: Option<Ino>,
    sending: bool,
    running: bool,
}

static QUEUE: Mutex<Queue> =
    Mutex::new(Queue { waiting: VecDeque::new(), dropping: None, sending: false, running: false });
static CHANGED: Condvar = Condvar::new();

fn push(notification: Notification) {
    let mut queue = QUEUE.lock();
    if queue.waiting.back() != Some(&notification) {
        queue.waiting.push_back(notification);
        CHANGED.notify_all();
    }
}

/// Has the kernel drop what it cached of an inode: its attributes and, unless `attr_only`, pages.
pub fn invalidate_inode(ino: Ino, attr_only: bool) {
    push(Notification::Inode(ino, attr_only));
}

/// Whether the kernel is yet to be told to drop the pages of an inode.
pub fn is_invalidating(ino: Ino) -> bool {
    let queue = QUEUE.lock();
    queue.dropping == Some(ino) || queue.waiting.contains(&Notification::Inode(ino, false))
}

/// Has the kernel forget what a name in a directory leads to.
pub fn invalidate_entry(parent: Ino, name: &[u8]) {
    push(Notification::Entry(parent, name.to_vec()));
}

/// Has the kernel look a name up again when it is next used. What uses it stays, where the name still
/// leads to the same inode. A kernel older than 6.2 drops the name, if it `may_drop` it.
pub fn expire_entry(parent: Ino, name: &[u8], may_drop: bool) {
    push(Notification::Expired(parent, name.to_vec(), may_drop));
}

/// Has the kernel give back inodes, as far as nothing uses them: first what is in a directory, then
/// the directory. A kernel older than 6.18 drops the name `otherwise`, used or not, and what is below.
pub fn prune(inos: Vec<Ino>, otherwise: Option<(Ino, Vec<u8>)>) {
    if !inos.is_empty() {
        push(Notification::Pruned(inos, otherwise));
    }
}

/// Waits until every notification queued until now was sent. Returns at once where no mount runs.
pub fn wait_drained(py: Python<'_>) {
    py.detach(|| {
        let mut queue = QUEUE.lock();
        while queue.running && (queue.sending || !queue.waiting.is_empty()) {
            CHANGED.wait(&mut queue);
        }
    });
}

fn send(notifier: &dyn KernelNotifier, notification: &Notification) {
    let cannot = Err(Errno::ENOSYS);
    let sent = match notification {
        Notification::Expired(parent, name, may_drop) => {
            match notifier.expire_entry(*parent, name) {
                sent if sent == cannot && *may_drop => notifier.invalidate_entry(*parent, name),
                sent => sent,
            }
        }
        Notification::Pruned(inos, otherwise) => match (notifier.prune(inos), otherwise) {
            (sent, Some((parent, name))) if sent == cannot => {
                notifier.invalidate_entry(*parent, name)
            }
            (sent, _) => sent,
        },
        Notification::Inode(ino, attr_only) => notifier.invalidate_inode(*ino, *attr_only),
        Notification::Entry(parent, name) => notifier.invalidate_entry(*parent, name),
        Notification::Store(ino, offset, data) => notifier.store(*ino, *offset, data),
    };
    if let Err(errno) = sent
        && errno != Errno::ENOSYS
    {
        log::debug!("the kernel refused a notification: {errno}");
    }
}

fn run(notifier: &dyn KernelNotifier) {
    loop {
        let notification = {
            let mut queue = QUEUE.lock();
            (queue.sending, queue.dropping) = (false, None);
            CHANGED.notify_all();
            loop {
                if !queue.running {
                    queue.waiting.clear();
                    return;
                }
                if let Some(next) = queue.waiting.pop_front() {
                    queue.sending = true;
                    if let Notification::Inode(ino, false) = next {
                        queue.dropping = Some(ino);
                    }
                    break next;
                }
                CHANGED.wait(&mut queue);
            }
        };
        send(notifier, &notification);
    }
}

/// The thread that sends, for as long as a mount is served.
pub struct Sender(Option<JoinHandle<()>>);

impl Sender {
    /// Starts the thread; what was queued before is sent first.
    ///
    /// # Errors
    /// Where the system refuses another thread.
    pub fn start(notifier: Arc<dyn KernelNotifier>) -> std::io::Result<Self> {
        QUEUE.lock().running = true;
        let thread = std::thread::Builder::new()
            .name("fuse-notify".into())
            .spawn(move || run(&*notifier))?;
        Ok(Sender(Some(thread)))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        QUEUE.lock().running = false;
        CHANGED.notify_all();
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// Has the kernel drop what it cached of inode `inode`: attributes and, unless `attr_only`, data.
/// Queued; returns at once.
#[pyfunction]
#[pyo3(name = "invalidate_inode", signature = (inode, attr_only=false))]
pub fn invalidate_inode_py(inode: u64, attr_only: bool) {
    invalidate_inode(Ino(inode), attr_only);
}

/// Has the kernel forget what `name` (bytes) in directory `inode_p` leads to. Queued; returns at
/// once.
#[pyfunction]
#[pyo3(name = "invalidate_entry")]
pub fn invalidate_entry_py(inode_p: u64, name: &[u8]) {
    invalidate_entry(Ino(inode_p), name);
}

/// Puts `data` (bytes) into the kernel's cache of inode `inode`, from `offset` bytes on. Queued;
/// returns at once.
#[pyfunction]
#[pyo3(name = "notify_store")]
pub fn notify_store_py(inode: u64, offset: u64, data: &[u8]) {
    push(Notification::Store(Ino(inode), offset, data.to_vec()));
}
