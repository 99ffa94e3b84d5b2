// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! md5, and the threads that compute it.
//!
//! A body is hashed while it arrives, by a small pool of threads of its own: never on a reader's
//! thread and never on one that serves sockets. Different blocks are hashed in parallel; the
//! pieces of one block in order, by one thread at a time.

use crate::types::Md5;
use bytes::Bytes;
use md5::Digest;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// A running md5.
pub(super) struct Hasher(md5::Md5);

impl Hasher {
    pub fn new() -> Self {
        Hasher(md5::Md5::new())
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Md5 {
        Md5(self.0.finalize().into())
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that hash.
pub(super) struct HashPool {
    shared: Arc<PoolShared>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolShared {
    queue: Mutex<(VecDeque<Job>, bool)>,
    ready: Condvar,
}

impl HashPool {
    /// Starts `count` threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let shared = Arc::new(PoolShared { queue: Mutex::default(), ready: Condvar::new() });
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
    /// Ends the threads, each after the piece (at most about 1 MiB) that it is hashing.
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.1 = true;
        queue.0.clear();
        drop(queue);
        self.shared.ready.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there was logged by the panic hook already; nothing is left to undo.
            let _ = thread.join();
        }
    }
}

impl PoolShared {
    fn work(&self) {
        loop {
            let mut queue = self.queue.lock();
            let job = loop {
                if queue.1 {
                    return;
                }
                match queue.0.pop_front() {
                    Some(job) => break job,
                    None => self.ready.wait(&mut queue),
                }
            };
            drop(queue);
            job();
        }
    }

    fn submit(&self, job: Job) {
        let mut queue = self.queue.lock();
        if !queue.1 {
            queue.0.push_back(job);
            self.ready.notify_one();
        }
    }
}

/// Where to have bytes hashed.
#[derive(Clone)]
pub(super) struct HashHandle(Arc<PoolShared>);

/// How many pieces may wait to be hashed before the sender of a body is made to wait.
const PIECES_AHEAD: usize = 8;

/// A block's bytes on their way into one buffer, hashed as they come.
pub(super) struct Assembly {
    pool: HashHandle,
    block: Arc<Assembled>,
}

struct Assembled {
    todo: Mutex<Todo>,
    /// Touched by one pool thread at a time: `Todo::running` sees to it.
    done: Mutex<(Vec<u8>, Hasher)>,
    room: Semaphore,
    capacity: usize,
}

#[derive(Default)]
struct Todo {
    pieces: VecDeque<Vec<Bytes>>,
    running: bool,
    finished: Option<oneshot::Sender<(Vec<u8>, Md5)>>,
}

impl Assembly {
    /// For a block of `size` bytes; memory is taken when the first bytes arrive.
    pub fn new(pool: HashHandle, size: usize) -> Self {
        let block = Assembled {
            todo: Mutex::default(),
            done: Mutex::new((Vec::new(), Hasher::new())),
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
        // The pool's jobs must be the only ones to keep the block: if the pool drops them, the
        // sender goes too and this returns.
        drop(self);
        receiver.await.ok()
    }

    fn schedule(&self) {
        if !std::mem::replace(&mut self.block.todo.lock().running, true) {
            let block = self.block.clone();
            self.pool.0.submit(Box::new(move || block.run()));
        }
    }
}

impl Assembled {
    fn run(&self) {
        let mut done = self.done.lock();
        let (data, hasher) = &mut *done;
        loop {
            let mut todo = self.todo.lock();
            let Some(piece) = todo.pieces.pop_front() else {
                todo.running = false;
                if let Some(sender) = todo.finished.take() {
                    let hasher = std::mem::replace(hasher, Hasher::new());
                    // The receiver may have lost interest.
                    let _ = sender.send((std::mem::take(data), hasher.finish()));
                }
                return;
            };
            drop(todo);
            data.reserve_exact(self.capacity.saturating_sub(data.len()));
            for bytes in piece {
                // Copied and hashed in one go, so that the second use finds the cache warm.
                hasher.update(&bytes);
                data.extend_from_slice(&bytes);
            }
            self.room.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one_block_and_its_digest() {
        assert_eq!(Md5::of(b"foo").to_string(), "acbd18db4cc2f85cedef654fccc4a4d8");
        let pool = HashPool::start(2).expect("threads");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let (data, md5) = runtime.block_on(async {
            let assembly = Assembly::new(pool.handle(), 3000);
            for number in 0..1000u16 {
                assembly.push(vec![Bytes::from(vec![number as u8; 3])]).await;
            }
            assembly.finish().await.expect("the pool runs")
        });
        let expected: Vec<u8> = (0..3000u16).map(|at| (at / 3) as u8).collect();
        assert_eq!(md5, Md5::of(&expected));
        assert_eq!(data, expected);
        drop(pool);
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
