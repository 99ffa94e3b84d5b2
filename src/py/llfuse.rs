// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The llfuse API, for any file system written against it.
//!
//! Handlers written in Python run under `llfuse.lock`, which is taken before the GIL, never while
//! holding it. No thread exists before `main`.

pub mod attributes;
pub mod errors;
mod fork_safe;
pub mod last_resort;
pub mod lock;
pub mod logging;
pub mod notify;
pub mod posix;
pub mod process;
pub mod python_fs;
pub mod signals;

use pyo3::prelude::*;

/// Adds the classes and functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<attributes::EntryAttributes>()?;
    m.add_class::<attributes::SetattrFields>()?;
    m.add_class::<attributes::RequestContext>()?;
    m.add_class::<attributes::StatvfsData>()?;
    m.add_class::<lock::Lock>()?;
    m.add_class::<lock::NoLockManager>()?;
    m.add("lock", Py::new(m.py(), lock::Lock)?)?;
    m.add("lock_released", Py::new(m.py(), lock::NoLockManager)?)?;
    m.add_function(wrap_pyfunction!(notify::invalidate_inode_py, m)?)?;
    m.add_function(wrap_pyfunction!(notify::invalidate_entry_py, m)?)?;
    m.add_function(wrap_pyfunction!(notify::notify_store_py, m)?)?;
    m.add_function(wrap_pyfunction!(lock::holds_lock, m)?)?;
    m.add_function(wrap_pyfunction!(process::catch_signals, m)?)?;
    m.add_function(wrap_pyfunction!(process::command_follows, m)?)?;
    m.add_function(wrap_pyfunction!(process::exit_now, m)?)?;
    m.add_function(wrap_pyfunction!(process::own_signals, m)?)?;
    m.add_function(wrap_pyfunction!(process::serve_signals, m)?)?;
    m.add_function(wrap_pyfunction!(process::hold_signals, m)?)?;
    m.add_function(wrap_pyfunction!(process::forward_signals, m)?)?;
    m.add_function(wrap_pyfunction!(process::set_exit_status, m)?)?;
    m.add_function(wrap_pyfunction!(process::set_malloc_arenas, m)?)?;
    m.add_function(wrap_pyfunction!(posix::listdir, m)?)?;
    m.add_function(wrap_pyfunction!(posix::setxattr, m)?)?;
    m.add_function(wrap_pyfunction!(posix::getxattr, m)?)?;
    m.add_function(wrap_pyfunction!(logging::report, m)?)?;
    m.add_function(wrap_pyfunction!(logging::set_log_level, m)?)?;
    logging::install(m.py())
}
