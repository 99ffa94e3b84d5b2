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

use http::Uri;
use http::header::HeaderValue;
use std::net::IpAddr;

/// The proxies of an environment. No `Debug`: there may be passwords in it.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    none: Option<String>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// HTTP, over TLS where the URI is one of `https`.
    Http,
    Socks4 {
        local_names: bool,
    },
    Socks5 {
        local_names: bool,
    },
}

/// One proxy.
#[derive(Clone)]
pub(super) struct Proxy {
    pub scheme: Scheme,
    /// Where it is: `http`, or `https` for a proxy to be reached over TLS.
    pub uri: Uri,
    /// Name and password, as they are.
    pub user: Option<(String, String)>,
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

    /// The proxy for a URI, if there is one. The error is text for a log, without passwords.
    pub(super) fn for_uri(&self, uri: &Uri) -> Result<Option<Proxy>, String> {
        let host = uri.host().unwrap_or_default();
        if self.none.as_ref().is_some_and(|list| is_listed(host, list)) {
            return Ok(None);
        }
        let own = match uri.scheme_str() {
            Some("https") => &self.https,
            _ => &self.http,
        };
        own.as_ref().or(self.all.as_ref()).map(|url| parse(url)).transpose()
    }
}

impl Proxy {
    /// What a proxy of HTTP wants to see of name and password.
    pub fn authorization(&self) -> Option<HeaderValue> {
        let (name, password) = self.user.as_ref()?;
        let encoded = openssl::base64::encode_block(format!("{name}:{password}").as_bytes());
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

fn parse(url: &str) -> Result<Proxy, String> {
    let (name, rest) = url.split_once("://").unwrap_or(("http", url));
    let (scheme, secure) = match name.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, false),
        "https" => (Scheme::Http, true),
        "socks" | "socks4" => (Scheme::Socks4 { local_names: true }, false),
        "socks4a" => (Scheme::Socks4 { local_names: false }, false),
        "socks5" => (Scheme::Socks5 { local_names: true }, false),
        "socks5h" => (Scheme::Socks5 { local_names: false }, false),
        other => return Err(format!("a proxy of an unknown kind: {other}://")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        None => (None, authority),
        Some((user, host)) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (Some((decoded(name), decoded(password))), host)
        }
    };
    let wrong = || format!("a proxy whose address cannot be read: {host}");
    let named: http::uri::Authority = host.parse().map_err(|_| wrong())?;
    let port = named.port_u16().unwrap_or(if secure { 443 } else { 1080 });
    let uri = Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(format!("{}:{port}", named.host()))
        .path_and_query("/")
        .build()
        .map_err(|_| wrong())?;
    Ok(Proxy { scheme, uri, user })
}

/// Text with its %XX escapes undone.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let escaped = more
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a list of `no_proxy` has this host.
fn is_listed(host: &str, list: &str) -> bool {
    if list == "*" {
        return true;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    let address: Option<IpAddr> = host.parse().ok();
    list.split(',').filter_map(|entry| entry.split_whitespace().next()).any(|entry| match address {
        Some(address) => holds(entry, address),
        None => {
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

    fn proxy(environment: &[(&str, &str)], uri: &str) -> Option<String> {
        let uri = uri.parse().expect("a URI");
        let found = proxies(environment).for_uri(&uri).unwrap_or_else(|error| panic!("{error}"));
        found.map(|proxy| proxy.uri.authority().expect("one").to_string())
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
        assert_eq!(one.uri, "http://proxy.example:3128/");
        assert_eq!(one.user, Some(("me".into(), "p@ss".into())));
        assert_eq!(one.authorization().expect("a user"), "Basic bWU6cEBzcw==");
        assert_eq!(parsed("https://p").uri, "https://p:443/");
        assert_eq!(parsed("socks5h://p").scheme, Scheme::Socks5 { local_names: false });
        assert_eq!(parsed("SOCKS4://[::1]:9").scheme, Scheme::Socks4 { local_names: true });
        for wrong in ["ftp://me:secret@p", "http://me:secret@a b"] {
            let error = parse(wrong).err().expect("wrong");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
