// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! The services that hold blocks: what one is, and where the list of them comes from.

use std::fmt;

/// What a service is, as far as its clients care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// keepstore beside its disks: near, so that a short time to connect is enough.
    Disk,
    /// keepproxy, or anything else that is not a disk: the longer time-outs apply, and it makes all
    /// copies of a block itself.
    Proxy,
    /// Asked only for blocks whose locator names it; never written to.
    Gateway,
}

impl ServiceType {
    /// From the `service_type` of the API's `keep_services` record.
    #[must_use]
    pub fn named(service_type: &str) -> Self {
        match service_type {
            "" | "disk" => ServiceType::Disk,
            gateway if gateway.starts_with("gateway:") => ServiceType::Gateway,
            _ => ServiceType::Proxy,
        }
    }
}

/// One Keep service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its UUID; the last 15 characters decide which blocks it is asked for first.
    pub uuid: String,
    /// URL that locators are appended to: ends in a slash.
    pub root: String,
    /// What it is.
    pub kind: ServiceType,
    /// Whether it takes no blocks.
    pub read_only: bool,
}

impl Service {
    /// A service from the fields of the API's `keep_services` record.
    #[must_use]
    pub fn from_record(
        uuid: &str,
        host: &str,
        port: u16,
        ssl: bool,
        service_type: &str,
        read_only: bool,
    ) -> Self {
        let scheme = if ssl { "https" } else { "http" };
        let brackets = host.contains(':') && !host.starts_with('[');
        let host = if brackets { format!("[{host}]") } else { host.to_string() };
        let kind = ServiceType::named(service_type);
        let root = format!("{scheme}://{host}:{port}/");
        Service { uuid: uuid.to_string(), root, kind, read_only }
    }

    pub(super) fn is_gateway(&self) -> bool {
        self.kind == ServiceType::Gateway
    }
}

/// Where the list of services comes from. Called on a thread that may block, by one caller at a
/// time; never from a reader's thread.
pub trait Services: Send + Sync {
    /// The services of the cluster, those that are read-only included. `refresh`: those known before failed, so ask
    /// the source again.
    ///
    /// # Errors
    /// Text for a log and for [`KeepError`](super::KeepError).
    fn list(&self, refresh: bool) -> Result<Vec<Service>, ServicesError>;
}

/// The list of services could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicesError(pub String);

impl fmt::Display for ServicesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServicesError {}

/// A list that never changes: `ARVADOS_KEEP_SERVICES` or `ARVADOS_KEEP_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticServices(Vec<Service>);

impl StaticServices {
    /// These services, whatever they are.
    #[must_use]
    pub fn new(services: Vec<Service>) -> Self {
        StaticServices(services)
    }

    /// From the value of `ARVADOS_KEEP_SERVICES` or `ARVADOS_KEEP_PROXY`: URLs separated by white
    /// space, all taken to be proxies, as the SDK does.
    ///
    /// # Errors
    /// Names what is no URL with a host.
    pub fn from_setting(setting: &str) -> Result<Self, ServicesError> {
        let service = |(number, text): (usize, &str)| {
            let url = reqwest::Url::parse(text).ok().filter(reqwest::Url::has_host);
            url.ok_or_else(|| ServicesError(format!("invalid proxy URI: {text}")))?;
            let slash = if text.ends_with('/') { "" } else { "/" };
            Ok(Service {
                uuid: format!("00000-bi6l4-{number:015}"),
                root: format!("{text}{slash}"),
                kind: ServiceType::Proxy,
                read_only: false,
            })
        };
        setting.split_whitespace().enumerate().map(service).collect::<Result<_, _>>().map(Self)
    }
}

impl Services for StaticServices {
    fn list(&self, _refresh: bool) -> Result<Vec<Service>, ServicesError> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_settings_become_roots() {
        let root = |host, ssl| Service::from_record("u", host, 25107, ssl, "disk", false).root;
        assert_eq!(root("keep0.example", false), "http://keep0.example:25107/");
        assert_eq!(root("::1", true), "https://[::1]:25107/");
        let StaticServices(two) =
            StaticServices::from_setting(" http://a:1 https://b/x/ ").unwrap();
        assert_eq!((two[0].root.as_str(), two[1].root.as_str()), ("http://a:1/", "https://b/x/"));
        assert_eq!(two[1].uuid, "00000-bi6l4-000000000000001");
        assert_eq!(two[0].kind, ServiceType::Proxy);
        assert!(StaticServices::from_setting("nonsense").is_err());
    }
}
