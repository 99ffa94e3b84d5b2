// Copyright (C) The arvados_fuse authors
//
// SPDX-License-Identifier: AGPL-3.0-only

//! TLS whose certificates OpenSSL judges, set up and with names compared as libcurl does in the
//! SDK's client: whatever certificate is good enough for one is for the other.
//!
//! rustls speaks the protocol; it asks [`Judge`] about everything that has to do with a certificate.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};

/// How strong keys and digests have to be: OpenSSL's own default since 3.2, and Debian's before.
const SECURITY_LEVEL: i32 = 2;

/// What a client speaks TLS with: trusts the certificates of that file, or OpenSSL's own.
/// `insecure`: any certificate, with any name. The error is text for a log.
pub(crate) fn config(authorities: Option<&Path>, insecure: bool) -> Result<ClientConfig, String> {
    let trust = match (insecure, authorities) {
        (true, _) => Trust::Anybody,
        (false, None) => Trust::Signed(store(None).map_err(|error| in_short(&error))?),
        (false, Some(file)) => {
            let named = |why: String| format!("{}: {why}", file.display());
            let pem = std::fs::read(file).map_err(|error| named(error.to_string()))?;
            Trust::Signed(store(Some(&pem)).map_err(|error| named(in_short(&error)))?)
        }
    };
    judged_by(trust)
}

/// For a client that speaks no TLS, which cannot be made without: trusts nobody, and neither reads
/// certificates nor sets OpenSSL up.
pub(crate) fn without_trust() -> Result<ClientConfig, String> {
    judged_by(Trust::Nobody)
}

fn judged_by(trust: Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let judge = Arc::new(Judge { trust });
    Ok(builder.dangerous().with_custom_certificate_verifier(judge).with_no_client_auth())
}

fn store(authorities: Option<&[u8]>) -> Result<X509Store, ErrorStack> {
    let mut builder = X509StoreBuilder::new()?;
    match authorities {
        Some(pem) => {
            for certificate in X509::stack_from_pem(pem)? {
                builder.add_cert(certificate)?;
            }
        }
        None => builder.set_default_paths()?,
    }
    let mut param = X509VerifyParam::new()?;
    param.set_purpose(X509PurposeId::SSL_SERVER)?;
    param.set_auth_level(SECURITY_LEVEL);
    // Trust in a certificate need not go up to one that signs itself.
    param.set_flags(X509VerifyFlags::TRUSTED_FIRST | X509VerifyFlags::PARTIAL_CHAIN)?;
    builder.set_param(&param)?;
    Ok(builder.build())
}

/// Judges certificates, and what was signed with their keys.
struct Judge {
    trust: Trust,
}

/// Whose certificate is good enough.
enum Trust {
    Anybody,
    Signed(X509Store),
    Nobody,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

/// Why a certificate is refused, as text for a log.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(why: impl Into<String>) -> Error {
    let why: Arc<dyn std::error::Error + Send + Sync> = Arc::new(Refused(why.into()));
    Error::InvalidCertificate(CertificateError::Other(OtherError(why)))
}

fn unreadable(error: &ErrorStack) -> Error {
    refused(in_short(error))
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let store = match &self.trust {
            Trust::Anybody => return Ok(ServerCertVerified::assertion()),
            Trust::Signed(store) => store,
            Trust::Nobody => return Err(refused("no TLS was meant to be spoken here")),
        };
        let certificate = X509::from_der(end_entity).map_err(|error| unreadable(&error))?;
        let judged =
            judge(store, &certificate, intermediates).map_err(|error| unreadable(&error))?;
        if let Err(why) = judged {
            return Err(refused(why));
        }
        let host = server_name.to_str();
        let host = host.strip_suffix('.').unwrap_or(&host);
        if !is_for(&certificate, host) {
            return Err(refused(format!("it is not for {host}")));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.iter().map(|(scheme, _)| *scheme).collect()
    }
}

/// Whether a certificate is trusted, and why not.
fn judge(
    store: &X509Store,
    certificate: &X509Ref,
    intermediates: &[CertificateDer<'_>],
) -> Result<Result<(), String>, ErrorStack> {
    let mut chain = Stack::new()?;
    for intermediate in intermediates {
        chain.push(X509::from_der(intermediate)?)?;
    }
    X509StoreContext::new()?.init(store, certificate, &chain, |context| {
        let trusted = context.verify_cert()?;
        Ok(if trusted { Ok(()) } else { Err(context.error().error_string().to_owned()) })
    })
}

/// How a signature is made.
#[derive(Clone, Copy)]
enum Made {
    Pkcs1(fn() -> MessageDigest),
    Pss(fn() -> MessageDigest),
    Ecdsa(fn() -> MessageDigest),
    Eddsa,
}

/// What servers may sign with, the preferred ones first.
const SCHEMES: [(SignatureScheme, Made); 11] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, Made::Ecdsa(MessageDigest::sha256)),
    (SignatureScheme::ECDSA_NISTP384_SHA384, Made::Ecdsa(MessageDigest::sha384)),
    (SignatureScheme::ECDSA_NISTP521_SHA512, Made::Ecdsa(MessageDigest::sha512)),
    (SignatureScheme::ED25519, Made::Eddsa),
    (SignatureScheme::ED448, Made::Eddsa),
    (SignatureScheme::RSA_PSS_SHA256, Made::Pss(MessageDigest::sha256)),
    (SignatureScheme::RSA_PSS_SHA384, Made::Pss(MessageDigest::sha384)),
    (SignatureScheme::RSA_PSS_SHA512, Made::Pss(MessageDigest::sha512)),
    (SignatureScheme::RSA_PKCS1_SHA256, Made::Pkcs1(MessageDigest::sha256)),
    (SignatureScheme::RSA_PKCS1_SHA384, Made::Pkcs1(MessageDigest::sha384)),
    (SignatureScheme::RSA_PKCS1_SHA512, Made::Pkcs1(MessageDigest::sha512)),
];

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let known = SCHEMES.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let Some((_, made)) = known else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let valid = is_signed(message, certificate, *made, signed.signature());
    if valid.map_err(|error| unreadable(&error))? {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

fn is_signed(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    made: Made,
    signature: &[u8],
) -> Result<bool, ErrorStack> {
    let key = X509::from_der(certificate)?.public_key()?;
    let mut verifier = match made {
        Made::Eddsa => Verifier::new_without_digest(&key)?,
        Made::Pkcs1(digest) | Made::Pss(digest) | Made::Ecdsa(digest) => {
            Verifier::new(digest(), &key)?
        }
    };
    if let Made::Pss(_) = made {
        verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
        verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    verifier.verify_oneshot(signature, message)
}

/// What OpenSSL has to say, without its numbers and file names.
fn in_short(stack: &ErrorStack) -> String {
    let reasons: Vec<_> = stack.errors().iter().filter_map(openssl::error::Error::reason).collect();
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
