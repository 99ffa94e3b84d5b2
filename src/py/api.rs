// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! `ApiTransport`: requests to the API, made without Python while Python waits.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::api::{Api, Config, Request};
use crate::net::Access;

/// Status, headers and body of an answer.
type Answered<'py> = (u16, Vec<(String, String)>, Bound<'py, PyBytes>);

/// Asks the API. Starts no thread; can be shared by all threads.
#[pyclass(frozen, module = "llfuse._core")]
pub struct ApiTransport {
    api: Api,
}

#[pymethods]
impl ApiTransport {
    /// `ca_file` has the certificates of the authorities to trust. `time_limit` is for all attempts of a
    /// request together, in seconds.
    ///
    /// Raises `ValueError` for a token that cannot be sent.
    #[new]
    #[pyo3(signature = (token, *, insecure, ca_file, time_limit))]
    fn new(
        token: String,
        insecure: bool,
        ca_file: Option<PathBuf>,
        time_limit: f64,
    ) -> PyResult<Self> {
        let time_limit = Duration::try_from_secs_f64(time_limit)
            .map_err(|error| PyValueError::new_err(format!("time_limit: {error}")))?;
        let access = Access { insecure, ca_file, proxies: None };
        let config = Config { token, access, time_limit, ..Config::default() };
        let api = Api::new(config).map_err(|failure| PyValueError::new_err(failure.0))?;
        Ok(ApiTransport { api })
    }

    /// Asks, up to `num_retries` times more where that may help; returns status, headers and body. With
    /// `if_hash` the record has to have that portable data hash where the request is made once more; where
    /// it has another one the status is 412.
    ///
    /// Raises `ConnectionError`, which names the server, where there is no answer.
    #[pyo3(signature = (method, url, *, headers, num_retries, body = None,
        content_type = "application/json", if_hash = None))]
    #[allow(clippy::too_many_arguments)]
    fn request<'py>(
        &self,
        py: Python<'py>,
        method: String,
        url: String,
        headers: Vec<(String, String)>,
        num_retries: u32,
        body: Option<&[u8]>,
        content_type: &str,
        if_hash: Option<String>,
    ) -> PyResult<Answered<'py>> {
        let body = body.map(|body| (Bytes::copy_from_slice(body), content_type.to_owned()));
        let request = Request { method, url, body, headers, num_retries, if_hash };
        match py.detach(|| self.api.ask(&request)) {
            Ok(answer) => Ok((answer.status, answer.headers, PyBytes::new(py, &answer.body))),
            Err(failure) => Err(PyConnectionError::new_err(failure.0)),
        }
    }
}
