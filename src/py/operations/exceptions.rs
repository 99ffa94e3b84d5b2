// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which errno an exception in a handler of ours becomes.

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;

use crate::fs::Errno;
use crate::py::inodes::upcalls::{log_exception, report_server_failure};
use crate::py::llfuse::errors;
use crate::py::nodes::overrides::loaded_class;
use crate::report::phrases;

/// The errno of an exception; one that nobody expects is logged with its traceback.
///
/// | exception | errno |
/// | --- | --- |
/// | `llfuse.FUSEError` | its own |
/// | `arvados.errors.KeepWriteError`, `NotFoundError` (a block) | EIO, logged in a line |
/// | any other that tells of a server or the network, see `arvados_fuse.apierrors` | EIO, logged in a line |
/// | `OSError` with an errno | its own |
/// | `NotImplementedError` | ENOTSUP |
/// | any other | EIO, logged with its traceback |
///
/// A line like another of the last minute is only counted.
pub fn errno_of(py: Python<'_>, error: PyErr) -> Errno {
    if let Some(errno) = errors::fuse_errno(py, &error) {
        return errno;
    }
    if report_server_failure(py, phrase_of(py, &error), &error) {
        return Errno::EIO;
    }
    if error.is_instance_of::<PyOSError>(py)
        && let Some(errno) = errors::os_errno(py, &error)
    {
        return errno;
    }
    if error.is_instance_of::<PyNotImplementedError>(py) {
        return Errno::ENOTSUP;
    }
    log_exception(py, phrases::UNHANDLED, error);
    Errno::EIO
}

fn phrase_of(py: Python<'_>, error: &PyErr) -> &'static str {
    let known =
        [("KeepWriteError", phrases::KEEP_WRITE), ("NotFoundError", phrases::BLOCK_NOT_FOUND)];
    let is = |class| match loaded_class(py, "arvados.errors", class) {
        Ok(Some(class)) => error.is_instance(py, &class),
        _ => false,
    };
    known.iter().find(|(class, _)| is(class)).map_or(phrases::UNHANDLED, |(_, phrase)| phrase)
}

/// The errno that an exception in a handler becomes; see `catch_exceptions`.
#[pyfunction]
pub fn errno_of_exception(error: &Bound<'_, PyAny>) -> i32 {
    errno_of(error.py(), PyErr::from_value(error.clone())).raw()
}
