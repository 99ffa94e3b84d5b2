// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The collection tree in Python's hands: to look at a manifest, and to compare with the SDK.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::collection::{NodeId, Tree};

/// Locator, offset in the block, length.
type Segment = (String, u32, u32);

/// A manifest, read as the mount reads it. Raises `ValueError` with the line and the reason where
/// the text is no manifest.
#[pyclass(module = "llfuse._core", frozen)]
pub struct ManifestTree(Tree);

impl ManifestTree {
    fn paths(&self, directories: bool) -> impl Iterator<Item = NodeId> {
        (1..self.0.len() as u32).map(NodeId).filter(move |id| self.0.is_dir(*id) == directories)
    }
}

#[pymethods]
impl ManifestTree {
    #[new]
    fn new(py: Python<'_>, manifest_text: &str) -> PyResult<Self> {
        py.detach(|| Tree::parse(manifest_text))
            .map(Self)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Each file's path, size in bytes, and segments: locator, offset in the block, length.
    fn files(&self) -> Vec<(String, u64, Vec<Segment>)> {
        let segments = |id| {
            let pieces = self.0.segments(id);
            pieces.map(|p| (self.0.locator(p.block).to_string(), p.offset, p.len)).collect()
        };
        self.paths(false).map(|id| (self.0.path(id), self.0.size(id), segments(id))).collect()
    }

    /// The paths of all directories but the top one.
    fn directories(&self) -> Vec<String> {
        self.paths(true).map(|id| self.0.path(id)).collect()
    }

    /// The manifest in normal form, with the locators' hints.
    fn normalized(&self) -> String {
        self.0.normalized()
    }

    /// The manifest in normal form, without hints.
    fn stripped(&self) -> String {
        self.0.stripped()
    }

    /// The portable data hash of the normal form.
    fn portable_data_hash(&self) -> String {
        self.0.portable_data_hash().to_string()
    }

    /// Bytes of memory that the tree takes.
    fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Whether a name is there that no file system can show.
    fn has_odd_names(&self) -> bool {
        self.0.has_odd_names()
    }
}

/// `strip_manifest(text)`: the text with all hints but the size taken off its locators.
#[pyfunction]
#[pyo3(signature = (manifest_text, /))]
fn strip_manifest(manifest_text: &str) -> String {
    crate::manifest::strip(manifest_text)
}

/// Adds the class to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ManifestTree>()?;
    m.add_function(wrap_pyfunction!(strip_manifest, m)?)
}
