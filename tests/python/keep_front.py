# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Servers before the Keep service of a cluster: over TLS, as a proxy, or answering with a redirect."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import arvados.collection
from arvados_fuse.localcluster import LocalCluster


def save_block(cluster: LocalCluster, text: str) -> str:
    """Save a collection `c` with a file `f` in Keep; return the locator of its block."""
    locator = cluster.api().keep.put(text.encode(), copies=2)
    collection = arvados.collection.Collection(
        f". {locator} 0:{len(text)}:f\n", api_client=cluster.api()
    )
    collection.save_new("c")
    return locator


def keep_address(cluster: LocalCluster) -> tuple[str, int]:
    """Where the first Keep service listens."""
    service = cluster.api().keep_services().accessible().execute()["items"][0]
    return service["service_host"], service["service_port"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Any, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.context = context
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers))
        self.server.answer(self)

    do_CONNECT = do_GET

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(answer: Any, context: ssl.SSLContext | None = None) -> Iterator[_Server]:
    """Serve what `answer(handler)` answers; `seen` has what was asked."""
    server = _Server(answer, context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def forward(address: tuple[str, int]) -> Any:
    """Return what answers as the service there; whole URIs, as proxies get them, are taken, too."""

    def answer(handler: _Handler) -> None:
        if handler.command == "CONNECT":
            _tunnel(handler)
            return
        url = urllib.parse.urlsplit(handler.path)
        connection = http.client.HTTPConnection(*address, timeout=20)
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() not in ("host", "connection", "proxy-connection")
        }
        connection.request("GET", url.path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        handler.send_response(response.status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _tunnel(handler: _Handler) -> None:
    host, _, port = handler.path.rpartition(":")
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as there:
        handler.send_response(200)
        handler.end_headers()

        def pump(source: Any, sink: Any) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=pump, args=(there, handler.connection), daemon=True)
        back.start()
        pump(handler.connection, there)
        back.join(20)
    handler.close_connection = True


def openssl(folder: Path, *arguments: str) -> None:
    """Run the program in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


def certificate(
    folder: Path, *options: str, name: str = "localhost", key: tuple[str, ...] = ()
) -> None:
    """Make `key.pem` and a certificate signed with it, `cert.pem`, as `openssl req -x509` does."""
    kind = key or ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    openssl(
        folder, "req", "-x509", "-nodes", "-days", "2", "-newkey", *kind,
        "-keyout", "key.pem", "-out", "cert.pem", "-subj", f"/CN={name}", *options,
    )  # fmt: skip


def tls_context(folder: Path) -> ssl.SSLContext:
    """What serves with `cert.pem` and `key.pem` of a folder, whatever they are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
