// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which thread answers a request, and how many are being answered.
//!
//! With one worker that is the thread that serves the mount: programs keep what belongs to one
//! thread only (a connection of sqlite3, say) where they call `main`. fuser reads requests in threads
//! of its own, so the reader hands each over and waits for it to be done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

type Job<'a> = Box<dyn FnOnce() + Send + 'a>;

#[derive(Default)]
struct State {
    /// Handed over, not begun.
    job: Option<Job<'static>>,
    /// How often a job was done.
    done: u64,
    /// Requests being answered.
    active: usize,
    /// New requests wait: the session is about to be left.
    held: bool,
    /// New requests are not answered any more.
    closed: bool,
    /// Somebody is in `serve`, or about to be, until the reader has ended.
    serving: bool,
}

/// Where requests are answered.
pub struct Desk {
    /// The thread in [`Desk::serve`] answers, not the one that read the request.
    single: bool,
    state: Mutex<State>,
    changed: Condvar,
}

/// Counts one request as being answered.
struct Active<'a>(&'a Desk);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.state.lock().active -= 1;
        self.0.changed.notify_all();
    }
}

/// Ends [`Desk::serve`] when it is dropped.
pub struct Ends<'a>(&'a Desk);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.state.lock().serving = false;
        self.0.changed.notify_all();
    }
}

impl Desk {
    /// With `single`, requests are answered by the thread that calls [`Desk::serve`].
    #[must_use]
    pub fn new(single: bool) -> Self {
        Desk { single, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Answers a request, and returns when that is done. Where the session was left, `body` is
    /// dropped instead.
    pub fn answer(&self, body: impl FnOnce() + Send) {
        let _active = {
            let mut state = self.state.lock();
            while state.held && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            state.active += 1;
            Active(self)
        };
        self.run(body);
    }

    /// Runs `body` in the thread that answers, and returns when that is done.
    pub fn run(&self, body: impl FnOnce() + Send) {
        // A session that never ran, or has, is the caller's alone.
        if self.single && self.state.lock().serving {
            self.hand_over(Box::new(body));
        } else {
            body();
        }
    }

    fn hand_over(&self, job: Job<'_>) {
        // SAFETY: only the lifetime changes, from that of what the job borrows to 'static. The job is
        // run and dropped by `serve` before `done` counts it, and this function does not return
        // before: what it borrows outlives it. `serve` only ends once `Ends` was dropped, which the
        // thread that calls this does after its last call.
        #[allow(unsafe_code)]
        let job = unsafe { std::mem::transmute::<Job<'_>, Job<'static>>(job) };
        let mut state = self.state.lock();
        let turn = state.done;
        state.job = Some(job);
        self.changed.notify_all();
        while state.done == turn {
            self.changed.wait(&mut state);
        }
    }

    /// From now on jobs are handed over: the caller goes on to [`Desk::serve`].
    pub fn open(&self) {
        self.state.lock().serving = true;
    }

    /// The calling thread hands jobs over until what is returned is dropped.
    pub fn ends_with_this(&self) -> Ends<'_> {
        Ends(self)
    }

    /// Answers requests in the calling thread until the reader has ended.
    pub fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.job.take() {
                drop(state);
                // It keeps panics to itself.
                job();
                state = self.state.lock();
                state.done += 1;
                self.changed.notify_all();
            } else if state.serving {
                self.changed.wait(&mut state);
            } else {
                return;
            }
        }
    }

    /// Holds new requests back, and waits until those under way are answered, or until `deadline`.
    pub fn drain(&self, deadline: Instant) {
        let mut state = self.state.lock();
        state.held = true;
        while state.active > 0 {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Drops the requests that were held back.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

/// Runs one request; a panic stays inside.
pub(super) fn guarded(operation: &'static str, body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        log::error!("panic while answering {operation}: EIO");
    }
}

#[cfg(test)]
mod tests {
    use super::Desk;
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn one_thread_answers_what_another_hands_over() {
        let desk = Arc::new(Desk::new(true));
        desk.open();
        let reader = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                let _end = desk.ends_with_this();
                let mut seen = Vec::new();
                for _ in 0..100 {
                    desk.answer(|| seen.push(thread::current().id()));
                }
                seen
            }
        });
        desk.serve();
        assert_eq!(reader.join().unwrap(), vec![thread::current().id(); 100]);
    }

    #[test]
    fn what_is_held_back_is_dropped_in_the_end() {
        let desk = Arc::new(Desk::new(false));
        desk.answer(|| ());
        desk.drain(std::time::Instant::now());
        let late = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                let mut answered = false;
                desk.answer(|| answered = true);
                answered
            }
        });
        desk.close();
        assert!(!late.join().unwrap());
    }
}
