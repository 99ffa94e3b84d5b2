// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which errno an exception becomes, and what the log says of it.

use pyo3::call::PyCallArgs;
use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::llfuse::errors;
use super::modules::loaded;
use crate::fs::Errno;
use crate::report::{LOGGER, phrases};

/// What was raised, as far as errnos go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    /// `llfuse.FUSEError`.
    Fuse(Errno),
    /// What tells of a server or the network, see `arvados_fuse.apierrors`.
    Server,
    /// `OSError` with an errno of the system's.
    System(Errno),
    /// `NotImplementedError`.
    NotImplemented,
    /// Any other: a defect.
    Other,
}

/// Whose handler raised it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handler {
    /// One of ours.
    Ours,
    /// One of any file system written against llfuse.
    Any,
}

/// The table of errnos for exceptions.
///
/// | exception | of our handlers | of any others |
/// | --- | --- | --- |
/// | `llfuse.FUSEError` | its own | its own |
/// | what tells of a server or the network | EIO | EIO; an `OSError` its own |
/// | `OSError` with an errno | its own | its own |
/// | `NotImplementedError` | ENOTSUP | ENOSYS |
/// | any other | EIO | EIO |
fn errno(raised: Raised, handler: Handler) -> Errno {
    match (raised, handler) {
        (Raised::Fuse(own) | Raised::System(own), Handler::Ours | Handler::Any) => own,
        (Raised::NotImplemented, Handler::Ours) => Errno::ENOTSUP,
        (Raised::NotImplemented, Handler::Any) => Errno::ENOSYS,
        (Raised::Server | Raised::Other, Handler::Ours | Handler::Any) => Errno::EIO,
    }
}

impl Raised {
    /// What an exception is. `is_server` is asked where its class does not tell: of ours before
    /// anything but `FUSEError`, of any others last.
    fn of(
        py: Python<'_>,
        error: &PyErr,
        handler: Handler,
        is_server: impl FnOnce() -> bool,
    ) -> Raised {
        if let Some(own) = errors::fuse_errno(py, error) {
            return Raised::Fuse(own);
        }
        let plain = || {
            if error.is_instance_of::<PyOSError>(py)
                && let Some(own) = errors::os_errno(py, error)
            {
                return Some(Raised::System(own));
            }
            error.is_instance_of::<PyNotImplementedError>(py).then_some(Raised::NotImplemented)
        };
        let server = || is_server().then_some(Raised::Server);
        match handler {
            Handler::Ours => server().or_else(plain),
            Handler::Any => plain().or_else(server),
        }
        .unwrap_or(Raised::Other)
    }
}

/// Looks an exception up, and logs it where it tells of a server (a line, after `server`) or of a defect
/// (with its traceback, after `defect`). A line like another of the last minute is only counted.
fn look_up(py: Python<'_>, error: PyErr, handler: Handler, server: &str, defect: &str) -> Errno {
    let raised = Raised::of(py, &error, handler, || report_server_failure(py, server, &error));
    if raised == Raised::Other {
        log_traceback(py, defect, error);
    }
    errno(raised, handler)
}

/// The errno of an exception that a handler of ours raised.
pub fn errno_of(py: Python<'_>, error: PyErr) -> Errno {
    let phrase = phrase_of(py, &error);
    look_up(py, error, Handler::Ours, phrase, phrases::UNHANDLED)
}

/// The errno of an exception that the handler of `operation` of any llfuse file system raised. The mount
/// lives on in every case.
pub fn errno_of_any(py: Python<'_>, operation: &str, error: PyErr) -> Errno {
    let what = format!("the handler of {operation} raised an exception");
    look_up(py, error, Handler::Any, &what, &what)
}

/// What crunch-run looks for, by the exception of the SDK; see [`phrases`].
fn phrase_of(py: Python<'_>, error: &PyErr) -> &'static str {
    let known =
        [("KeepWriteError", phrases::KEEP_WRITE), ("NotFoundError", phrases::BLOCK_NOT_FOUND)];
    let is = |class| match loaded(py, "arvados.errors", class) {
        Ok(Some(class)) => error.is_instance(py, &class),
        _ => false,
    };
    known.iter().find(|(class, _)| is(class)).map_or(phrases::UNHANDLED, |(_, phrase)| phrase)
}

/// The errno that an exception in a handler becomes; see `catch_exceptions`.
#[pyfunction]
#[must_use]
pub fn errno_of_exception(error: &Bound<'_, PyAny>) -> i32 {
    errno_of(error.py(), PyErr::from_value(error.clone())).raw()
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
    let function = loaded(py, "arvados_fuse.apierrors", function).ok().flatten()?;
    function.call1(args).ok()?.extract().ok()
}

/// Writes an exception and its traceback to the log of `arvados.arvados_fuse`; a line alone where it
/// tells of a server or the network.
pub fn log_exception(py: Python<'_>, what: &str, error: PyErr) {
    if !report_server_failure(py, what, &error) {
        log_traceback(py, what, error);
    }
}

fn log_traceback(py: Python<'_>, what: &str, error: PyErr) {
    let logged = py.import("logging").and_then(|logging| {
        let logger = logging.call_method1("getLogger", (LOGGER,))?;
        let details = PyDict::new(py);
        details.set_item("exc_info", error.clone_ref(py).into_value(py))?;
        logger.call_method("error", (what,), Some(&details))
    });
    if logged.is_err() {
        log::error!("{what}: {error}");
    }
}

/// Adds the function of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(errno_of_exception, m)?)
}
