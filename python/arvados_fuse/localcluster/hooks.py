# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Test hooks: what a test may have a cluster do, `POST /_local/NAME` with an admin's token.

Only a cluster that was started with `test_hooks` has them.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import clock
from .errors import APIError, forbidden
from .store import Record

if TYPE_CHECKING:
    from .server import Cluster


class Hooks:
    """The hooks of a cluster, and the state that `reset` goes back to."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._first: dict[str, list[Record]] = {}
        self._blocks: list[bytes] = []
        # A cluster without an admin for a moment would refuse the next hook.
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Answer the hooks in an HTTP server."""
        self._first = self._new_cluster()
        hooks: dict[str, Callable[[dict], Any]] = {
            "faults/add": lambda body: self._cluster.faults.add(body),
            "faults/clear": lambda body: self._cluster.faults.clear(),
            "faults/stalled": lambda body: self._cluster.faults.stalled,
            "requests": lambda body: self._cluster.faults.requests,
            "requests/record": lambda body: self._record_requests(body.get("on", True)),
            "ws/close": lambda body: self._cluster.events.close_all(),
            "users/create": lambda body: self._cluster.service.create_user(**body),
            "load": lambda body: self._load(**body),
            "clock": lambda body: clock.set_ahead(body["ahead"]),
            "reset": lambda body: self._reset(),
            "keep/start": lambda body: self._start_keep(**body),
            "keep/stop": lambda body: self._cluster.stop_keep(),
            "keep/proxy/start": lambda body: self._cluster.start_keep_proxy(),
            "keep/proxy/stop": lambda body: self._cluster.stop_keep_proxy(),
        }

        async def handle(request: web.Request) -> web.Response:
            async with self._one_at_a_time:
                token = request.headers.get("Authorization", "").rpartition(" ")[2]
                if not self._cluster.service.authenticate(token)[0]["is_admin"]:
                    raise forbidden()
                hook = hooks.get(request.match_info["hook"])
                if hook is None:
                    raise APIError(404, "no such hook")
                result = hook(await request.json())
                if inspect.isawaitable(result):
                    result = await result
                return web.json_response({"result": result})

        app.router.add_post("/_local/{hook:.*}", handle)

    def _record_requests(self, on: bool) -> None:
        self._cluster.faults.requests.clear()
        self._cluster.faults.recording = on

    def _new_cluster(self) -> dict[str, list[Record]]:
        """Return the records of a new cluster: its users and their tokens."""
        known = [self._cluster.service.authenticate(t) for t in self._cluster.tokens.values()]
        return {
            "users": [user for user, _ in known],
            "api_client_authorizations": [auth for _, auth in known],
        }

    def _reset(self) -> None:
        cluster = self._cluster
        cluster.faults.clear()
        self._record_requests(False)
        clock.set_ahead(0)
        services = list(cluster.store.all("keep_services"))
        with cluster.store.at_once():
            cluster.store.clear()
            for record in services:
                cluster.store.put("keep_services", record)
            self._put(self._first)

    def _put(self, records: dict[str, list[Record]]) -> int:
        for kind, table in records.items():
            for record in table:
                self._cluster.service.load(kind, dict(record))
        self._cluster.service.permissions.changed()
        return sum(map(len, records.values()))

    def _load(
        self,
        records: dict[str, list[Record]],
        blocks: list[str],
        tokens: dict[str, str] | None = None,
    ) -> int:
        """Put records into tables and blocks (hexadecimal) into Keep. With `tokens`, these records
        are all there are, now and after every reset, and those the tokens that clients are told."""
        data = [bytes.fromhex(block) for block in blocks]
        if tokens is not None:
            self._first, self._blocks = records, data
            self._reset()
            self._cluster.tokens = tokens
            count = sum(map(len, records.values()))
        else:
            with self._cluster.store.at_once():
                count = self._put(records)
        self._store(data)
        return count

    def _store(self, blocks: list[bytes]) -> None:
        for keepstore in self._cluster.keepstores:
            for block in blocks:
                keepstore.store(block)

    async def _start_keep(self, services: int, blob_signing: bool) -> None:
        await self._cluster.start_keep(services, blob_signing=blob_signing)
        for keepstore in self._cluster.keepstores:
            keepstore.empty()
        self._store(self._blocks)
