// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `Inodes` and `InodeCache`, as Python sees the inode table.

pub mod cache;
pub mod replaced;
pub mod table;
pub mod upcalls;

use pyo3::prelude::*;

/// Adds the classes of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    replaced::ship(m.py().get_type::<cache::InodeCache>().unbind());
    m.add("DEFAULT_CAP", cache::DEFAULT_CAP)?;
    m.add_class::<cache::InodeCache>()?;
    m.add_class::<cache::EvictCandidates>()?;
    m.add_class::<table::Inodes>()?;
    m.add_class::<table::InodeCounter>()?;
    Ok(())
}
