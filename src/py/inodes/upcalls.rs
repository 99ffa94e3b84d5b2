// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How the core's own threads call Python about inode entries.

use pyo3::call::PyCallArgs;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;

use crate::fs::inodes::Upcalls;
use crate::fs::{Errno, Halt, Ino};
use crate::py::gil::{UpcallScope, exception};
use crate::py::llfuse::{lock, notify};
use crate::py::nodes::overrides::loaded_class;
use crate::py::operations::exceptions;

/// Python, as the inode table calls it: under `llfuse.lock` and the GIL, one call at a time.
pub struct Python3;

impl Upcalls for Python3 {
    fn run(&self, body: &mut dyn FnMut()) {
        if lock::is_held_by_me() {
            Python::attach(|py| {
                let _scope = UpcallScope::enter(py);
                body();
            });
        } else {
            lock::with_llfuse_lock(|py| {
                let _scope = UpcallScope::enter(py);
                body();
            });
        }
    }

    fn invalidate_inode(&self, ino: Ino) {
        notify::invalidate_inode(ino, false);
    }

    fn invalidate_entry(&self, parent: Ino, name: &[u8]) {
        notify::invalidate_entry(parent, name);
    }

    fn expire_entry(&self, parent: Ino, name: &[u8]) {
        notify::expire_entry(parent, name, true);
    }

    fn prune(&self, inos: Vec<Ino>) {
        notify::prune(inos, None);
    }

    fn errno_of(&self, halt: Halt) -> Errno {
        match halt {
            Halt::Errno(errno) => errno,
            halt => Python::attach(|py| exceptions::errno_of(py, exception(halt))),
        }
    }

    fn report(&self, what: &str, halt: Halt) {
        Python::attach(|py| log_exception(py, what, exception(halt)));
    }
}

/// What the log is to say of an exception that tells of a server or the network; None for any other.
pub fn line_of(py: Python<'_>, error: &PyErr) -> Option<String> {
    ask(py, "line_of", (error.value(py),)).flatten()
}

/// Logs in one line, `what` before it, what a server or the network did; false where neither is to
/// blame.
pub fn report_server_failure(py: Python<'_>, what: &str, error: &PyErr) -> bool {
    ask(py, "report_server_failure", (error.value(py), what)).unwrap_or(false)
}

/// What `arvados_fuse.apierrors` says of an exception, if it is loaded.
fn ask<'py, T: FromPyObjectOwned<'py>>(
    py: Python<'py>,
    function: &str,
    args: impl PyCallArgs<'py>,
) -> Option<T> {
    let function = loaded_class(py, "arvados_fuse.apierrors", function).ok().flatten()?;
    function.call1(args).ok()?.extract().ok()
}

/// Writes an exception and its traceback to the log of `arvados.arvados_fuse`; a line alone where it
/// tells of a server or the network.
pub fn log_exception(py: Python<'_>, what: &str, error: PyErr) {
    if report_server_failure(py, what, &error) {
        return;
    }
    let logged = py.import("logging").and_then(|logging| {
        let logger = logging.call_method1("getLogger", ("arvados.arvados_fuse",))?;
        let details = pyo3::types::PyDict::new(py);
        details.set_item("exc_info", error.clone_ref(py).into_value(py))?;
        logger.call_method("error", (what,), Some(&details))
    });
    if logged.is_err() {
        log::error!("{what}: {error}");
    }
}
