// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `llfuse.lock`: one handler written in Python runs at a time.
//!
//! It comes before the GIL: a thread that holds the GIL lets go of it while it waits here.

use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::attributes::no_pickle;
use super::fork_safe::{Condvar, Mutex};
use crate::py::gil::attach_for_good;

struct State {
    owner: Option<ThreadId>,
    waiting: usize,
    /// How often the lock was taken; tells a yielding thread that another had its turn.
    turns: u64,
}

static STATE: Mutex<State> = Mutex::new(State { owner: None, waiting: 0, turns: 0 });
static FREED: Condvar = Condvar::new();
static TAKEN: Condvar = Condvar::new();

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Already,
    NotOwner,
    TimedOut,
    NobodyTook,
}

impl From<Refused> for PyErr {
    fn from(refused: Refused) -> PyErr {
        PyRuntimeError::new_err(match refused {
            Refused::Already => "Global lock cannot be acquired more than once",
            Refused::NotOwner => "Lock can only be released by the holding thread",
            Refused::TimedOut => "Global lock was not released in time",
            Refused::NobodyTook => "Other thread didn't take lock",
        })
    }
}

fn acquire(timeout: Option<Duration>) -> Result<(), Refused> {
    let me = thread::current().id();
    let deadline = timeout.map(|t| Instant::now() + t);
    let mut state = STATE.lock();
    if state.owner == Some(me) {
        return Err(Refused::Already);
    }
    while state.owner.is_some() {
        state.waiting += 1;
        let late = if let Some(deadline) = deadline {
            FREED.wait_until(&mut state, deadline).timed_out()
        } else {
            FREED.wait(&mut state);
            false
        };
        state.waiting -= 1;
        if late && state.owner.is_some() {
            return Err(Refused::TimedOut);
        }
    }
    state.owner = Some(me);
    state.turns += 1;
    TAKEN.notify_all();
    Ok(())
}

fn release() -> Result<(), Refused> {
    let mut state = STATE.lock();
    if state.owner != Some(thread::current().id()) {
        return Err(Refused::NotOwner);
    }
    state.owner = None;
    FREED.notify_one();
    Ok(())
}

fn yield_once() -> Result<bool, Refused> {
    {
        let mut state = STATE.lock();
        if state.owner != Some(thread::current().id()) {
            return Err(Refused::NotOwner);
        }
        if state.waiting == 0 {
            return Ok(false);
        }
        let turn = state.turns;
        state.owner = None;
        FREED.notify_one();
        let deadline = Instant::now() + Duration::from_secs(1);
        while state.turns == turn {
            if TAKEN.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        if state.turns == turn {
            state.owner = Some(thread::current().id());
            return Err(Refused::NobodyTook);
        }
    }
    acquire(None).map(|()| true)
}

/// In a fork: nobody waits for the lock, and whoever held it is not there, unless it is the calling
/// thread.
pub fn forget_lost_owner() {
    let Some(mut state) = STATE.try_lock() else { return };
    if state.owner != Some(thread::current().id()) {
        state.owner = None;
    }
    state.waiting = 0;
}

/// Whether the calling thread holds the lock.
#[must_use]
pub fn is_held_by_me() -> bool {
    STATE.lock().owner == Some(thread::current().id())
}

/// Whether the calling thread holds the lock.
#[pyfunction]
#[must_use]
pub fn holds_lock() -> bool {
    is_held_by_me()
}

/// The lock, held by this thread until it is dropped.
pub struct Held(());

/// Takes the lock; None where this thread holds it already. The thread must not hold the GIL.
#[must_use]
pub fn take() -> Option<Held> {
    acquire(None).is_ok().then_some(Held(()))
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = release();
    }
}

/// Runs `body` under the lock and the GIL. The calling thread must hold neither.
pub fn with_llfuse_lock<T>(body: impl FnOnce(Python<'_>) -> T) -> T {
    let held = take();
    let result = attach_for_good(body);
    drop(held);
    result
}

struct Released(bool);

impl Drop for Released {
    fn drop(&mut self) {
        if self.0 {
            let _ = acquire(None);
        }
    }
}

/// Runs `body` without the GIL, and without the lock if this thread holds it; takes them again
/// afterwards.
///
/// # Errors
/// None at present; the lock is taken again whatever happens.
pub fn released<T: Send>(py: Python<'_>, body: impl FnOnce() -> T + Send) -> PyResult<T> {
    Ok(py.detach(|| {
        let _again = Released(release().is_ok());
        body()
    }))
}

/// The global lock, and a context manager that holds it.
#[pyclass(frozen, module = "llfuse")]
pub struct Lock;

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args))]
    fn new(_args: &Bound<'_, PyTuple>) -> PyResult<Self> {
        Err(PyTypeError::new_err("llfuse.lock is the only instance"))
    }

    /// Takes the lock. Returns False where that did not come about within `timeout` seconds.
    ///
    /// Raises `RuntimeError` where this thread holds it already.
    #[pyo3(signature = (timeout=None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let timeout = timeout.filter(|t| *t > 0.0).map(Duration::from_secs_f64);
        match py.detach(|| acquire(timeout)) {
            Ok(()) => Ok(true),
            Err(Refused::TimedOut) => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Gives the lock back.
    ///
    /// Raises `RuntimeError` where this thread does not hold it.
    fn release(&self) -> PyResult<()> {
        Ok(release()?)
    }

    /// Lets another thread that waits for the lock have it, up to `count` times.
    #[pyo3(signature = (count=1))]
    fn yield_(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        py.detach(|| {
            for _ in 0..count {
                if !yield_once()? {
                    break;
                }
            }
            Ok::<(), Refused>(())
        })?;
        Ok(())
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        self.acquire(py, None).map(drop)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release()
    }

    fn __getstate__(&self, py: Python<'_>) -> PyResult<()> {
        Err(no_pickle(py, "Lock"))
    }
}

/// Context manager that lets go of the global lock.
#[pyclass(frozen, module = "llfuse")]
pub struct NoLockManager;

#[pymethods]
impl NoLockManager {
    #[new]
    #[pyo3(signature = (*_args))]
    fn new(_args: &Bound<'_, PyTuple>) -> PyResult<Self> {
        Err(PyTypeError::new_err("llfuse.lock_released is the only instance"))
    }

    fn __enter__(&self) -> PyResult<()> {
        Ok(release()?)
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        Ok(py.detach(|| acquire(None))?)
    }

    fn __getstate__(&self, py: Python<'_>) -> PyResult<()> {
        Err(no_pickle(py, "NoLockManager"))
    }
}
