// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The thread that removes inode entries and evicts cached ones.
//!
//! Request handlers only leave word here. The thread begins when the mount's loop begins (never
//! earlier: the process may fork into the background before) and asks each entry, one at a time,
//! where the layer above may be called; no lock of this layer is held meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Between two sweeps of which the first freed nothing: everything was in use, and asking again
/// at once would only burn a core.
const FUTILE_PAUSE: Duration = Duration::from_millis(100);

/// What the thread does.
pub trait Remover<N>: Send + Sync + 'static {
    /// Removes the entry, or clears it, unless it is still used.
    fn remove(&self, node: N);
    /// Evicts until the cache is within its limit; answers whether anything was freed.
    fn evict(&self) -> bool;
}

struct Queue<N> {
    removals: VecDeque<N>,
    evict: bool,
    busy: bool,
    waiters: usize,
    stop: bool,
}

struct Worker {
    pid: u32,
    thread: JoinHandle<()>,
}

/// The queue of that thread, and the thread where it runs.
pub struct Removal<N> {
    queue: Mutex<Queue<N>>,
    changed: Condvar,
    worker: Mutex<Option<Worker>>,
}

impl<N> Default for Removal<N> {
    fn default() -> Self {
        Removal {
            queue: Mutex::new(Queue {
                removals: VecDeque::new(),
                evict: false,
                busy: false,
                waiters: 0,
                stop: false,
            }),
            changed: Condvar::new(),
            worker: Mutex::new(None),
        }
    }
}

impl<N: Send + 'static> Removal<N> {
    /// Leaves word that the entry was deleted.
    pub fn remove_later(&self, node: N) {
        let mut queue = self.queue.lock();
        queue.removals.push_back(node);
        self.changed.notify_all();
    }

    /// Leaves word that the cache may be over its limit.
    pub fn evict_later(&self) {
        let mut queue = self.queue.lock();
        if !queue.evict {
            queue.evict = true;
            self.changed.notify_all();
        }
    }

    /// Starts the thread, unless it runs in this process.
    ///
    /// # Errors
    /// Where the system refuses another thread.
    pub fn start(self: &Arc<Self>, remover: Arc<dyn Remover<N>>) -> std::io::Result<()> {
        let mut worker = self.worker.lock();
        let pid = std::process::id();
        if worker.as_ref().is_some_and(|w| w.pid == pid) {
            return Ok(());
        }
        {
            let mut queue = self.queue.lock();
            queue.stop = false;
            queue.busy = false;
        }
        let removal = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("inode-removal".into())
            .spawn(move || removal.run(&*remover))?;
        *worker = Some(Worker { pid, thread });
        Ok(())
    }

    /// Ends the thread when it has done what was asked until now. Must not be called under a lock
    /// that the remover needs.
    pub fn stop(&self) {
        let worker = self.worker.lock().take();
        self.queue.lock().stop = true;
        self.changed.notify_all();
        if let Some(worker) = worker
            && worker.pid == std::process::id()
            && worker.thread.join().is_err()
        {
            log::error!("the inode removal thread had panicked");
        }
    }

    /// Waits until everything that was asked is done; does it here where no thread runs. Must not
    /// be called under a lock that the remover needs.
    pub fn wait(&self, remover: &dyn Remover<N>) {
        if self.runs_here() {
            let mut queue = self.queue.lock();
            queue.waiters += 1;
            self.changed.notify_all();
            while queue.busy || queue.evict || !queue.removals.is_empty() {
                self.changed.wait(&mut queue);
                if queue.stop {
                    break;
                }
            }
            queue.waiters -= 1;
        } else {
            while self.step(remover).is_some() {}
        }
    }

    fn runs_here(&self) -> bool {
        self.worker.lock().as_ref().is_some_and(|w| w.pid == std::process::id())
    }

    /// Does what is queued; None where nothing was, otherwise whether anything was freed.
    fn step(&self, remover: &dyn Remover<N>) -> Option<bool> {
        let (removals, evict) = {
            let mut queue = self.queue.lock();
            let work = (std::mem::take(&mut queue.removals), std::mem::take(&mut queue.evict));
            queue.busy = !work.0.is_empty() || work.1;
            work
        };
        if removals.is_empty() && !evict {
            return None;
        }
        let mut freed = !removals.is_empty();
        for node in removals {
            remover.remove(node);
        }
        // Removing may have brought the cache under its limit: the remover looks.
        freed |= remover.evict();
        Some(freed)
    }

    fn run(&self, remover: &dyn Remover<N>) {
        let mut futile: Option<Instant> = None;
        loop {
            {
                let mut queue = self.queue.lock();
                queue.busy = false;
                self.changed.notify_all();
                loop {
                    let urgent = !queue.removals.is_empty() || queue.waiters > 0 || queue.stop;
                    let pause = futile.and_then(|t| FUTILE_PAUSE.checked_sub(t.elapsed()));
                    let wanted = queue.evict || !queue.removals.is_empty();
                    if wanted && (urgent || pause.is_none()) {
                        break;
                    }
                    if queue.stop {
                        return;
                    }
                    match pause {
                        Some(pause) if wanted => {
                            self.changed.wait_for(&mut queue, pause);
                        }
                        _ => self.changed.wait(&mut queue),
                    }
                }
            }
            let freed = self.step(remover).unwrap_or(true);
            futile = (!freed).then(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests;
