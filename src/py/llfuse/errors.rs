// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `llfuse.FUSEError`, and the errnos that exceptions carry.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::fs::Errno;

/// The kernel takes smaller ones for errnos.
const MAX_ERRNO: i32 = 4096;

static FUSE_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn fuse_error_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    FUSE_ERROR.import(py, "llfuse._errors", "FUSEError")
}

/// `llfuse.FUSEError` with that errno.
#[must_use]
pub fn fuse_error(errno: Errno) -> PyErr {
    Python::attach(|py| {
        let made = fuse_error_class(py).and_then(|class| class.call1((errno.raw(),)));
        match made {
            Ok(error) => PyErr::from_value(error),
            Err(_) => PyRuntimeError::new_err(format!("FUSE error {errno}")),
        }
    })
}

/// The errno of a `FUSEError`; none for any other exception.
#[must_use]
pub fn fuse_errno(py: Python<'_>, error: &PyErr) -> Option<Errno> {
    let class = fuse_error_class(py).ok()?;
    if !error.is_instance(py, class) {
        return None;
    }
    let number = error.value(py).getattr("errno").and_then(|n| n.extract::<i32>());
    Some(number.map_or(Errno::EIO, Errno::from_raw))
}

/// The errno of an `OSError`. None where it has none, or a number of a library's own: `ssl.SSLError`
/// and the errors of name resolution are no errors of the system.
#[must_use]
pub fn os_errno(py: Python<'_>, error: &PyErr) -> Option<Errno> {
    let of_library = |class: Bound<'_, PyAny>| {
        let name = class.cast_into::<PyType>().ok().and_then(|class| class.qualname().ok());
        name.is_some_and(|name| ["SSLError", "gaierror", "herror"].iter().any(|own| name == *own))
    };
    if error.get_type(py).mro().iter().any(of_library) {
        return None;
    }
    let number = error.value(py).getattr("errno").and_then(|n| n.extract::<i32>()).ok()?;
    (1..MAX_ERRNO).contains(&number).then(|| Errno::from_raw(number))
}
