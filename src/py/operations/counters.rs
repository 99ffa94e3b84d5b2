// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The counters of a mount, as Python sees them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;

use crate::fs::operations::{Counters, Operations};
use crate::py::nodes::any_node::AnyNode;

/// A number that only grows, with the interface of the SDK's counters.
#[pyclass(frozen, module = "llfuse._core")]
pub struct Counter {
    counters: Arc<Counters>,
    pick: fn(&Counters) -> &AtomicU64,
}

impl Counter {
    /// The counter of a mount that `pick` chooses.
    #[must_use]
    pub fn new(core: &Operations<AnyNode>, pick: fn(&Counters) -> &AtomicU64) -> Self {
        Counter { counters: Arc::clone(&core.counters), pick }
    }
}

#[pymethods]
impl Counter {
    /// Adds `v`.
    fn add(&self, v: u64) {
        (self.pick)(&self.counters).fetch_add(v, Ordering::Relaxed);
    }

    /// The number.
    fn get(&self) -> u64 {
        (self.pick)(&self.counters).load(Ordering::Relaxed)
    }
}
