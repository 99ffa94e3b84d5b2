# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Keep over TLS: what the SDK's client accepts is read, what it refuses is EIO and a line that says why."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keep_front
import pytest
from arvados_fuse.localcluster import LocalCluster

TEXT = "read over TLS"
SAN = ("-addext", "subjectAltName=DNS:localhost")


def curve(name: str) -> tuple[str, ...]:
    return ("ec", "-pkeyopt", f"ec_paramgen_curve:{name}")


def plain(folder: Path) -> None:
    keep_front.certificate(folder, *SAN)


def self_signed_leaf(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, "-addext", "basicConstraints=critical,CA:FALSE")


def p521(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, key=curve("secp521r1"))


def ed25519(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, key=("ed25519",))


def rsa(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, key=("rsa:2048",))


def short_rsa(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, key=("rsa:1024",))


def common_name_only(folder: Path) -> None:
    keep_front.certificate(folder)


def common_name_is_address(folder: Path) -> None:
    keep_front.certificate(folder, name="127.0.0.1")


def address(folder: Path) -> None:
    keep_front.certificate(folder, "-addext", "subjectAltName=IP:127.0.0.1", name="keep")


def other_address(folder: Path) -> None:
    keep_front.certificate(folder, "-addext", "subjectAltName=IP:10.9.9.9", name="127.0.0.1")


def other_name(folder: Path) -> None:
    keep_front.certificate(folder, "-addext", "subjectAltName=DNS:keep.example")


def other_common_name(folder: Path) -> None:
    keep_front.certificate(folder, name="keep.example")


def only_an_email(folder: Path) -> None:
    keep_front.certificate(folder, "-addext", "subjectAltName=email:keep@example.org")


def for_clients(folder: Path) -> None:
    keep_front.certificate(folder, *SAN, "-addext", "extendedKeyUsage=clientAuth")


def version_1(folder: Path) -> None:
    keep_front.openssl(
        folder, "req", "-nodes", "-newkey", *curve("prime256v1"),
        "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost",
    )  # fmt: skip
    keep_front.openssl(
        folder,
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-key",
        "key.pem",
        "-days",
        "2",
        "-out",
        "cert.pem",
    )


def expired(folder: Path) -> None:
    version_1(folder)
    keep_front.openssl(
        folder,
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-key",
        "key.pem",
        "-days",
        "-1",
        "-out",
        "cert.pem",
    )


def unknown(folder: Path) -> None:
    """Signed by itself, and not among the trusted."""
    plain(folder)
    (folder / "trusted.pem").write_text("")


def in_a_folder(folder: Path) -> None:
    """The same, but in the folder of SSL_CERT_DIR, as OpenSSL looks for it there."""
    unknown(folder)
    certificates = folder / "certs"
    certificates.mkdir()
    shutil.copy(folder / "cert.pem", certificates)
    keep_front.openssl(certificates, "rehash", ".")


def issued(folder: Path) -> None:
    """Signed by an authority under a root that nobody knows: that one alone is trusted."""
    for number, subject in enumerate(["root", "authority", "localhost"]):
        keep_front.openssl(
            folder, "req", "-nodes", "-newkey", *curve("prime256v1"),
            "-keyout", f"{number}.key", "-out", f"{number}.csr", "-subj", f"/CN={subject}",
        )  # fmt: skip
        extensions = "basicConstraints=CA:TRUE" if number < 2 else "subjectAltName=DNS:localhost"
        (folder / "extensions").write_text(extensions)
        by = ["-key", "0.key"]
        if number:
            by = ["-CA", f"{number - 1}.pem", "-CAkey", f"{number - 1}.key", "-CAcreateserial"]
        keep_front.openssl(
            folder, "x509", "-req", "-in", f"{number}.csr", *by, "-days", "2",
            "-extfile", "extensions", "-out", f"{number}.pem",
        )  # fmt: skip
    (folder / "2.pem").rename(folder / "cert.pem")
    (folder / "2.key").rename(folder / "key.pem")
    (folder / "1.pem").rename(folder / "trusted.pem")


#: Whether the SDK's client takes them, as far as it does not depend on the version of OpenSSL.
KINDS: list[tuple[Callable[[Path], None], str, bool | None]] = [
    (plain, "localhost", True),
    (self_signed_leaf, "localhost", True),
    (p521, "localhost", True),
    (ed25519, "localhost", True),
    (rsa, "localhost", True),
    (short_rsa, "localhost", None),
    (common_name_only, "localhost", True),
    (common_name_is_address, "127.0.0.1", True),
    (address, "127.0.0.1", True),
    (other_address, "127.0.0.1", False),
    (other_name, "localhost", False),
    (other_common_name, "localhost", False),
    (only_an_email, "localhost", True),
    (for_clients, "localhost", False),
    (version_1, "localhost", None),
    (expired, "localhost", False),
    (unknown, "localhost", False),
    (in_a_folder, "localhost", False),
    (issued, "localhost", True),
]


def sdk_reads(locator: str, environment: dict[str, str]) -> bool:
    """Whether the SDK's Keep client reads that block in that environment."""
    program = (
        "import arvados, sys; api = arvados.api('v1');"
        "print(api.keep.get(sys.argv[1], num_retries=0).decode())"
    )
    got = subprocess.run(
        [sys.executable, "-c", program, locator],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert got.stdout == TEXT + "\n" if got.returncode == 0 else "KeepReadError" in got.stderr
    return got.returncode == 0


@pytest.mark.parametrize(("kind", "host", "accepted"), KINDS, ids=[k[0].__name__ for k in KINDS])
@pytest.mark.parametrize("insecure", [False, True], ids=["", "insecure"])
def test_certificates_that_the_sdk_accepts(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    kind: Callable[[Path], None],
    host: str,
    accepted: bool | None,
    insecure: bool,
) -> None:
    if insecure and accepted is not False:
        accepted = True
    locator = keep_front.save_block(fresh_cluster, TEXT)
    folder = tmp_path / "tls"
    folder.mkdir()
    kind(folder)
    trusted = folder / "trusted.pem"
    bundle = tmp_path / "bundle.pem"
    api = Path(fresh_cluster.env()["SSL_CERT_FILE"]).read_text()
    bundle.write_text(api + (trusted if trusted.exists() else folder / "cert.pem").read_text())
    context = keep_front.tls_context(folder)
    answer = keep_front.forward(keep_front.keep_address(fresh_cluster))
    with keep_front.served(answer, context) as server:
        settings = {
            "SSL_CERT_FILE": str(bundle),
            "SSL_CERT_DIR": str(folder / "certs"),
            "ARVADOS_KEEP_SERVICES": f"https://{host}:{server.server_port}/",
            "ARVADOS_API_HOST_INSECURE": "1" if insecure else "",
        }
        sdk = sdk_reads(locator, {**os.environ, **fresh_cluster.env(), **settings})
        if insecure:
            assert sdk, "told to take any"
        elif accepted is not None:
            assert sdk == accepted
        cache = f"--disk-cache-dir={folder}"
        mount = arv_mount("--retries=0", "--disable-event-listening", cache, env=settings)
        file = mount.path / "home" / "c" / "f"
        if sdk:
            assert file.read_text() == TEXT
            return
        with pytest.raises(OSError) as error:
            file.read_text()
        assert error.value.errno == errno.EIO
        lines = [line for line in mount.log.read_text().splitlines() if "ERROR" in line]
        assert len(lines) == 1 and host in lines[0] and "certificate" in lines[0], lines
