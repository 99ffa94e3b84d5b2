// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which threads may call Python.
//!
//! A FUSE worker answers a request on its own first; only when a node needs Python is the request
//! run again under `llfuse.lock` and the GIL. A thread that came from Python, or that took both,
//! is marked here for as long as that lasts; anywhere else [`with_python`] answers
//! [`Halt::Ascend`] instead of waiting for the GIL at a place where a lock may be held.

use std::cell::Cell;

use pyo3::prelude::*;

use crate::fs::{Halt, Outcome};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
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
