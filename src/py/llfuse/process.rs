// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The signals of arv-mount, for the Python that decides what they mean.

use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;

use pyo3::prelude::*;

use super::signals::{self, Phase};

/// Catches every signal whose default is to end the process, for good. Returns the descriptor from
/// which their numbers can be read, a byte each, once `serve_signals` was called.
///
/// Until something is mounted, one that ends a mount ends the process at once, with status 128 + N.
/// From then on until `serve_signals` it unmounts first, and the status is 0.
///
/// # Errors
/// `OSError` where the system refuses.
#[pyfunction]
pub fn catch_signals() -> PyResult<i32> {
    let (reader, writer) = UnixStream::pair()?;
    signals::catch_all(writer)?;
    Ok(reader.into_raw_fd())
}

/// The mount is made for a command: where a signal ends the process before that runs, the status is
/// 128 + N.
#[pyfunction]
pub fn command_follows() {
    signals::command_follows();
}

/// This process goes on with the mount of the one that it was forked from.
#[pyfunction]
pub fn own_signals() {
    signals::own();
}

/// Signals come to whoever reads their numbers. One that ends a mount has the process end within 5
/// seconds in any case.
#[pyfunction]
pub fn serve_signals() {
    signals::enter(Phase::Served);
}

/// Signals wait until `serve_signals` or `forward_signals`. Returns the one that asked for an end
/// before, or 0.
#[pyfunction]
#[must_use]
pub fn hold_signals() -> i32 {
    signals::enter(Phase::Held);
    signals::asked_to_end()
}

/// Signals that end a mount are sent on to process `child` instead.
#[pyfunction]
pub fn forward_signals(child: i32) {
    signals::forward(child);
}

/// The exit status in case that the process has to be ended: 1 if nothing was said.
#[pyfunction]
pub fn set_exit_status(status: i32) {
    signals::set_status(status);
}

/// Has all threads of the process allocate from so many arenas, where glibc's malloc is used and the
/// environment says nothing else (`MALLOC_ARENA_MAX`): what one thread gives back, others take. For a process
/// with one thread.
#[pyfunction]
pub fn set_malloc_arenas(count: i32) {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: it changes how memory is handed out from now on, and nothing that was.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, count);
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Ends the process at once; what is still mounted is taken out of the tree.
#[pyfunction]
pub fn exit_now(status: i32) {
    super::last_resort::detach();
    super::last_resort::exit(status);
}
