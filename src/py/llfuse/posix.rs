// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! System calls that release the GIL: a program that serves a mount may call them on it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

fn text(value: &Bound<'_, PyAny>, what: &str) -> PyResult<PathBuf> {
    if value.is_instance_of::<PyString>() {
        value.extract()
    } else {
        Err(PyTypeError::new_err(format!("*{what}* argument must be of type str")))
    }
}

fn os_error(error: &io::Error, path: &std::path::Path) -> PyErr {
    let number = error.raw_os_error().unwrap_or(libc::EIO);
    let words = io::Error::from_raw_os_error(number).to_string();
    let words = words.split(" (os error").next().unwrap_or("").to_owned();
    PyOSError::new_err((number, words, path.as_os_str().to_owned()))
}

/// Like `os.listdir`: the names in directory `path`, a str.
///
/// # Errors
/// `TypeError` where `path` is no str; `OSError` as the system answers.
#[pyfunction]
pub fn listdir(py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<Vec<std::ffi::OsString>> {
    let path = text(path, "path")?;
    py.detach(|| {
        std::fs::read_dir(&path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>()
    })
    .map_err(|error| os_error(&error, &path))
}

fn check_namespace(namespace: &str) -> PyResult<()> {
    if ["system", "user"].contains(&namespace) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!(
            "*namespace* parameter must be \"system\" or \"user\", not {namespace}"
        )))
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Sets extended attribute `name` of `path` to `value` (bytes). `namespace` matters on FreeBSD only.
///
/// # Errors
/// `TypeError` or `ValueError` for an argument; `OSError` as the system answers.
#[pyfunction]
#[pyo3(signature = (path, name, value, namespace="user"))]
pub fn setxattr(
    py: Python<'_>,
    path: &Bound<'_, PyAny>,
    name: &Bound<'_, PyAny>,
    value: &Bound<'_, PyBytes>,
    namespace: &str,
) -> PyResult<()> {
    let (path, name) = (text(path, "path")?, text(name, "name")?);
    check_namespace(namespace)?;
    let value = value.as_bytes();
    let call = || {
        let (path, name) = (c_string(path.as_os_str())?, c_string(name.as_os_str())?);
        // SAFETY: both strings end with a NUL and outlive the call, as do the value's bytes, whose
        // length is given.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    py.detach(call).map_err(|error| os_error(&error, &path))
}

/// The value (bytes) of extended attribute `name` of `path`. With `size_guess` right, one system
/// call does. `namespace` matters on FreeBSD only.
///
/// # Errors
/// `TypeError` or `ValueError` for an argument; `OSError` as the system answers.
#[pyfunction]
#[pyo3(signature = (path, name, size_guess=128, namespace="user"))]
pub fn getxattr<'py>(
    py: Python<'py>,
    path: &Bound<'_, PyAny>,
    name: &Bound<'_, PyAny>,
    size_guess: usize,
    namespace: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let (path, name) = (text(path, "path")?, text(name, "name")?);
    check_namespace(namespace)?;
    let call = || {
        let (path, name) = (c_string(path.as_os_str())?, c_string(name.as_os_str())?);
        let mut value = vec![0_u8; size_guess.max(1)];
        loop {
            // SAFETY: both strings end with a NUL and outlive the call; the buffer is written up
            // to the length given.
            #[allow(unsafe_code)]
            let result = unsafe {
                libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
            };
            if let Ok(length) = usize::try_from(result) {
                value.truncate(length);
                return Ok(value);
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ERANGE) || value.len() > (64 << 10) {
                return Err(error);
            }
            value.resize(value.len() * 2, 0);
        }
    };
    let value = py.detach(call).map_err(|error| os_error(&error, &path))?;
    Ok(PyBytes::new(py, &value))
}
