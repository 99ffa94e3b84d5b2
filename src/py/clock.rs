// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The time of day, as Python programs see it.
//!
//! Suites replace `time.time` and expect staleness to follow. Whether it is the original is
//! looked at whenever the time is asked for with the GIL held; between two such looks, a thread
//! without the GIL goes by the last one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::fs::Timestamp;

static ORIGINAL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static REPLACED: AtomicBool = AtomicBool::new(false);

/// Remembers the `time.time` of an unpatched interpreter; called when the module is imported.
///
/// # Errors
/// Where the module `time` cannot be imported.
pub fn remember(py: Python<'_>) -> PyResult<()> {
    let function = py.import("time")?.getattr("time")?;
    // A replacement that is in place at import is a Python object; the original is built in.
    if function.get_type().name()? == "builtin_function_or_method" {
        let _ = ORIGINAL.set(py, function.unbind());
    }
    Ok(())
}

/// `time.time` as it is at present, and whether it is the original.
fn current(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, bool)> {
    let module = MODULE.get_or_try_init(py, || py.import("time").map(|m| m.into_any().unbind()))?;
    let function = module.bind(py).getattr("time")?;
    let original = ORIGINAL.get(py).is_some_and(|o| o.is(&function));
    REPLACED.store(!original, Ordering::Relaxed);
    Ok((function, original))
}

/// Seconds since the epoch, from whatever `time.time` is at present.
///
/// # Errors
/// What a replacement raises.
pub fn now(py: Python<'_>) -> PyResult<f64> {
    let (function, original) = current(py)?;
    if original { Ok(Timestamp::now().as_secs_f64()) } else { function.call0()?.extract() }
}

/// As [`now`], as the core has times.
///
/// # Errors
/// What a replacement raises.
pub fn timestamp(py: Python<'_>) -> PyResult<Timestamp> {
    now(py).map(Timestamp::from_secs_f64)
}

/// A period of so many seconds; what is no period (negative, NaN) is none.
#[must_use]
pub fn period(seconds: f64) -> Duration {
    match Duration::try_from_secs_f64(seconds) {
        Ok(period) => period,
        Err(_) if seconds > 0.0 => Duration::MAX,
        Err(_) => Duration::ZERO,
    }
}

/// Whether `time.time` was not the original when that was last looked at.
#[must_use]
pub fn is_replaced() -> bool {
    REPLACED.load(Ordering::Relaxed)
}

/// Looks whether `time.time` is the original; threads without the GIL go by the answer.
///
/// # Errors
/// Where the module `time` cannot be imported.
pub fn look(py: Python<'_>) -> PyResult<()> {
    current(py).map(drop)
}
