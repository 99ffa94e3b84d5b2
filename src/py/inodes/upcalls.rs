// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! How the core's own threads call Python about inode entries.

use pyo3::prelude::*;

use crate::fs::inodes::Upcalls;
use crate::fs::{Errno, Halt, Ino};
use crate::py::exceptions::{errno_of, log_exception};
use crate::py::gil::UpcallScope;
use crate::py::llfuse::{lock, notify};
use crate::py::request::{RequestScope, exception};

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

    fn request(&self, body: &mut dyn FnMut()) {
        let _request = RequestScope::begin();
        body();
    }

    fn invalidate_inode(&self, ino: Ino) {
        notify::invalidate_inode(ino, false);
    }

    fn invalidate_attributes(&self, ino: Ino) {
        notify::invalidate_inode(ino, true);
    }

    fn is_invalidating(&self, ino: Ino) -> bool {
        notify::is_invalidating(ino)
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
            halt @ Halt::Upcall(_) => Python::attach(|py| errno_of(py, exception(halt))),
        }
    }

    fn report(&self, what: &str, halt: Halt) {
        Python::attach(|py| log_exception(py, what, exception(halt)));
    }
}
