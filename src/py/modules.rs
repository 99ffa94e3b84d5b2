// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Looking into modules of Python that may be loaded or not.

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What `module` calls `name`, if that module is loaded and has it. Imports nothing.
///
/// # Errors
/// What asking the module raises.
pub fn loaded<'py>(
    py: Python<'py>,
    module: &str,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    match modules.get_item(module)? {
        Some(module) => module.getattr_opt(name),
        None => Ok(None),
    }
}
