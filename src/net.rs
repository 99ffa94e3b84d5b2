// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What connections to the API, the event bus and Keep have in common: whose certificates are trusted, through
//! which proxy a server is reached, and how an error is told.

mod proxy;
pub(crate) mod tls;

use std::path::PathBuf;
use std::sync::OnceLock;

use reqwest::{Client, ClientBuilder, Proxy};

pub use proxy::Proxies;

/// How servers are reached.
#[derive(Clone, Default)]
pub struct Access {
    /// Accept any TLS certificate: `ARVADOS_API_HOST_INSECURE`.
    pub insecure: bool,
    /// PEM file of the authorities to trust. `None`: OpenSSL's own.
    pub ca_file: Option<PathBuf>,
    /// Proxies. `None`: those of the environment.
    pub proxies: Option<Proxies>,
}

/// Makes clients of HTTP.
pub(crate) struct Clients {
    access: Access,
    tls: OnceLock<rustls::ClientConfig>,
}

impl Clients {
    /// Reads nothing yet.
    pub(crate) fn new(access: Access) -> Self {
        Clients { access, tls: OnceLock::new() }
    }

    /// A client that is still to be built. It follows no redirect and tries nothing again. The certificates are
    /// read the first time. The error is text for a log.
    pub(crate) fn client(&self) -> Result<ClientBuilder, String> {
        let Access { insecure, ca_file, proxies } = &self.access;
        let tls = if let Some(tls) = self.tls.get() {
            tls.clone()
        } else {
            let read = tls::config(ca_file.as_deref(), *insecure)?;
            self.tls.get_or_init(|| read).clone()
        };
        let proxies = proxies.clone().unwrap_or_else(Proxies::from_env);
        Ok(Client::builder()
            .user_agent(concat!("arvados_fuse/", env!("CARGO_PKG_VERSION")))
            // A token would go along.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .proxy(Proxy::custom(move |url| proxies.for_url(url).ok().flatten()))
            .tls_backend_preconfigured(tls))
    }
}

/// The causes of an error in one line, without the URL: there may be a secret in it.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut text = String::new();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
        cause = error.source();
    }
    if text.is_empty() { "the request failed".into() } else { text }
}
