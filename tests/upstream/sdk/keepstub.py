# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the SDK's released tests import as `keepstub`: a Keep service, over HTTP in this process, that
is as slow as a test asks, at the moment that it asks.

The local cluster's own faults will not do: the SDK's timeouts are about the moments within one
request, and about bytes per second.
"""

import hashlib
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import arvados_testutil as tutil

#: Parts of a second in which a limited transfer moves its share.
_SLICES = 8


class _Pace:
    """How slow the service is: seconds to wait at a moment, bytes per second (None: no limit)."""

    def __init__(self) -> None:
        self.delays: dict[str, float] = dict.fromkeys(
            ("request", "response", "response_body", "mid_read", "mid_write"), 0.0
        )
        self.bandwidth: float | None = None

    def wait(self, moment: str) -> None:
        if self.delays[moment]:
            time.sleep(self.delays[moment])

    def portions(self, size: int, pause: str) -> "list[int]":
        """Yield the sizes to move one after another, in their time; wait at `pause` once, after
        what takes a second."""
        if self.bandwidth is None:
            yield size
            return
        portion = max(1, int(self.bandwidth / _SLICES))
        due, moved, paused = time.monotonic(), 0, False
        while moved < size:
            if moved >= self.bandwidth and not paused:
                paused = True
                self.wait(pause)
                due += self.delays[pause]
            now = min(portion, size - moved)
            yield now
            moved += now
            due += now / self.bandwidth
            time.sleep(max(0.0, due - time.monotonic()))


class _Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blocks: dict[str, bytes] = {}
        self.pace = _Pace()

    def setdelays(self, **delays: float) -> None:
        """Wait, from now on, so many seconds at the moments named."""
        unknown = delays.keys() - self.pace.delays.keys()
        assert not unknown, f"no such moments: {unknown}"
        self.pace.delays.update(delays)

    def setbandwidth(self, bandwidth: float) -> None:
        """Move, from now on, so many bytes a second."""
        self.pace.bandwidth = float(bandwidth)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: that clients lose patience is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Service

    def handle_one_request(self) -> None:
        self.server.pace.wait("request")
        super().handle_one_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep no log."""

    def _hash(self) -> str:
        return self.path[1:33]

    def _answer(self, status: HTTPStatus, body: bytes, *, send_body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.server.pace.wait("response_body")
        if not send_body:
            return
        sent = 0
        for size in self.server.pace.portions(len(body), "mid_write"):
            self.wfile.write(body[sent : sent + size])
            sent += size

    def do_GET(self) -> None:  # noqa: N802
        self.server.pace.wait("response")
        block = self.server.blocks.get(self._hash())
        if block is None:
            self._answer(HTTPStatus.NOT_FOUND, b"")
        else:
            self._answer(HTTPStatus.OK, block, send_body=self.command != "HEAD")

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:  # noqa: N802
        data = b""
        for size in self.server.pace.portions(int(self.headers["Content-Length"]), "mid_read"):
            data += self.rfile.read(size)
        block = hashlib.md5(data).hexdigest()
        self.server.blocks[block] = data
        self.server.pace.wait("response")
        self._answer(HTTPStatus.OK, f"{block}+{len(data)}\n".encode())


class StubKeepServers(tutil.ApiClientMock):
    """A test case with such a service (`server`), and an API client that tells of it."""

    def setUp(self) -> None:  # noqa: N802
        """Start the service."""
        super().setUp()  # type: ignore[misc]
        self.server = _Service()
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.addCleanup(self._stop, thread)  # type: ignore[attr-defined]
        host, port = self.server.server_address[:2]
        self.api_client = self.mock_keep_services(
            count=1, service_host=str(host), service_port=port
        )

    def _stop(self, thread: threading.Thread) -> None:
        self.server.shutdown()
        self.server.server_close()
        thread.join()
