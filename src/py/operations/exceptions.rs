// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which errno an exception in a handler of ours becomes.

use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;

use crate::fs::Errno;
use crate::py::inodes::company::log_exception;
use crate::py::llfuse::errors;
use crate::py::nodes::overrides::loaded_class;

/// The errno of an exception; one that nobody expects is logged with its traceback.
///
/// | exception | errno |
/// | --- | --- |
/// | `llfuse.FUSEError` | its own |
/// | `OSError` with an errno | its own |
/// | `NotImplementedError` | ENOTSUP |
/// | `arvados.errors.KeepWriteError`, `NotFoundError` (a block) | EIO, logged in a line |
/// | what a server or the network did (`apierrors.report_server_failure`) | EIO, logged in a line |
/// | any other | EIO, logged with its traceback |
pub fn errno_of(py: Python<'_>, error: PyErr) -> Errno {
    if let Some(errno) = errors::fuse_errno(py, &error) {
        return errno;
    }
    if is_server_failure(py, &error) {
        return Errno::EIO;
    }
    if error.is_instance_of::<PyOSError>(py) {
        let number = error.value(py).getattr("errno").and_then(|n| n.extract::<i32>());
        if let Ok(number) = number {
            return Errno::from_raw(number);
        }
    }
    if error.is_instance_of::<PyNotImplementedError>(py) {
        return Errno::ENOTSUP;
    }
    for (class, what) in
        [("KeepWriteError", "Keep write error"), ("NotFoundError", "Block not found error")]
    {
        if let Ok(Some(class)) = loaded_class(py, "arvados.errors", class)
            && error.is_instance(py, &class)
        {
            log::error!(target: "arvados.arvados_fuse", "{what}: {}", error.value(py));
            return Errno::EIO;
        }
    }
    log_exception(py, "Unhandled exception during FUSE operation", error);
    Errno::EIO
}

/// Whether a server is to blame; that is logged in a line then.
fn is_server_failure(py: Python<'_>, error: &PyErr) -> bool {
    py.import("arvados_fuse.apierrors")
        .and_then(|m| m.call_method1("report_server_failure", (error.value(py),))?.extract())
        .unwrap_or(false)
}

/// The errno that an exception in a handler becomes; see `catch_exceptions`.
#[pyfunction]
pub fn errno_of_exception(error: &Bound<'_, PyAny>) -> i32 {
    errno_of(error.py(), PyErr::from_value(error.clone())).raw()
}
