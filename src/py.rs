// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Python binding: the only user of pyo3.
//!
//! One extension module, `llfuse._core`, serves both packages: `llfuse` (the loop, its lock, its
//! data classes) and `arvados_fuse` (nodes, inode table, operations).

pub mod clock;
pub mod exceptions;
pub mod gil;
pub mod inodes;
pub mod keep;
pub mod llfuse;
pub mod manifest;
pub mod modules;
pub mod nodes;
pub mod operations;
pub mod request;
pub mod session;

use pyo3::prelude::*;

/// The extension module.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    clock::remember(m.py())?;
    m.add("HAS_FAULT_INJECTION", cfg!(feature = "fault-injection"))?;
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    llfuse::register(m)?;
    m.add_class::<keep::KeepReader>()?;
    manifest::register(m)?;
    nodes::register(m)?;
    inodes::register(m)?;
    operations::register(m)?;
    exceptions::register(m)?;
    session::register(m)
}
