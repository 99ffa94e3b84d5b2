// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What the core logs goes to Python's logging, under the names of its modules.

use log::LevelFilter;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Installs the bridge, once. Debug messages of the FUSE loop are off until somebody asks for
/// them: each would take the GIL.
///
/// # Errors
/// Where the bridge cannot be made.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let logger = pyo3_log::Logger::new(py, pyo3_log::Caching::LoggersAndLevels)?;
    if logger.filter(LevelFilter::Trace).install().is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    Ok(())
}

/// Which of the core's messages are handed to Python's logging at all: `error`, `warn`, `info`,
/// `debug`, `trace` or `off`.
///
/// # Errors
/// ValueError for another word.
#[pyfunction]
pub fn set_log_level(level: &str) -> PyResult<()> {
    let level = level.parse::<LevelFilter>().map_err(|e| PyValueError::new_err(e.to_string()))?;
    log::set_max_level(level);
    Ok(())
}
