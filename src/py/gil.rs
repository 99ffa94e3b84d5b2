// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The GIL: threads that Python did not start, and which threads may call Python.
//!
//! A thread that came from Python, or that took `llfuse.lock` and the GIL, says so with an
//! [`UpcallScope`]. What runs anywhere else asks [`may_call_python`] before it waits for the GIL: to wait
//! where a lock may be held is how processes stand still.

use std::cell::{Cell, OnceCell};

use pyo3::ffi;
use pyo3::prelude::*;

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
    #[must_use]
    pub fn enter(_py: Python<'_>) -> Self {
        DEPTH.set(DEPTH.get() + 1);
        UpcallScope(())
    }
}

impl Drop for UpcallScope {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Whether this thread may call Python now: it is in an [`UpcallScope`].
#[must_use]
pub fn may_call_python() -> bool {
    DEPTH.get() > 0
}

/// The GIL, between one attachment of pyo3's and the next.
pub struct Gil(ffi::PyGILState_STATE);

impl Gil {
    /// Takes it.
    #[must_use]
    pub fn take() -> Self {
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
