// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How the core's own threads call Python about inode entries.

use pyo3::prelude::*;

use crate::fs::inodes::Above;
use crate::fs::{Halt, Ino};
use crate::py::gil::{Company, exception};
use crate::py::llfuse::{lock, notify};

/// Python, as the inode table calls it: under `llfuse.lock` and the GIL, one call at a time.
pub struct Python3;

impl Above for Python3 {
    fn run(&self, body: &mut dyn FnMut()) {
        if lock::is_held_by_me() {
            Python::attach(|py| {
                let _company = Company::enter(py);
                body();
            });
        } else {
            lock::with_llfuse_lock(|py| {
                let _company = Company::enter(py);
                body();
            });
        }
    }

    fn invalidate_inode(&self, ino: Ino) {
        notify::invalidate_inode(ino, false);
    }

    fn report(&self, what: &str, halt: Halt) {
        Python::attach(|py| log_exception(py, what, exception(halt)));
    }
}

/// Writes an exception and its traceback to the log of `arvados.arvados_fuse`.
pub fn log_exception(py: Python<'_>, what: &str, error: PyErr) {
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
