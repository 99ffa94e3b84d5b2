// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the core logs goes to Python's logging, under the names of its modules.

use log::{Level, LevelFilter, Log, Metadata, Record};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The bridge, without what fuser calls an error and is none: an answer to a request that the kernel
/// has given up meanwhile, because whoever made it was interrupted, and the end of a session that is
/// left.
struct Bridge(pyo3_log::Logger);

fn is_no_error(record: &Record<'_>) -> bool {
    if !record.target().starts_with("fuser") {
        return false;
    }
    let message = record.args().to_string();
    (message.starts_with("Failed to send FUSE reply:")
        && message.contains(&format!("os error {}", libc::ENOENT)))
        || message.starts_with("Short read of FUSE request header (0 ")
}

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && !is_no_error(record) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Installs the bridge, once. Debug messages of the FUSE loop are off until somebody asks for
/// them: each would take the GIL.
///
/// # Errors
/// Where the bridge cannot be made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let logger = pyo3_log::Logger::new(py, pyo3_log::Caching::LoggersAndLevels)?;
    let bridge = Box::new(Bridge(logger.filter(LevelFilter::Trace)));
    if log::set_boxed_logger(bridge).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    Ok(())
}

/// Writes a line to the log of `arvados.arvados_fuse`, at a level: `error`, `warn`, `info` or
/// `debug`. One of the same kind as another of the last minute is only counted, and told with the next;
/// without a `kind`, lines are of one kind that differ in nothing but request ids, UUIDs and hashes.
///
/// # Errors
/// `ValueError` for another level.
#[pyfunction]
#[pyo3(signature = (message, level="error", kind=None))]
pub fn report(message: &str, level: &str, kind: Option<&str>) -> PyResult<()> {
    let level = level.parse::<Level>().map_err(|e| PyValueError::new_err(e.to_string()))?;
    match kind {
        Some(kind) => crate::report::report_as(level, kind, message),
        None => crate::report::report(level, message),
    }
    Ok(())
}

/// Which of the core's messages are handed to Python's logging at all: `error`, `warn`, `info`,
/// `debug`, `trace` or `off`.
///
/// # Errors
/// `ValueError` for another word.
#[pyfunction]
pub fn set_log_level(level: &str) -> PyResult<()> {
    let level = level.parse::<LevelFilter>().map_err(|e| PyValueError::new_err(e.to_string()))?;
    log::set_max_level(level);
    Ok(())
}
