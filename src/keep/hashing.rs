// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The threads that check blocks.
//!
//! A body is hashed while it arrives, by a small pool of threads of its own: never on a reader's
//! thread and never on one that serves sockets. The bytes of one block are hashed in order, by
//! one thread at a time. A thread takes several blocks at once where the processor can hash them in
//! the lanes of one register, which is far cheaper than a thread for each.

use crate::types::Md5;
use bytes::Bytes;
use md5_lanes::{Running, advance_together};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// Bytes of a block that are hashed before it is looked for others to hash with it; and how long
/// a shutdown waits at most.
const STRETCH: usize = 256 << 10;

/// How many pieces may wait to be hashed before the sender of a body is made to wait.
const PIECES_AHEAD: usize = 8;

/// Threads that hash.
pub(super) struct HashPool {
    shared: Arc<PoolShared>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolShared {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Blocks that one thread hashes together.
    lanes: usize,
    /// Threads that are woken for a single block each; the others only when these have no lane
    /// left. Half of the processors: the rest have bodies to receive.
    eager: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Assembled>>,
    /// Threads at work, and the blocks that they have.
    busy: usize,
    taken: usize,
    stop: bool,
}

impl HashPool {
    /// Starts `count` threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let shared = Arc::new(PoolShared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            lanes: md5_lanes::lanes(),
            eager: (count / 2).max(1),
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
    pub fn handle(&self) -> HashHandle {
        HashHandle(self.shared.clone())
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
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
    fn work(&self) {
        let mut mine: Vec<Arc<Assembled>> = Vec::new();
        let mut queue = self.queue.lock();
        while !queue.stop {
            while mine.len() < self.lanes {
                let Some(block) = queue.waiting.pop_front() else { break };
                queue.taken += 1;
                mine.push(block);
            }
            if mine.is_empty() {
                self.ready.wait(&mut queue);
                continue;
            }
            queue.busy += 1;
            drop(queue);
            let before = mine.len();
            hash_some(&mut mine);
            let finished = before - mine.len();
            queue = self.queue.lock();
            queue.busy -= 1;
            queue.taken -= finished;
        }
    }

    fn submit(&self, block: Arc<Assembled>) {
        let mut queue = self.queue.lock();
        if !queue.stop {
            queue.waiting.push_back(block);
            let demand = queue.taken + queue.waiting.len();
            if queue.busy < self.eager || demand > queue.busy * self.lanes {
                self.ready.notify_one();
            }
        }
    }
}

/// Where to have bytes hashed.
#[derive(Clone)]
pub(super) struct HashHandle(Arc<PoolShared>);

/// A block's bytes on their way into one buffer, hashed as they come.
pub(super) struct Assembly {
    pool: HashHandle,
    block: Arc<Assembled>,
}

struct Assembled {
    todo: Mutex<Todo>,
    /// Touched by one pool thread at a time: `Todo::submitted` sees to it.
    done: Mutex<Done>,
    room: Semaphore,
    capacity: usize,
}

#[derive(Default)]
struct Todo {
    pieces: VecDeque<Vec<Bytes>>,
    /// In the pool's queue or in the hands of one of its threads.
    submitted: bool,
    finished: Option<oneshot::Sender<(Vec<u8>, Md5)>>,
}

#[derive(Default)]
struct Done {
    data: Vec<u8>,
    md5: Running,
}

impl Assembly {
    /// For a block of `size` bytes; memory is taken when the first bytes arrive.
    pub fn new(pool: HashHandle, size: usize) -> Self {
        let block = Assembled {
            todo: Mutex::default(),
            done: Mutex::default(),
            room: Semaphore::new(PIECES_AHEAD),
            capacity: size,
        };
        Assembly { pool, block: Arc::new(block) }
    }

    /// Hands on the next bytes; waits while hashing is behind.
    pub async fn push(&self, piece: Vec<Bytes>) {
        if let Ok(permit) = self.block.room.acquire().await {
            permit.forget();
        }
        self.block.todo.lock().pieces.push_back(piece);
        self.schedule();
    }

    /// The whole block and its digest; `None` if the pool has ended.
    pub async fn finish(self) -> Option<(Vec<u8>, Md5)> {
        let (sender, receiver) = oneshot::channel();
        self.block.todo.lock().finished = Some(sender);
        self.schedule();
        // Only the pool keeps the block now: if it drops it, the sender goes too, and this
        // returns.
        drop(self);
        receiver.await.ok()
    }

    fn schedule(&self) {
        if !std::mem::replace(&mut self.block.todo.lock().submitted, true) {
            self.pool.0.submit(self.block.clone());
        }
    }
}

/// Hashes a stretch of each block, together. Takes out those that have nothing more to hash for
/// now, and answers for those that are complete.
fn hash_some(blocks: &mut Vec<Arc<Assembled>>) {
    blocks.retain(|block| {
        let mut done = block.done.lock();
        block.gather(&mut done);
        done.pending() > 0 || !block.rest(&mut done)
    });
    let mut held: Vec<MutexGuard<'_, Done>> =
        blocks.iter().map(|block| block.done.lock()).collect();
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
}

impl Assembled {
    /// Copies into the block what has come, about a stretch of it: the hash then finds it in the
    /// processor's cache.
    fn gather(&self, done: &mut Done) {
        while done.pending() < STRETCH {
            let Some(piece) = self.todo.lock().pieces.pop_front() else { return };
            done.data.reserve_exact(self.capacity.saturating_sub(done.data.len()));
            piece.iter().for_each(|bytes| done.data.extend_from_slice(bytes));
            self.room.add_permits(1);
        }
    }

    /// Lets go of a block with nothing to hash; false if more has come meanwhile.
    fn rest(&self, done: &mut Done) -> bool {
        let mut todo = self.todo.lock();
        if !todo.pieces.is_empty() {
            return false;
        }
        todo.submitted = false;
        let sender = todo.finished.take();
        drop(todo);
        if let Some(sender) = sender {
            let Done { data, md5 } = std::mem::take(done);
            let digest = Md5(md5.finish(&data));
            // The receiver may have lost interest.
            let _ = sender.send((data, digest));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_many_blocks_become_blocks_and_their_digests() {
        let pool = HashPool::start(2).expect("threads");
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("runtime");
        let assemble = |number: usize| {
            let handle = pool.handle();
            let size = number * 77_777 % 1_000_000;
            async move {
                let mut expected = vec![0; size];
                fastrand::Rng::with_seed(number as u64).fill(&mut expected);
                let assembly = Assembly::new(handle, size);
                for piece in expected.chunks(10_000 + number) {
                    assembly.push(vec![Bytes::copy_from_slice(piece)]).await;
                }
                let (data, md5) = assembly.finish().await.expect("the pool runs");
                assert_eq!(md5, Md5::of(&expected));
                assert!(data == expected);
            }
        };
        let tasks: Vec<_> = (0..40).map(|number| runtime.spawn(assemble(number))).collect();
        for task in tasks {
            runtime.block_on(task).expect("no panic");
        }
        assert_eq!(pool.shared.queue.lock().taken, 0);
    }

    #[test]
    fn an_ended_pool_answers_at_once() {
        let pool = HashPool::start(1).expect("threads");
        let assembly = Assembly::new(pool.handle(), 1);
        drop(pool);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        assert!(runtime.block_on(assembly.finish()).is_none());
    }
}
