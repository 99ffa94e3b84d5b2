// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! What connections to the API, the event bus and Keep have in common: whose certificates are trusted, through
//! which proxy a server is reached, and how an error is told.

mod proxy;
mod tls;

use std::path::PathBuf;
use std::sync::OnceLock;

use reqwest::{Client, ClientBuilder, Proxy, Url};

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
    insecure: bool,
    ca_file: Option<PathBuf>,
    proxies: Proxies,
    /// For the servers that want TLS, from the first of these on.
    tls: OnceLock<rustls::ClientConfig>,
}

impl Clients {
    /// Reads no file yet.
    pub(crate) fn new(access: Access) -> Self {
        let Access { insecure, ca_file, proxies } = access;
        let proxies = proxies.unwrap_or_else(Proxies::from_env);
        Clients { insecure, ca_file, proxies, tls: OnceLock::new() }
    }

    /// The proxy for a URL, as [`Proxies::for_url`].
    pub(crate) fn proxy_for(&self, url: &Url) -> Result<Option<Url>, String> {
        self.proxies.for_url(url)
    }

    /// A client that is still to be built, with TLS (`secure`) or without. It follows no redirect, with which a
    /// token would go along, and tries nothing again. The error is text for a log.
    pub(crate) fn client(&self, secure: bool) -> Result<ClientBuilder, String> {
        let tls = if secure { self.tls()? } else { tls::without_trust()? };
        let proxies = self.proxies.clone();
        Ok(Client::builder()
            .user_agent(concat!("arvados_fuse/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            // One that cannot be read was told of before anything was sent, or counts as none.
            .proxy(Proxy::custom(move |url| proxies.for_url(url).ok().flatten()))
            .tls_backend_preconfigured(tls))
    }

    /// Sets OpenSSL up and reads the certificates, once.
    fn tls(&self) -> Result<rustls::ClientConfig, String> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let config = tls::config(self.ca_file.as_deref(), self.insecure)?;
        Ok(self.tls.get_or_init(|| config).clone())
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
