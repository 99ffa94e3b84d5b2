// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The registry of metrics, as Python reads it and feeds it.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::metrics::{self, BOUNDS, HistogramValue, Mount, Op, Value};

/// Adds the classes and functions of this part to the extension module.
///
/// # Errors
/// Where Python refuses.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let table = metrics::TABLE.iter().map(|row| (row.name, row.kind.name(), row.unit, row.help));
    m.add("METRICS", PyTuple::new(py, table)?)?;
    m.add("OPERATIONS", PyTuple::new(py, Op::ALL.iter().map(|op| op.name()))?)?;
    let bounds = BOUNDS.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64());
    m.add("HISTOGRAM_BOUNDS", PyTuple::new(py, bounds)?)?;
    m.add_class::<Counter>()?;
    m.add_function(wrap_pyfunction!(metrics_snapshot, m)?)?;
    m.add_function(wrap_pyfunction!(operation_time, m)?)?;
    m.add_function(wrap_pyfunction!(observe, m)?)
}

fn known(name: &str) -> PyResult<Op> {
    Op::named(name).ok_or_else(|| PyValueError::new_err(format!("no operation {name:?}")))
}

fn told(value: HistogramValue) -> (u64, f64, Vec<u64>) {
    (value.count(), value.seconds(), value.buckets.to_vec())
}

/// The totals of the process by the names in METRICS; takes nothing away. A counter or gauge is a
/// number. A histogram is a dictionary by OPERATIONS of the count, the seconds in all, and the counts of
/// its buckets, of which one more than `HISTOGRAM_BOUNDS` are.
#[pyfunction]
fn metrics_snapshot(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let totals = PyDict::new(py);
    for (name, value) in metrics::snapshot().iter() {
        match value {
            Value::Number(number) => totals.set_item(name, number)?,
            Value::Operations(by_op) => {
                let operations = PyDict::new(py);
                for (op, value) in Op::ALL.iter().zip(by_op) {
                    operations.set_item(op.name(), told(*value))?;
                }
                totals.set_item(name, operations)?;
            }
        }
    }
    Ok(totals)
}

/// How often operations of that name were carried out, and how many seconds they took in all.
/// `ValueError` for a name that is not in OPERATIONS.
#[pyfunction]
fn operation_time(op: &str) -> PyResult<(u64, f64)> {
    let value = metrics::snapshot().operation(known(op)?);
    Ok((value.count(), value.seconds()))
}

/// Counts an operation that took so many seconds (less than 0 is 0), unless it is called for a request
/// of the kernel, which is counted already. `ValueError` for a name that is not in OPERATIONS.
#[pyfunction]
fn observe(op: &str, seconds: f64) -> PyResult<()> {
    let taken = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    metrics::observe(known(op)?, taken);
    Ok(())
}

/// A number that only grows, with the interface of the SDK's counters.
#[pyclass(frozen, module = "llfuse._core")]
pub struct Counter {
    mount: Arc<Mount>,
    pick: fn(&Mount) -> &metrics::Counter,
}

impl Counter {
    /// The counter of a mount that `pick` chooses.
    #[must_use]
    pub fn new(mount: &Arc<Mount>, pick: fn(&Mount) -> &metrics::Counter) -> Self {
        Counter { mount: Arc::clone(mount), pick }
    }
}

#[pymethods]
impl Counter {
    /// Adds `v`.
    fn add(&self, v: u64) {
        (self.pick)(&self.mount).add(v);
    }

    /// The number.
    fn get(&self) -> u64 {
        (self.pick)(&self.mount).get()
    }
}
