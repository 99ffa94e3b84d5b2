// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `FileNode`, on which `arvados_fuse.fusefile.File` stands.

use pyo3::exceptions::PyPermissionError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use super::node::{Node, NodeCore};

/// Base of every file: empty, and not writable, until a subclass says otherwise.
#[pyclass(extends = Node, subclass, frozen, module = "llfuse._core")]
pub struct FileNode;

#[pymethods]
impl FileNode {
    #[new]
    #[classmethod]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(parent_inode, _mtime=0, poll=False, poll_time=0)"
    )]
    fn new(
        cls: &Bound<'_, PyType>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let node = Node { core: NodeCore::new(cls, false)? };
        Ok(PyClassInitializer::from(node).add_subclass(FileNode))
    }

    /// A file in directory `parent_inode`, changed last at `_mtime` (seconds since the epoch); with
    /// `poll`, it goes stale `poll_time` seconds after it was refreshed.
    #[pyo3(signature = (parent_inode, _mtime=None, poll=false, poll_time=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        parent_inode: &Bound<'_, PyAny>,
        _mtime: Option<&Bound<'_, PyAny>>,
        poll: bool,
        poll_time: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        slf.setattr("parent_inode", parent_inode)?;
        match _mtime {
            Some(mtime) => slf.setattr("_mtime", mtime)?,
            None => slf.setattr("_mtime", 0)?,
        }
        slf.setattr("_poll", poll)?;
        match poll_time {
            Some(poll_time) => slf.setattr("_poll_time", poll_time),
            None => slf.setattr("_poll_time", 0),
        }
    }

    /// Size in bytes.
    fn size(&self) -> u64 {
        0
    }

    /// Up to `size` bytes from offset `off`.
    #[pyo3(signature = (off, size, num_retries=0))]
    #[allow(unused_variables)]
    fn readfrom<'py>(
        &self,
        py: Python<'py>,
        off: u64,
        size: u64,
        num_retries: u32,
    ) -> Bound<'py, PyBytes> {
        PyBytes::new(py, b"")
    }

    /// Writes at offset `off`; returns how many bytes. This kind of file refuses.
    #[pyo3(signature = (off, size, num_retries=0))]
    #[allow(unused_variables)]
    fn writeto(&self, off: u64, size: &Bound<'_, PyAny>, num_retries: u32) -> PyResult<u64> {
        Err(PyPermissionError::new_err((libc::EPERM, "Not writable")))
    }

    /// Last change, in seconds since the epoch.
    fn mtime<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.getattr("_mtime")
    }

    /// Drops the contents.
    fn clear(&self) {}

    /// Whether it can be changed.
    fn writable(&self) -> bool {
        false
    }

    /// Saves what was changed.
    fn flush(&self) {}
}
