// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The threads that check blocks.
//!
//! A body is hashed while it arrives, by a small pool of threads of its own: never on a reader's
//! thread and never on one that serves sockets. The bytes of one block are hashed in order, by
//! one thread at a time. A thread takes several blocks at once where the processor can hash them in
//! the lanes of one register: eight of them then cost little more than one. So it waits until all
//! that arrive have something to hash, unless one of them is held up.
//!
//! The threads wait by the standard library's lock and condition, not `parking_lot`'s: that has one table
//! for the process of who waits, on the waiters' stacks. In a child that is forked while they wait, new
//! threads get those stacks, and the table is spoiled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use md5_lanes::{Running, advance_together};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, oneshot};

use crate::types::Md5;

/// Bytes of a block that are hashed before it is looked for others to hash with it; and how long
/// a shutdown waits at most.
const STRETCH: usize = 256 << 10;

/// Pieces of as many bytes are hashed where they are.
const LONG: usize = 32 << 10;

/// How many pieces may wait to be hashed before the sender of a body is made to wait.
const PIECES_AHEAD: usize = 8;

/// Threads that hash.
pub(super) struct HashPool {
    shared: Arc<PoolShared>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolShared {
    queue: std::sync::Mutex<Queue>,
    ready: Condvar,
    /// Blocks that one thread hashes together.
    lanes: usize,
    /// Blocks whose bytes are arriving.
    arriving: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    /// Blocks with something to hash that no thread has in its hands.
    waiting: VecDeque<Arc<PartialBlock>>,
    /// Threads that hash some.
    active: usize,
    stop: bool,
}

impl HashPool {
    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> std::io::Result<Self> {
        let shared = Arc::new(PoolShared {
            queue: std::sync::Mutex::default(),
            ready: Condvar::new(),
            lanes: md5_lanes::lanes(),
            arriving: AtomicUsize::new(0),
        });
        let mut pool = HashPool { shared, threads: Vec::new() };
        for _ in 0..count {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name("keep-md5".into());
            pool.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// A handle that tasks may keep: it does not keep the threads alive.
    pub(super) fn handle(&self) -> HashHandle {
        HashHandle(self.shared.clone())
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.stop = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(waiting);
        self.shared.ready.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was logged by the panic hook already; nothing is left to undo.
            let _ = thread.join();
        }
    }
}

impl PoolShared {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        // Nothing panics while it is held; it would be whole if something did.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut group: Vec<Arc<PartialBlock>> = Vec::new();
        let mut queue = self.queue();
        while !queue.stop {
            if !self.is_time(&queue) {
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let count = self.lanes.min(queue.waiting.len());
            group.extend(queue.waiting.drain(..count));
            queue.active += 1;
            if self.is_time(&queue) {
                self.ready.notify_one();
            }
            drop(queue);
            hash_some(&group);
            group.retain(|block| !block.rest());
            queue = self.queue();
            queue.active -= 1;
            queue.waiting.extend(group.drain(..));
        }
    }

    /// Whether another thread is to hash what waits: as many blocks as ever may, or somebody is held up. What a
    /// thread has in its hands it will soon put back, to take more together: another one is worth it only
    /// where half of the lanes are in use.
    fn is_time(&self, queue: &Queue) -> bool {
        let arriving = self.arriving.load(Ordering::Relaxed).max(1);
        if queue.waiting.is_empty() || queue.active >= arriving.div_ceil(self.lanes.div_ceil(2)) {
            return false;
        }
        queue.waiting.len() >= arriving.min(self.lanes)
            || queue.waiting.iter().any(|block| block.is_urgent())
    }

