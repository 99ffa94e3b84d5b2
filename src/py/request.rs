// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How a request enters Python.
//!
//! A FUSE worker answers a request on its own until a node needs Python: then it takes `llfuse.lock`
//! and the GIL, and keeps both until the request is answered ([`RequestScope`]). A thread that came from
//! Python, or that took both for longer, is in an [`UpcallScope`]. Anywhere else [`with_python`] refuses.
//!
//! A request is never run again from its start. What it has done before it enters Python it has done
//! without Python's having asked to see it.

use std::cell::RefCell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::clock;
use super::gil::{Gil, UpcallScope, may_call_python};
use super::llfuse::{errors, lock};
use crate::fs::{Halt, Outcome, Timestamp};

thread_local! {
    static REQUEST: RefCell<Option<Entering>> = const { RefCell::new(None) };
}

/// How far a request has come with Python.
enum Entering {
    NotYet,
    /// Held until the request ends.
    Entered(#[expect(dead_code, reason = "it is there to be dropped")] Entered),
}

/// A request under way in this thread, which enters Python when a node first needs it and stays there
/// until this is dropped.
pub struct RequestScope(());

impl RequestScope {
    /// Begins a request. Requests do not nest: what Python calls meanwhile is a part of this one.
    #[must_use]
    pub fn begin() -> Self {
        REQUEST.set(Some(Entering::NotYet));
        RequestScope(())
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        drop(REQUEST.take());
    }
}

/// `llfuse.lock`, the GIL, and the mark that Python may be called; released in the reverse order.
struct Entered {
    _scope: UpcallScope,
    _gil: Gil,
    _lock: Option<lock::Held>,
}

impl Entered {
    /// The calling thread must not hold the GIL: the lock comes before it.
    fn new() -> PyResult<Self> {
        let lock = lock::take();
        let gil = Gil::take();
        let scope = Python::attach(|py| {
            let scope = UpcallScope::enter(py);
            clock::look(py).map(|()| scope)
        })?;
        Ok(Entered { _scope: scope, _gil: gil, _lock: lock })
    }
}

/// Calls Python, where this thread may; a request enters it by that.
///
/// # Errors
/// The exception that was raised; `RuntimeError` in a thread that is neither in a request nor in an
/// [`UpcallScope`].
pub fn with_python<T>(body: impl FnOnce(Python<'_>) -> PyResult<T>) -> Outcome<T> {
    if may_call_python() {
        return Python::attach(body).map_err(raised);
    }
    if REQUEST.with_borrow(Option::is_none) {
        let error =
            PyRuntimeError::new_err("Python was asked for in a thread that may not call it");
        return Err(raised(error));
    }
    let entered = Entered::new().map_err(raised)?;
    // The borrow ends here: what Python calls may look for the request again.
    REQUEST.set(Some(Entering::Entered(entered)));
    Python::attach(body).map_err(raised)
}

/// A Python exception on its way through the core.
#[must_use]
pub fn raised(error: PyErr) -> Halt {
    Halt::Upcall(Box::new(error))
}

/// Runs a piece of the core for a caller in Python; what halts it becomes an exception there.
///
/// # Errors
/// The exception that was raised on the way, or `FUSEError` with the errno.
pub fn for_python<T>(py: Python<'_>, body: impl FnOnce() -> Outcome<T>) -> PyResult<T> {
    clock::look(py)?;
    let scope = UpcallScope::enter(py);
    let outcome = body();
    drop(scope);
    outcome.map_err(exception)
}

/// The exception that a halt stands for.
#[must_use]
pub fn exception(halt: Halt) -> PyErr {
    match halt {
        Halt::Errno(errno) => errors::fuse_error(errno),
        Halt::Upcall(error) => match error.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(_) => PyRuntimeError::new_err("unknown error in the core"),
        },
    }
}

/// The time of day as Python programs see it, for a request.
///
/// # Errors
/// What a replacement of `time.time` raises.
pub fn now() -> Outcome<Timestamp> {
    if clock::is_replaced() { with_python(clock::timestamp) } else { Ok(Timestamp::now()) }
}
