# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The event bus: a websocket that tells of what was created, updated and deleted.

A client sends `{"method": "subscribe", "filters": [...], "last_log_id": N}`, is answered
`{"status": 200}`, and gets each event that passes the filters and that it may know of; those after
`last_log_id` that it missed first.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from . import query
from .errors import APIError
from .service import Service
from .store import Record

#: Events that wait for a slow client before it is cut off.
_BACKLOG = 10_000

Passes = Callable[[Record], bool]


class _Client:
    def __init__(self, user: Record) -> None:
        self.user = user
        self.queue: asyncio.Queue[Any] = asyncio.Queue(_BACKLOG)
        self.subscriptions: list[tuple[Any, Passes]] = []
        # Where a subscription asked to be told from; None where it did not.
        self.missed: int | None = None


class EventBus:
    """Everybody who listens."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._clients: set[_Client] = set()
        service.on_log = self.publish

    def publish(self, log: Record) -> None:
        """Tell of an event."""
        for client in list(self._clients):
            self._offer(client, log)

    def _offer(self, client: _Client, log: Record) -> None:
        if not any(passes(log) for _, passes in client.subscriptions):
            return
        if not self._service.may_hear(client.user, log):
            return
        try:
            client.queue.put_nowait(_event(log))
        except asyncio.QueueFull:
            # It will come back and ask for what it missed.
            self._clients.discard(client)
            client.queue.get_nowait()
            client.queue.put_nowait(None)

    def close_all(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.queue.put_nowait(None)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one client."""
        token = (
            request.query.get("api_token")
            or request.headers.get("Authorization", "").rpartition(" ")[2]
        )
        user, _ = self._service.authenticate(token)
        socket = web.WebSocketResponse(heartbeat=30)
        await socket.prepare(request)
        fault = request.get("fault") or {}
        if fault.get("action") == "close":
            await socket.close()
            return socket
        for text in fault.get("value", ()) if fault.get("action") == "frames" else ():
            await socket.send_str(text)
        client = _Client(user)
        self._clients.add(client)
        sender = asyncio.create_task(self._send(client, socket))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    client.queue.put_nowait(self._answer(client, message.data))
                    self._catch_up(client)
        finally:
            self._clients.discard(client)
            sender.cancel()
        return socket

    async def _send(self, client: _Client, socket: web.WebSocketResponse) -> None:
        while True:
            event = await client.queue.get()
            if event is None:
                await socket.close()
                return
            await socket.send_str(json.dumps(event))

    def _answer(self, client: _Client, text: str) -> dict[str, int]:
        client.missed = None
        try:
            request = json.loads(text)
            filters = request.get("filters") or []
            method = request.get("method")
            if method == "subscribe":
                client.subscriptions.append((filters, query.matcher("logs", filters)))
                client.missed = request.get("last_log_id")
            elif method == "unsubscribe":
                kept = [s for s in client.subscriptions if s[0] != filters]
                if len(kept) == len(client.subscriptions):
                    return {"status": 404}
                client.subscriptions = kept
            else:
                return {"status": 400}
        except (ValueError, AttributeError, APIError):
            return {"status": 400}
        return {"status": 200}

    def _catch_up(self, client: _Client) -> None:
        since, client.missed = client.missed, None
        if since is None:
            return
        missed = [log for log in self._service.store.all("logs") if log["id"] > int(since)]
        for log in sorted(missed, key=lambda log: log["id"]):
            self._offer(client, log)


def _event(log: Record) -> dict[str, Any]:
    return {
        "id": log["id"],
        "uuid": log["uuid"],
        "msgID": log["id"],
        "event_type": log["event_type"],
        "event_at": log["event_at"],
        "object_uuid": log["object_uuid"],
        "object_owner_uuid": log["object_owner_uuid"],
        "object_kind": log["object_kind"],
        "properties": log["properties"],
    }