    /// There is something to hash of that block; `new` unless it waits or is being hashed.
    fn submit(&self, block: &Arc<PartialBlock>, new: bool) {
        let mut queue = self.queue();
        if !queue.stop {
            if new {
                queue.waiting.push_back(block.clone());
            }
            if self.is_time(&queue) {
                self.ready.notify_one();
            }
        }
    }
}

/// Where to have bytes hashed.
#[derive(Clone)]
pub(super) struct HashHandle(Arc<PoolShared>);

/// The digest of a block whose bytes are arriving. They are not kept.
pub(super) struct Digesting {
    pool: HashHandle,
    block: Arc<PartialBlock>,
}

struct PartialBlock {
    todo: Mutex<Todo>,
    /// Touched by one pool thread at a time: `Todo::submitted` sees to it.
    done: Mutex<Done>,
    room: Semaphore,
    _counted: Counted,
}

#[derive(Default)]
struct Todo {
    pieces: VecDeque<VecDeque<Bytes>>,
    /// In the pool's queue or in the hands of one of its threads.
    submitted: bool,
    finished: Option<oneshot::Sender<Md5>>,
}

/// What is being hashed of a block.
#[derive(Default)]
struct Done {
    /// What is not hashed yet, and what was a moment ago: a slice of what came.
    data: Bytes,
    md5: Running,
}

/// Counts among the blocks that are arriving, as long as it lives.
struct Counted(HashHandle);

impl Counted {
    fn new(pool: &HashHandle) -> Self {
        pool.0.arriving.fetch_add(1, Ordering::Relaxed);
        Counted(pool.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Others may have waited for this one: their next bytes, or the last, tell the threads.
        self.0.0.arriving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Digesting {
    /// For a block whose first bytes are here.
    pub(super) fn new(pool: HashHandle) -> Self {
        let block = PartialBlock {
            todo: Mutex::default(),
            done: Mutex::default(),
            room: Semaphore::new(PIECES_AHEAD),
            _counted: Counted::new(&pool),
        };
        Digesting { pool, block: Arc::new(block) }
    }

    /// Hands on the next bytes; waits while hashing is behind.
    pub(super) async fn push(&self, piece: Vec<Bytes>) {
        if let Ok(permit) = self.block.room.acquire().await {
            permit.forget();
        }
        self.submit(|todo| todo.pieces.push_back(piece.into()));
    }

    /// The digest of all bytes; `None` if the pool has ended.
    pub(super) async fn finish(self) -> Option<Md5> {
        let (sender, receiver) = oneshot::channel();
        self.submit(|todo| todo.finished = Some(sender));
        // Only the pool keeps the block now: if it drops it, the sender goes too, and this
        // returns.
        drop(self);
        receiver.await.ok()
    }

    fn submit(&self, change: impl FnOnce(&mut Todo)) {
        let mut todo = self.block.todo.lock();
        change(&mut todo);
        let new = !std::mem::replace(&mut todo.submitted, true);
        drop(todo);
        self.pool.0.submit(&self.block, new);
    }
}

/// Hashes a stretch of each block that has something to hash, together.
fn hash_some(blocks: &[Arc<PartialBlock>]) {
    let mut held: Vec<MutexGuard<'_, Done>> = Vec::with_capacity(blocks.len());
    for block in blocks {
        let mut done = block.done.lock();
        block.gather(&mut done);
        if done.pending() > 0 {
            held.push(done);
        }
    }
    let mut messages: Vec<(&mut Running, &[u8])> = held
        .iter_mut()
        .map(|done| {
            let Done { data, md5 } = &mut **done;
            (md5, &data[..])
        })
        .collect();
    advance_together(&mut messages, STRETCH);
}

impl Done {
    fn pending(&self) -> usize {
        self.md5.pending(&self.data)
    }

    /// Takes in the next bytes, once nothing is pending. They are hashed where they are; only what is less than
    /// a chunk before them is put together with as much of them as makes it one.
    fn take(&mut self, mut bytes: Bytes) {
        let rest = self.data.split_off(self.md5.release());
        if rest.is_empty() {
            self.data = bytes;
            return;
        }
        let missing = bytes.split_to(bytes.len().min(md5_lanes::CHUNK - rest.len()));
        self.data = [rest, missing].concat().into();
        if !bytes.is_empty() {
            self.md5.advance(&self.data, md5_lanes::CHUNK);
            self.take(bytes);
        }
    }
}

impl PartialBlock {
    /// Whether its sender waits, or a reader for the last of it.
    fn is_urgent(&self) -> bool {
        let todo = self.todo.lock();
        todo.finished.is_some() || todo.pieces.len() == PIECES_AHEAD
    }

    /// Has something to hash, where anything has come: long pieces as they are, short ones put together to
    /// about a stretch.
    fn gather(&self, done: &mut Done) {
        while done.pending() == 0 {
            let mut short = Vec::new();
            while short.len() < STRETCH {
                let Some(bytes) = self.next(|bytes| short.is_empty() || bytes.len() < LONG) else {
                    break;
                };
                if bytes.len() >= LONG {
                    done.take(bytes);
                    return;
                }
                short.extend_from_slice(&bytes);
            }
            if short.is_empty() {
                return;
            }
            done.take(short.into());
        }
    }

    /// What came first, if `wanted`.
    fn next(&self, wanted: impl Fn(&Bytes) -> bool) -> Option<Bytes> {
        let mut todo = self.todo.lock();
        let piece = todo.pieces.front_mut()?;
        let bytes = if piece.front().is_some_and(wanted) { piece.pop_front() } else { None };
        if piece.is_empty() {
            todo.pieces.pop_front();
            self.room.add_permits(1);
        }
        bytes
    }

    /// Lets go of a block with nothing to hash, and answers where it is complete; false if there
    /// is more.
    fn rest(&self) -> bool {
        let mut done = self.done.lock();
        let mut todo = self.todo.lock();
        if done.pending() > 0 || !todo.pieces.is_empty() {
            return false;
        }
        todo.submitted = false;
        let sender = todo.finished.take();
        drop(todo);
        if let Some(sender) = sender {
            let Done { data, md5 } = std::mem::take(&mut *done);
            // The receiver may have lost interest.
            let _ = sender.send(Md5(md5.finish(&data)));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_many_blocks_become_their_digests() {
        let pool = HashPool::start(2).expect("threads");
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("runtime");
        let assemble = |number: usize| {
            let handle = pool.handle();
            let size = number * 77_777 % 1_000_000;
            async move {
                let mut expected = vec![0; size];
                fastrand::Rng::with_seed(number as u64).fill(&mut expected);
                let digesting = Digesting::new(handle);
                // Short, long, and both together.
                let len = [10_000 + number, 100_003, 2 * LONG][number % 3];
                for piece in expected.chunks(len) {
                    let (some, rest) = piece.split_at(piece.len().min(number));
                    let pieces = [some, rest].map(Bytes::copy_from_slice);
                    digesting.push(pieces.into()).await;
                }
                let md5 = digesting.finish().await.expect("the pool runs");
                assert_eq!(md5, Md5::of(&expected));
            }
        };
        let tasks: Vec<_> = (0..40).map(|number| runtime.spawn(assemble(number))).collect();
        for task in tasks {
            runtime.block_on(task).expect("no panic");
        }
        let shared = pool.shared.clone();
        drop(pool);
        assert_eq!(shared.arriving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_ended_pool_answers_at_once() {
        let pool = HashPool::start(1).expect("threads");
        let digesting = Digesting::new(pool.handle());
        drop(pool);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        assert!(runtime.block_on(digesting.finish()).is_none());
    }
}
