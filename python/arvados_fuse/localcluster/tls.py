# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A certificate authority of the cluster's own, and a certificate for loopback."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = datetime.timedelta(days=3650)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def ensure_certificates(folder: Path) -> Path:
    """Make the certificates in that folder, unless they are there; return the authority's."""
    authority_file = folder / "ca.pem"
    if authority_file.exists() and (folder / "server.pem").exists():
        return authority_file
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + _YEARS)
    authority = (
        builder.subject_name(_name("Arvados local cluster authority"))
        .issuer_name(_name("Arvados local cluster authority"))
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    server_key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
    server = _server_certificate(server_key, names, now, authority_key, identifier)
    (folder / "server.pem").write_bytes(
        server.public_bytes(serialization.Encoding.PEM) + _pem(server_key)
    )
    (folder / "server.pem").chmod(0o600)
    authority_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return authority_file


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    now: datetime.datetime,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.SubjectKeyIdentifier,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name("localhost"))
        .issuer_name(_name("Arvados local cluster authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _YEARS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )


def server_context(folder: Path) -> ssl.SSLContext:
    """Return what a server needs to speak TLS with the certificate in that folder."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem")
    # A session ticket would arrive at clients while they send their first request. One that reads in
    # another thread meanwhile, as the SDK's event client does, may then wait for ever: Python before
    # 3.13 does not lock a connection between the two (gh-124984).
    context.num_tickets = 0
    return context
