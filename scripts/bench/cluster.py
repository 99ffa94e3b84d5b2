# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The cluster that all mount: API and events of the local cluster, blocks from a Keep service in Rust.

The local cluster's own Keep service is for tests. The one here has its blocks in memory and costs
next to nothing, so that it takes as little as it can of the processors that it shares with what is
measured.
"""

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arvados_fuse.localcluster import LocalCluster

from .dataset import DataSet


class BlockServer:
    """A running Keep service."""

    def __init__(self, program: Path, blocks: Path) -> None:
        # It ends when its standard input does, whatever becomes of this process.
        self._process = subprocess.Popen(
            [str(program), str(blocks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def close(self) -> None:
        """Stop it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def control(self, name: str, body: str = "") -> dict[str, int]:
        """Give an order; return what was asked of it so far."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", f"/_control/{name}", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stall(self, locators: Iterable[str]) -> None:
        """Have these blocks wait until `clear`."""
        self.control("stall", "\n".join(locator[:32] for locator in locators))

    def clear(self) -> None:
        """Let go of the blocks that wait."""
        self.control("clear")

    @contextlib.contextmanager
    def far(self, seconds: float, rate: float) -> Iterator[None]:
        """Have blocks come that much later in the meantime, and so many bytes a second on a connection."""
        self.control("link", f"{seconds} {rate}")
        try:
            yield
        finally:
            self.control("link")

    def served(self) -> int:
        """Return how many bytes of blocks were served so far."""
        return self.control("stats")["bytes"]

    def urls(self, locators: Iterable[str]) -> list[str]:
        """Return where blocks are to be had."""
        return [f"http://127.0.0.1:{self.port}/{locator}" for locator in locators]


@dataclass
class Asked:
    """What the API was asked in a time: the number of requests, and the bytes of their bodies."""

    requests: int = 0
    sent: int = 0
    #: Requests of the benchmark's own in that time.
    own: int = 0


class Cluster:
    """The running cluster."""

    def __init__(self, local: LocalCluster, keep: BlockServer) -> None:
        self.local = local
        self.keep = keep
        self.env = local.env()
        self._client = self.api()

    def api(self) -> Any:
        """Return an SDK client."""
        return self.local.api()

    def new_collection(self, manifest: str = "") -> str:
        """Make a collection to write to; return its uuid."""
        body = {"collection": {"name": f"written {time.time_ns()}", "manifest_text": manifest}}
        return self.api().collections().create(body=body).execute()["uuid"]

    def saved(self, uuid: str) -> dict[str, int]:
        """Return `file_count` and `file_size_total` of a collection's record, in one request."""
        select = ["file_count", "file_size_total"]
        return self._client.collections().get(uuid=uuid, select=select).execute()

    @contextlib.contextmanager
    def far(self, seconds: float) -> Iterator[None]:
        """Have the API answer that much later in the meantime."""
        if seconds:
            self.local.faults.add(service="api", action="delay", value=seconds)
        try:
            yield
        finally:
            self.local.faults.clear()

    @contextlib.contextmanager
    def counted(self) -> Iterator[Asked]:
        """Count what the API is asked in the meantime; known when that ends."""
        asked = Asked()
        self.local.record_requests()
        try:
            yield asked
            found = [each for each in self.local.requests() if each["service"] == "api"]
        finally:
            self.local.record_requests(False)
        asked.requests = len(found) - asked.own
        asked.sent = sum(each["sent"] for each in found)

    def record_url(self, name: str) -> tuple[str, list[str]]:
        """Return the address of a collection's record, and what curl needs to be let in."""
        return f"https://{self.local.api_host}/arvados/v1/collections/{name}", self._let_in()

    def page_urls(self, project: str) -> tuple[list[str], list[str]]:
        """Return the addresses of all pages of a project, as a mount asks for them one after another, and
        what curl needs to be let in."""
        urls: list[str] = []

        def page(*filters: list) -> list[dict]:
            asked = {
                "filters": list(filters),
                "order": ["uuid asc"],
                "limit": 1000,
                "count": "none",
                "select": ["uuid", "name", "modified_at", "current_version_uuid"],
            }
            request = self._client.groups().contents(uuid=project, **asked)
            urls.append(request.uri)
            return request.execute()["items"]

        page(["uuid", "is_a", "arvados#group"])
        after: list[list] = []
        while items := page(*after, ["uuid", "is_a", "arvados#collection"]):
            after = [["uuid", ">", items[-1]["uuid"]]]
        return urls, self._let_in()

    def _let_in(self) -> list[str]:
        token, authority = self.local.token(), self.env["SSL_CERT_FILE"]
        return ["-H", f"Authorization: Bearer {token}", "--cacert", authority]


@contextlib.contextmanager
def running(folder: Path, program: Path, data: DataSet) -> Iterator[Cluster]:
    """Run a cluster that has the data set; its records are in `folder`."""
    with contextlib.ExitStack() as cleanup:
        keep = BlockServer(program, data.blocks)
        cleanup.callback(keep.close)
        # Two copies, as clusters have it by default; the one service answers for both, and signs nothing.
        options = {"keepstores": 1, "replication": 2, "test_hooks": True, "blob_signing": False}
        local = cleanup.enter_context(LocalCluster(folder, **options))
        # This process is a client as well.
        os.environ.update(local.env())
        user = local.api().users().current().execute()["uuid"]
        # In the place of the cluster's own, which is in Python.
        (own,) = local.api().keep_services().accessible().execute()["items"]
        service = {
            "uuid": own["uuid"],
            "owner_uuid": user,
            "created_at": "2026-01-01T00:00:00.000000000Z",
            "modified_at": "2026-01-01T00:00:00.000000000Z",
            "modified_by_user_uuid": user,
            "service_host": "127.0.0.1",
            "service_port": keep.port,
            "service_ssl_flag": False,
            "service_type": "disk",
            "read_only": False,
        }
        local.load_fixtures({"keep_services": [service]})
        (found,) = local.api().keep_services().accessible().execute()["items"]
        assert found["service_port"] == keep.port, (
            "every block goes to the service that has no other work"
        )
        for tables in data.records(user):
            local.load_fixtures(tables)
        yield Cluster(local, keep)
