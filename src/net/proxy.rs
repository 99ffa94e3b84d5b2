// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! Which proxy a service is reached through: the environment, read as libcurl reads it for the
//! SDK's client.
//!
//! `http_proxy` counts in small letters only: in capitals a CGI program would get it from whoever
//! sends it a request. `https_proxy` and `all_proxy` count in either, small ones first, and an
//! empty one as if it were not set. `no_proxy`, in either, is `*` for every host, or a list of
//! domains, addresses and networks.

use std::net::IpAddr;

use reqwest::Url;

/// The proxies of an environment. No `Debug`: there may be passwords in it.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    none: Option<String>,
}

impl Proxies {
    /// From the environment of this process.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// From an environment that `lookup` looks into.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        Proxies {
            http: set("http_proxy"),
            https: set("https_proxy").or_else(|| set("HTTPS_PROXY")),
            all: set("all_proxy").or_else(|| set("ALL_PROXY")),
            none: set("no_proxy").or_else(|| set("NO_PROXY")),
        }
    }

    /// The proxy for a URL, if there is one, with its port and with name and password where it wants
    /// them. The error is text for a log, without passwords.
    pub(crate) fn for_url(&self, url: &Url) -> Result<Option<Url>, String> {
        let host = url.host_str().unwrap_or_default();
        if self.none.as_ref().is_some_and(|list| is_listed(host, list)) {
            return Ok(None);
        }
        let own = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        own.as_ref().or(self.all.as_ref()).map(|url| parse(url)).transpose()
    }
}

fn parse(url: &str) -> Result<Url, String> {
    let (name, rest) = url.split_once("://").unwrap_or(("http", url));
    let name = name.to_ascii_lowercase();
    let scheme = match name.as_str() {
        "socks" => "socks4",
        "http" | "https" | "socks4" | "socks4a" | "socks5" | "socks5h" => &name,
        other => return Err(format!("a proxy of an unknown kind: {other}://")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let wrong = || format!("a proxy whose address cannot be read: {host}");
    let mut proxy = Url::parse(&format!("{scheme}://{authority}")).map_err(|_| wrong())?;
    if proxy.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    // What a URL leaves out is 1080, also for a proxy of HTTP; the parser takes out its own default.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port && scheme != "https" {
        proxy.set_port(Some(1080)).map_err(|()| wrong())?;
    }
    Ok(proxy)
}

/// Whether a list of `no_proxy` has this host.
fn is_listed(host: &str, list: &str) -> bool {
    if list == "*" {
        return true;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').filter_map(|entry| entry.split_whitespace().next()).any(|entry| {
        if let Some(address) = address {
            holds(entry, address)
        } else {
            let entry = entry.strip_suffix('.').unwrap_or(entry);
            let domain = entry.strip_prefix('.').unwrap_or(entry);
            let (host, domain) = (host.to_ascii_lowercase(), domain.to_ascii_lowercase());
            !domain.is_empty()
                && host
                    .strip_suffix(domain.as_str())
                    .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        }
    })
}

/// Whether an entry is this address, or a network (`10.0.0.0/8`) that it is in.
fn holds(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        Some((network, bits)) => (network, bits.parse().ok()),
        None => (entry, Some(0)),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let (Ok(network), Some(bits)) = (network.parse::<IpAddr>(), bits) else { return false };
    let (network, address, width): (u128, u128, u32) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(u32::from(network)), u128::from(u32::from(address)), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.into(), address.into(), 128),
        _ => return false,
    };
    let bits: u32 = if bits == 0 { width } else { bits };
    bits <= width && network >> (width - bits) == address >> (width - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(environment: &[(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_string())
        })
    }

    fn proxy(environment: &[(&str, &str)], url: &str) -> Option<String> {
        let url = url.parse().expect("a URL");
        let found = proxies(environment).for_url(&url).unwrap_or_else(|error| panic!("{error}"));
        found.map(|proxy| format!("{}:{}", proxy.host_str().unwrap(), proxy.port().unwrap()))
    }

    #[test]
    fn variables_count_as_for_libcurl() {
        let keep = ["http://keep0.example:25107/x", "https://keep0.example:25107/x"];
        for (name, http, https) in [
            ("http_proxy", true, false),
            ("HTTP_PROXY", false, false),
            ("https_proxy", false, true),
            ("HTTPS_PROXY", false, true),
            ("all_proxy", true, true),
            ("ALL_PROXY", true, true),
        ] {
            let found = keep.map(|uri| proxy(&[(name, "p.example:3128")], uri).is_some());
            assert_eq!(found, [http, https], "{name}");
        }
        let both = [("https_proxy", "http://small:1"), ("HTTPS_PROXY", "http://large:1")];
        assert_eq!(proxy(&both, keep[1]).as_deref(), Some("small:1"));
        let empty = [("http_proxy", ""), ("ALL_PROXY", "all")];
        assert_eq!(proxy(&empty, keep[0]).as_deref(), Some("all:1080"));
    }

    #[test]
    fn no_proxy_lists_hosts_domains_and_networks() {
        for (list, host, listed) in [
            ("*", "keep.example", true),
            ("*,x", "keep.example", false),
            ("example", "keep.example", true),
            (".example", "keep.example", true),
            (".keep.example", "keep.example", true),
            ("x, KEEP.example.", "keep.Example.", true),
            ("ample", "keep.example", false),
            ("keep.example:80", "keep.example", false),
            ("a b,c", "b", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/16", "10.1.2.3", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("1.2.3", "10.1.2.3", false),
            ("[::1]", "[::1]", true),
            ("fe80::/10", "[fe80::1]", true),
            ("fe80::/10", "10.1.2.3", false),
        ] {
            assert_eq!(is_listed(host, list), listed, "{host} in {list}");
        }
        let environment = [("http_proxy", "p"), ("no_proxy", ""), ("NO_PROXY", "keep.example")];
        assert_eq!(proxy(&environment, "http://keep.example/"), None);
        assert_eq!(proxy(&environment, "http://other.example/").as_deref(), Some("p:1080"));
    }

    #[test]
    fn addresses_of_proxies() {
        let parsed = |url| parse(url).unwrap_or_else(|error| panic!("{error}"));
        let one = parsed("http://me:p%40ss@proxy.example:3128/path");
        assert_eq!((one.host_str(), one.port()), (Some("proxy.example"), Some(3128)));
        assert_eq!((one.username(), one.password()), ("me", Some("p%40ss")));
        assert_eq!(parsed("https://p").port_or_known_default(), Some(443));
        assert_eq!(parsed("http://p:80").port_or_known_default(), Some(80));
        assert_eq!(parsed("socks5h://p").as_str(), "socks5h://p:1080");
        assert_eq!(parsed("SOCKS4://[::1]:9").as_str(), "socks4://[::1]:9");
        assert_eq!(parsed("[::1]").port(), Some(1080));
        for wrong in ["ftp://me:secret@p", "http://me:secret@a b"] {
            let error = parse(wrong).expect_err("wrong");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
