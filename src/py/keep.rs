// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `KeepReader`: the core's Keep client for a mount, set up as the SDK's own client is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use crate::keep::{
    CacheConfig, Config, KeepClient, Service, ServiceType, Services, ServicesError, Timeouts,
};
use crate::py::exceptions::line_of;

/// Asks Python for the list of services.
struct FromPython {
    list: Py<PyAny>,
}

impl Services for FromPython {
    fn list(&self, refresh: bool) -> Result<Vec<Service>, ServicesError> {
        let listed: Vec<(String, String, String, bool)> = Python::attach(|py| {
            let listed = self.list.call1(py, (refresh,)).and_then(|list| list.extract(py));
            let told = |error: PyErr| line_of(py, &error).unwrap_or_else(|| error.to_string());
            listed.map_err(|error| ServicesError(told(error)))
        })?;
        Ok(listed
            .into_iter()
            .map(|(uuid, root, kind, read_only)| {
                let kind = ServiceType::named(&kind);
                Service { uuid, root, kind, read_only }
            })
            .collect())
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)
}

#[derive(FromPyObject)]
struct Limits(f64, f64, f64);

impl From<Limits> for Timeouts {
    fn from(Limits(connect, read, min_bandwidth): Limits) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let min_bandwidth = min_bandwidth.max(0.0) as u64;
        Timeouts { connect: seconds(connect), read: seconds(read), min_bandwidth }
    }
}

/// Reads blocks of Keep without Python, each verified before a byte of it is used. Starts its
/// threads at the first block.
#[pyclass(frozen, weakref, module = "llfuse._core")]
pub struct KeepReader {
    client: Arc<KeepClient>,
}

impl KeepReader {
    /// The client.
    #[must_use]
    pub fn client(&self) -> Arc<KeepClient> {
        Arc::clone(&self.client)
    }
}

#[pymethods]
impl KeepReader {
    /// `services(refresh)` lists the services as tuples of uuid, root URL, service type, and whether it
    /// is read-only.
    /// `timeout` and `proxy_timeout` are (seconds to connect, seconds to wait, bytes a second).
    /// `ca_file` has the certificates of the authorities to trust. `disk_cache_dir` is None for a cache in memory; `cache_max` is in bytes, `max_slots` in
    /// blocks.
    #[new]
    #[pyo3(signature = (services, *, token, insecure, ca_file, num_retries, timeout, proxy_timeout,
        local_store, disk_cache_dir, cache_max, max_slots))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        services: Py<PyAny>,
        token: String,
        insecure: bool,
        ca_file: Option<PathBuf>,
        num_retries: u32,
        timeout: Limits,
        proxy_timeout: Limits,
        local_store: Option<PathBuf>,
        disk_cache_dir: Option<PathBuf>,
        cache_max: u64,
        max_slots: usize,
    ) -> Self {
        let config = Config {
            token,
            insecure,
            ca_file,
            num_retries,
            timeouts: timeout.into(),
            proxy_timeouts: proxy_timeout.into(),
            local_store,
            cache: CacheConfig {
                disk_dir: disk_cache_dir,
                max_bytes: cache_max,
                max_blocks: max_slots,
                memory_bytes: 0,
                write_behind_bytes: 0,
            },
            ..Config::default()
        };
        KeepReader { client: KeepClient::new(config, Arc::new(FromPython { list: services })) }
    }

    /// Blocks asked for, found in the cache, not found there, bytes received, blocks written, and bytes
    /// sent, so far.
    fn counters(&self) -> (u64, u64, u64, u64, u64, u64) {
        let metrics = self.client.metrics();
        (
            metrics.gets.get(),
            metrics.hits.get(),
            metrics.misses.get(),
            metrics.bytes_downloaded.get(),
            metrics.puts.get(),
            metrics.bytes_uploaded.get(),
        )
    }

    /// Ends its threads; whoever waits for a block gets an error. It cannot be used again.
    fn shutdown(&self, py: Python<'_>) {
        py.detach(|| {
            self.client.shutdown();
            crate::report::flush();
        });
    }
}
