// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! TLS as the SDK's client speaks it: OpenSSL, set up and with names compared as libcurl does,
//! so that whatever certificate is good enough for one is for the other.

use openssl::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslVerifyMode, SslVersion};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509Ref, X509VerifyResult};
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_openssl::SslStream;

/// What connections have in common.
#[derive(Clone)]
pub(super) struct Tls {
    context: SslContext,
    insecure: bool,
}

impl Tls {
    /// Trusts the certificates of that file. `insecure`: any certificate, with any name. The error
    /// is text for a log.
    pub fn new(authorities: Option<&Path>, insecure: bool) -> Result<Self, String> {
        let context = context(authorities.filter(|_| !insecure), insecure).map_err(|error| {
            let file = authorities.map(|file| format!("{}: ", file.display()));
            format!("{}{}", file.unwrap_or_default(), in_short(&error))
        })?;
        Ok(Tls { context, insecure })
    }

    /// Speaks TLS on a connection to that host, which has shown that it is that host when this
    /// returns. The error is text for a log.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<SslStream<S>, String> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.strip_suffix('.').unwrap_or(host);
        let wrong = |error: openssl::error::ErrorStack| in_short(&error);
        let mut ssl = Ssl::new(&self.context).map_err(wrong)?;
        if host.parse::<IpAddr>().is_err() {
            ssl.set_hostname(host).map_err(wrong)?;
        }
        let mut stream = SslStream::new(ssl, stream).map_err(wrong)?;
        if let Err(error) = Pin::new(&mut stream).connect().await {
            return Err(match stream.ssl().verify_result() {
                X509VerifyResult::OK => match (error.ssl_error(), error.io_error()) {
                    (Some(stack), _) => format!("TLS failed: {}", in_short(stack)),
                    (None, Some(error)) => format!("TLS failed: {error}"),
                    (None, None) => "TLS failed: the connection was closed".into(),
                },
                refused => format!("its certificate is refused: {}", refused.error_string()),
            });
        }
        if !self.insecure {
            let certificate = stream.ssl().peer_certificate();
            let certificate = certificate.ok_or("it has no certificate")?;
            if !is_for(&certificate, host) {
                return Err(format!("its certificate is refused: it is not for {host}"));
            }
        }
        Ok(stream)
    }
}

fn context(
    authorities: Option<&Path>,
    insecure: bool,
) -> Result<SslContext, openssl::error::ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_options(SslOptions::ALL | SslOptions::NO_COMPRESSION);
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_alpn_protos(b"\x08http/1.1")?;
    if insecure {
        builder.set_verify(SslVerifyMode::NONE);
        return Ok(builder.build());
    }
    builder.set_verify(SslVerifyMode::PEER);
    match authorities {
        Some(file) => builder.load_verify_locations(Some(file), None)?,
        None => builder.set_default_verify_paths()?,
    }
    // Trust in a certificate need not go up to one that signs itself.
    builder
        .verify_param_mut()
        .set_flags(X509VerifyFlags::TRUSTED_FIRST | X509VerifyFlags::PARTIAL_CHAIN)?;
    Ok(builder.build())
}

/// What OpenSSL has to say, without its numbers and file names.
fn in_short(stack: &openssl::error::ErrorStack) -> String {
    let reasons: Vec<_> = stack.errors().iter().filter_map(|error| error.reason()).collect();
    if reasons.is_empty() { "OpenSSL gives no reason".into() } else { reasons.join(", ") }
}

/// Whether a certificate is for that host: by its alternative names or, where it has none of a
/// host, by its common name.
fn is_for(certificate: &X509Ref, host: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    let mut has_hosts = false;
    for name in certificate.subject_alt_names().iter().flatten() {
        let same = match (name.dnsname(), name.ipaddress(), address) {
            (Some(pattern), _, None) => matches(pattern, host),
            (_, Some(bytes), Some(IpAddr::V4(address))) => bytes == address.octets(),
            (_, Some(bytes), Some(IpAddr::V6(address))) => bytes == address.octets(),
            (None, None, _) => continue,
            _ => false,
        };
        if same {
            return true;
        }
        has_hosts = true;
    }
    if has_hosts {
        return false;
    }
    let names = certificate.subject_name().entries_by_nid(openssl::nid::Nid::COMMONNAME);
    let name = names.last().and_then(|entry| entry.data().to_string().ok());
    name.is_some_and(|name| matches(&name, host))
}

/// Whether a name, perhaps with `*` for its first label, is that host's.
fn matches(pattern: &str, host: &str) -> bool {
    let pattern = pattern.strip_suffix('.').unwrap_or(pattern);
    let wild = pattern.strip_prefix("*.").filter(|rest| rest.contains('.'));
    match wild.filter(|_| host.parse::<IpAddr>().is_err()) {
        Some(rest) => {
            host.split_once('.').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(rest))
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn names_match_as_for_libcurl() {
        for (pattern, host, same) in [
            ("keep.example.org", "KEEP.example.org", true),
            ("keep.example.org.", "keep.example.org", true),
            ("*.example.org", "keep.example.org", true),
            ("*.example.org", "a.keep.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.org", "example.org", false),
            ("k*.example.org", "keep.example.org", false),
            ("*", "localhost", false),
            ("*.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(matches(pattern, host), same, "{pattern} for {host}");
        }
    }
}
