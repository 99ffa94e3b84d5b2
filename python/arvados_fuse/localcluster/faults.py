# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Test hooks: requests that fail on purpose, and a record of what was asked.

A rule is a dict: `service` (api, keep, ws), `host` (with its port), `method` and `path` (regular
expressions; any by default), `action` and its `value`, and `count` (how often; for ever by default).
Actions:

| action | what happens | value |
| --- | --- | --- |
| status | answered with this HTTP status | the status |
| hangup | the connection is closed without an answer | |
| lost | done, but the connection is closed, or answered with this status | the status |
| delay | answered later | seconds |
| hold | done when the rules are cleared, and answered this much later | seconds (0) |
| stall | never answered, until the client leaves or the rules are cleared | |
| wrong | a block's bytes are changed; of one that is stored, the hash in its locator | |
| short | a block's last bytes are missing | how many (1) |
| long | a block has bytes too many | how many (1) |
| classes | a block is stored, and confirmed for these storage classes | the header's text |
| body | answered with status 200 and this text | the text |
| cut | the answer, or a block on its way to be stored, ends in its middle with the connection | |
| redirect | answered with status 302 | where to |
| frames | the event bus sends these texts at once, then serves as ever | a list of texts |
| close | the event bus takes the connection and closes it | |
"""

import asyncio
import re
from typing import Any

from aiohttp import web

_ACTIONS = (
    *("status", "hangup", "lost", "delay", "hold", "stall", "wrong", "short", "long"),
    *("classes", "body", "cut", "redirect", "frames", "close"),
)


class Hangup(Exception):
    """Close the connection without an answer."""


class Faults:
    """The rules in force, and the requests that came."""

    def __init__(self) -> None:
        self.rules: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.recording = False
        #: How many requests are held or stalled now.
        self.stalled = 0
        self._cleared = asyncio.Event()

    def add(self, rule: dict[str, Any]) -> None:
        """Put a rule into force, behind those there are."""
        if rule.get("action") not in _ACTIONS:
            raise ValueError(f"no such action: {rule.get('action')!r}")
        self.rules.append(dict(rule))

    def clear(self) -> None:
        """Have no rules, and answer whoever waits."""
        self.rules.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    def note(self, service: str, request: web.Request, method: str, status: int) -> None:
        """Record a request. What it sent is its body, in bytes."""
        if self.recording:
            self.requests.append(
                {
                    "service": service,
                    "method": method,
                    "path": request.path,
                    "status": status,
                    "sent": request.content_length or 0,
                }
            )

    def find(self, service: str, host: str, method: str, path: str) -> dict[str, Any] | None:
        """Return the first rule for that request; it counts as applied."""
        for rule in self.rules:
            if (
                rule.get("service", service) == service
                and re.fullmatch(rule.get("host", ".*"), host)
                and re.fullmatch(rule.get("method", ".*"), method)
                and re.search(rule.get("path", ""), path)
                and rule.get("count", 1) > 0
            ):
                if "count" in rule:
                    rule["count"] -= 1
                return rule
        return None

    async def before(self, service: str, request: web.Request) -> dict[str, Any] | None:
        """Apply a rule to a request; return one that concerns the body of the answer.

        Raises Hangup where there is to be no answer, HTTPException where it is an error.
        """
        rule = self.find(service, request.host, request.method, request.path)
        if rule is None:
            return None
        action, value = rule["action"], rule.get("value", 0)
        if action == "status":
            raise _http_error(int(value))
        if action == "hangup":
            raise Hangup()
        if action == "redirect":
            raise web.HTTPFound(str(value))
        if action == "delay":
            await asyncio.sleep(float(value))
            return None
        if action in ("hold", "stall"):
            self.stalled += 1
            try:
                await self._cleared.wait()
            finally:
                self.stalled -= 1
            if action == "stall":
                raise Hangup()
        return rule


async def follow(rule: dict[str, Any] | None) -> None:
    """Have the answer to what was done come late, or not arrive, where a rule says so."""
    if rule is not None and rule["action"] == "hold":
        await asyncio.sleep(float(rule.get("value", 0)))
    lose(rule)


def lose(rule: dict[str, Any] | None) -> None:
    """Have the answer to what was done not arrive, where a rule says so."""
    if rule is not None and rule["action"] == "lost":
        raise _http_error(int(rule["value"])) if "value" in rule else Hangup()


def _http_error(status: int) -> web.HTTPException:
    class Fault(web.HTTPException):
        status_code = status

    return Fault(
        text=f'{{"errors": ["fault injected: {status}"]}}', content_type="application/json"
    )


async def cut(request: web.Request) -> web.StreamResponse:
    """Answer with the first half of a body, and close the connection."""
    response = web.StreamResponse(headers={"Content-Length": "100"})
    response.content_type = "application/json"
    await response.prepare(request)
    await response.write(b'{"items": [{"uuid": "')
    hang_up(request)
    return response


def damaged(body: bytes, rule: dict[str, Any] | None) -> bytes:
    """Return the body as a rule has it."""
    if rule is None:
        return body
    count = int(rule.get("value") or 1)
    if rule["action"] == "wrong":
        return bytes([body[0] ^ 0xFF]) + body[1:] if body else b"?"
    if rule["action"] == "short":
        return body[:-count]
    return body + b"?" * count


def hang_up(request: web.Request) -> None:
    """Close the connection of a request."""
    if request.transport is not None:
        request.transport.abort()
