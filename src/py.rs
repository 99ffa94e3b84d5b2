// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The Python binding: the only user of pyo3.
//!
//! One extension module, `llfuse._core`, serves both packages: `llfuse` (the loop, its lock, its
//! data classes) and `arvados_fuse` (nodes, inode table, operations).
//!
//! Its modules stand on floors. Each names only what is on a floor below, none are in a circle, and
//! this one, which registers them all, is named by none (`tests/rust/layers.rs`). From the top:
//!
//! - [`session`] serves an `Operations` object, or any other written against llfuse.
//! - [`operations`] decides which requests Python is called for.
//! - [`events`] tells Python what happened to entries of a mount.
//! - [`inodes`]: the inode table and cache.
//! - [`nodes`]: what is an inode entry, and what the core answers for it.
//! - [`api`], [`keep`], [`manifest`], [`metrics`]: requests to the API, blocks, manifests and the registry of
//!   metrics in Python's hands.
//! - [`exceptions`]: errnos of exceptions, and what the log says of them. [`request`]: how a request enters
//!   Python.
//! - [`llfuse`]: the API, which knows nothing of Arvados. [`overrides`]: what a program overrides.
//! - [`clock`], [`gil`], [`modules`].

pub mod api;
pub mod clock;
pub mod events;
pub mod exceptions;
pub mod gil;
pub mod inodes;
pub mod keep;
pub mod llfuse;
pub mod manifest;
pub mod metrics;
pub mod modules;
pub mod nodes;
pub mod operations;
pub mod overrides;
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
    m.add_class::<api::ApiTransport>()?;
    m.add_class::<keep::KeepReader>()?;
    manifest::register(m)?;
    metrics::register(m)?;
    nodes::register(m)?;
    inodes::register(m)?;
    operations::register(m)?;
    exceptions::register(m)?;
    m.add_class::<events::EventBus>()?;
    session::register(m)
}
