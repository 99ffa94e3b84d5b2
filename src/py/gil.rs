// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which threads may call Python, and when they enter it.
//!
//! A FUSE worker answers a request on its own until a node needs Python: then it takes `llfuse.lock`
//! and the GIL, and keeps both until the request is answered ([`RequestScope`]). A thread that came from
//! Python, or that took both for longer, is in an [`UpcallScope`]. Anywhere else [`with_python`]
//! refuses: waiting for the GIL where a lock may be held is how processes stand still.
//!
//! A request is never run again from its start. What it has done before it enters Python it has done
//! without Python's having asked to see it.

use std::cell::{Cell, OnceCell, RefCell};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::llfuse::lock;
use crate::fs::{Halt, Outcome};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static REQUEST: RefCell<Option<Entering>> = const { RefCell::new(None) };
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
                ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED);
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
                ffi::PyGILState_Ensure();
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
    let unknown = unsafe { ffi::PyGILState_GetThisThreadState().is_null() };
    Python::attach(|py| {
        if unknown {
            keep_state(py);
        }
        body(py)
    })
}

/// Marks this thread as one that may call Python until it is dropped.
pub struct UpcallScope(());

impl UpcallScope {
    /// The token is proof that the thread is attached.
    pub fn enter(_py: Python<'_>) -> Self {
        Self::new()
    }

    fn new() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        UpcallScope(())
    }
}

impl Drop for UpcallScope {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
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

/// `llfuse.lock`, the GIL, and the mark that Python may be called; let go of in the reverse order.
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
        let scope = UpcallScope::new();
        Python::attach(super::clock::look)?;
        Ok(Entered { _scope: scope, _gil: gil, _lock: lock })
    }
}

/// The GIL, between one attachment of pyo3's and the next.
struct Gil(ffi::PyGILState_STATE);

impl Gil {
    fn take() -> Self {
        // SAFETY: may be called at any time, from any thread, while the interpreter lives: a thread
        // that serves requests ends before it. Released in `drop`, in the same thread (this is neither
        // Send nor given out), after every attachment made in between.
        #[allow(unsafe_code)]
        let (unknown, state) =
            unsafe { (ffi::PyGILState_GetThisThreadState().is_null(), ffi::PyGILState_Ensure()) };
        if unknown {
            Python::attach(keep_state);
        }
        Gil(state)
    }
}

impl Drop for Gil {
    fn drop(&mut self) {
        // SAFETY: undoes the call in `take`, see there.
        #[allow(unsafe_code)]
        unsafe {
            ffi::PyGILState_Release(self.0);
        }
    }
}

/// Calls Python, where this thread may; a request enters it by that.
///
/// # Errors
/// The exception that was raised; RuntimeError in a thread that is neither in a request nor in an
/// [`UpcallScope`].
pub fn with_python<T>(body: impl FnOnce(Python<'_>) -> PyResult<T>) -> Outcome<T> {
    if DEPTH.get() > 0 {
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
    super::clock::look(py)?;
    let scope = UpcallScope::enter(py);
    let outcome = body();
    drop(scope);
    outcome.map_err(exception)
}

/// The exception that a halt stands for.
#[must_use]
pub fn exception(halt: Halt) -> PyErr {
    match halt {
        Halt::Errno(errno) => super::llfuse::errors::fuse_error(errno),
        Halt::Upcall(error) => match error.downcast::<PyErr>() {
            Ok(error) => *error,
            Err(_) => PyRuntimeError::new_err("unknown error in the core"),
        },
    }
}
