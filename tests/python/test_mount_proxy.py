# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Proxies of the environment: Keep is reached as the SDK's client reaches it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import keep_front
import pytest
from arvados_fuse.localcluster import LocalCluster

TEXT = "read through a proxy"

#: The environment, where PROXY is a proxy's address, and whether the SDK's client goes through it.
ENVIRONMENTS: list[tuple[dict[str, str], bool]] = [
    ({"http_proxy": "http://PROXY"}, True),
    ({"http_proxy": "PROXY"}, True),
    ({"HTTP_PROXY": "http://PROXY"}, False),
    ({"HTTPS_PROXY": "http://PROXY"}, False),
    ({"ALL_PROXY": "http://PROXY"}, True),
    ({"all_proxy": "http://me:p%40ss@PROXY"}, True),
    ({"http_proxy": "http://PROXY", "no_proxy": "*"}, False),
    ({"http_proxy": "http://PROXY", "no_proxy": "*,x"}, True),
    ({"http_proxy": "http://PROXY", "NO_PROXY": "x, 127.0.0.1"}, False),
    ({"http_proxy": "http://PROXY", "NO_PROXY": "127.0.0.0/8"}, False),
    ({"http_proxy": "http://PROXY", "no_proxy": ".example,0.0.1"}, True),
    ({"http_proxy": "http://PROXY", "no_proxy": "", "NO_PROXY": "127.0.0.1"}, False),
    ({"http_proxy": "", "ALL_PROXY": "http://PROXY"}, True),
]
SECURE: list[tuple[dict[str, str], bool]] = [
    ({"http_proxy": "http://PROXY"}, False),
    ({"HTTPS_PROXY": "http://me:p%40ss@PROXY"}, True),
    ({"https_proxy": "PROXY", "NO_PROXY": "host"}, True),
    ({"https_proxy": "PROXY", "NO_PROXY": "localhost"}, False),
    ({"https_proxy": "PROXY", "NO_PROXY": ".LOCALHOST."}, False),
]
CASES = [(False, *case) for case in ENVIRONMENTS] + [(True, *case) for case in SECURE]
NAMES = [
    ("https " if secure else "") + " ".join(f"{k}={v}" for k, v in environment.items())
    for secure, environment, _ in CASES
]


def sdk_reads(locator: str, environment: dict[str, str]) -> str:
    program = (
        "import arvados, sys; api = arvados.api('v1');"
        "print(api.keep.get(sys.argv[1], num_retries=0).decode(), end='')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, locator],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize(("secure", "environment", "used"), CASES, ids=NAMES)
def test_proxies_are_used_as_by_the_sdk(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    secure: bool,
    environment: dict[str, str],
    used: bool,
) -> None:
    locator = keep_front.save_block(fresh_cluster, TEXT)
    answer = keep_front.forward(keep_front.keep_address(fresh_cluster))
    keep_front.certificate(tmp_path, "-addext", "subjectAltName=DNS:localhost")
    bundle = tmp_path / "bundle.pem"
    api = Path(fresh_cluster.env()["SSL_CERT_FILE"]).read_text()
    bundle.write_text(api + (tmp_path / "cert.pem").read_text())
    context = keep_front.tls_context(tmp_path) if secure else None
    with keep_front.served(answer, context) as server, keep_front.served(answer) as proxy:
        root = f"https://localhost:{server.server_port}/"
        if not secure:
            root = f"http://127.0.0.1:{server.server_port}/"
        address = f"127.0.0.1:{proxy.server_port}"
        settings = {name: value.replace("PROXY", address) for name, value in environment.items()}
        settings |= {"ARVADOS_KEEP_SERVICES": root, "SSL_CERT_FILE": str(bundle)}

        def asked() -> list[tuple[str, str, str | None]]:
            """What the proxy was asked for, as far as Keep is concerned."""
            seen, proxy.seen = proxy.seen, []
            return [
                (method, path, headers.get("proxy-authorization"))
                for method, path, headers in seen
                if str(server.server_port) in path
            ]

        assert sdk_reads(locator, {**os.environ, **fresh_cluster.env(), **settings}) == TEXT
        by_sdk = asked()
        assert bool(by_sdk) == used
        options = ["--retries=0", "--disable-event-listening", f"--disk-cache-dir={tmp_path}"]
        mount = arv_mount(*options, env=settings)
        assert (mount.path / "home" / "c" / "f").read_text() == TEXT
        by_mount = asked()
        assert [(m, p.split("+A")[0], a) for m, p, a in by_mount] == [
            (m, p.split("+A")[0], a) for m, p, a in by_sdk
        ]


def socks5(listener: socket.socket, seen: list[bytes]) -> None:
    """Serve SOCKS 5, without authentication, to 127.0.0.1 whatever is asked for."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve_socks5, args=(client, seen), daemon=True).start()


def serve_socks5(client: socket.socket, seen: list[bytes]) -> None:
    stream = client.makefile("rb")
    count = stream.read(2)[1]
    stream.read(count)
    client.sendall(b"\x05\x00")
    kind = stream.read(4)[3]
    host = stream.read(4) if kind == 1 else stream.read(stream.read(1)[0])
    port = int.from_bytes(stream.read(2), "big")
    seen.append(host)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as there:
        client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := there.recv(65536):
                    client.sendall(data)

        threading.Thread(target=back, daemon=True).start()
        while data := client.recv(65536):
            there.sendall(data)


@pytest.mark.parametrize(
    ("scheme", "host"), [("socks5", b"\x7f\x00\x00\x01"), ("socks5h", b"localhost")]
)
def test_a_socks_proxy(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, scheme: str, host: bytes
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    answer = keep_front.forward(keep_front.keep_address(fresh_cluster))
    seen: list[bytes] = []
    with keep_front.served(answer) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=socks5, args=(listener, seen), daemon=True).start()
        settings = {
            "ARVADOS_KEEP_SERVICES": f"http://localhost:{server.server_port}/",
            "http_proxy": f"{scheme}://127.0.0.1:{listener.getsockname()[1]}",
        }
        options = ["--retries=0", "--disable-event-listening", f"--disk-cache-dir={tmp_path}"]
        mount = arv_mount(*options, env=settings)
        assert (mount.path / "home" / "c" / "f").read_text() == TEXT
        assert host in seen, seen


def test_a_proxy_that_is_not_there_is_named(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, TEXT)
    with keep_front.served(None) as server:
        gone = f"127.0.0.1:{server.server_port}"
    settings = {"http_proxy": f"http://me:secret@{gone}"}
    options = ["--retries=0", "--disable-event-listening", f"--disk-cache-dir={tmp_path}"]
    mount = arv_mount(*options, env=settings)
    with pytest.raises(OSError):
        (mount.path / "home" / "c" / "f").read_text()
    log = mount.log.read_text()
    assert f"proxy {gone}: " in log and "refused" in log and "secret" not in log
