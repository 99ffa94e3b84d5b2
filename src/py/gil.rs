// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which threads may call Python.
//!
//! A FUSE worker answers a request on its own first; only when a node needs Python is the request
//! run again under `llfuse.lock` and the GIL. A thread that came from Python, or that took both,
//! is marked here for as long as that lasts; anywhere else [`with_python`] answers
//! [`Halt::Ascend`] instead of waiting for the GIL at a place where a lock may be held.

use std::cell::{Cell, OnceCell};

use pyo3::prelude::*;

use crate::fs::{Halt, Outcome};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static KEPT: OnceCell<KeptState> = const { OnceCell::new() };
}

/// Keeps what Python knows of a thread that is not its own until that thread ends.
struct KeptState(());

impl Drop for KeptState {
    fn drop(&mut self) {
        // Where Python has ended before the thread, so has its state.
        let _ = Python::try_attach(|_| {
            // SAFETY: undoes the call in `keep_state`, in the same thread; it is attached for the
            // length of this closure, so that this is not the last release.
            #[allow(unsafe_code)]
            unsafe {
                pyo3::ffi::PyGILState_Release(pyo3::ffi::PyGILState_STATE::PyGILState_LOCKED);
            }
        });
    }
}

/// Has Python remember this thread between one attachment and the next.
///
/// Otherwise its `threading.local` values end with each attachment: the SDK, which has a client of
/// the API for each thread, would make a new one, with new connections, for every request.
fn keep_state(_py: Python<'_>) {
    KEPT.with(|kept| {
        kept.get_or_init(|| {
            // SAFETY: the thread is attached; the matching release is in `KeptState::drop`.
            #[allow(unsafe_code)]
            unsafe {
                pyo3::ffi::PyGILState_Ensure();
            }
            KeptState(())
        });
    });
}

/// Runs `body` with the GIL, in a thread that comes again: one that Python did not start is known to
/// it from then on, as threads of its own are.
pub fn attach_for_good<T>(body: impl FnOnce(Python<'_>) -> T) -> T {
    // SAFETY: may be called at any time, from any thread.
    #[allow(unsafe_code)]
    let unknown = unsafe { pyo3::ffi::PyGILState_GetThisThreadState().is_null() };
    Python::attach(|py| {
        if unknown {
            keep_state(py);
        }
        body(py)
    })
}

/// Marks this thread as one that may call Python until it is dropped.
pub struct Company(());

impl Company {
    /// The token is proof that the thread is attached.
    pub fn enter(_py: Python<'_>) -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Company(())
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Calls Python, where this thread may.
///
/// # Errors
/// [`Halt::Ascend`] where it may not; the exception that was raised.
pub fn with_python<T>(body: impl FnOnce(Python<'_>) -> PyResult<T>) -> Outcome<T> {
    if DEPTH.get() == 0 {
        return Err(Halt::Ascend);
    }
    Python::attach(body).map_err(raised)
}

/// A Python exception on its way through the core.
#[must_use]
pub fn raised(error: PyErr) -> Halt {
    Halt::Above(Box::new(error))
}

/// Runs a piece of the core for a caller in Python; what halts it becomes an exception there.
///
/// # Errors
/// The exception that was raised on the way, or `FUSEError` with the errno.
pub fn for_python<T>(py: Python<'_>, body: impl FnOnce() -> Outcome<T>) -> PyResult<T> {
    super::clock::look(py)?;
    let company = Company::enter(py);
    let outcome = body();
    drop(company);
    outcome.map_err(exception)
}

/// The exception that a halt stands for.
#[must_use]
pub fn exception(halt: Halt) -> PyErr {
    match halt {
        Halt::Errno(errno) => super::llfuse::errors::fuse_error(errno),
        Halt::Above(error) => match error.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(_) => pyo3::exceptions::PyRuntimeError::new_err("unknown error in the core"),
        },
        Halt::Ascend => pyo3::exceptions::PyRuntimeError::new_err(
            "the core asked for Python in a thread that already has it",
        ),
    }
}
