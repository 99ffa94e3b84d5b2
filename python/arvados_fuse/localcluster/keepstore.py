# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Keep: services with blocks in a folder, named by their md5, and the proxy before them.

`PUT /HASH` checks and stores a block and answers its signed locator; `GET` and `HEAD /LOCATOR` want a
signature for the token they come with.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from .blobsign import LOCATOR
from .errors import APIError
from .faults import Faults, Hangup, damaged, follow, hang_up
from .service import Service

#: Largest block, in bytes.
MAX_BLOCK = 64 * 1024 * 1024


class KeepService:
    """What clients speak to: the protocol of every Keep service. Subclasses know where blocks are."""

    def __init__(self, service: Service, faults: Faults) -> None:
        self._service = service
        self._faults = faults
        #: Whether this service asks for signatures, where the cluster has any. It makes them always.
        self.blob_signing = True

    def keep(self, data: bytes, copies: int | None) -> tuple[str, int]:
        """Keep a block; return its locator, unsigned, and how many copies there are now. `copies` is
        what the client asks for, if it does."""
        raise NotImplementedError

    def find(self, block: str) -> Path | None:
        """Return the file that holds the block of that hash, if there is one."""
        raise NotImplementedError

    def application(self) -> web.Application:
        """Return the HTTP server."""
        app = web.Application(client_max_size=MAX_BLOCK + 1024, middlewares=[self._guard])
        app.router.add_put("/{hash:[0-9a-f]{32}}", self._put)
        app.router.add_put("/{hash:[0-9a-f]{32}}+{rest:.*}", self._put)
        app.router.add_get("/{hash:[0-9a-f]{32}}", self._get)
        app.router.add_get("/{hash:[0-9a-f]{32}}+{rest:.*}", self._get)
        app.router.add_get("/status.json", self._status)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: object) -> web.StreamResponse:
        status = 500
        try:
            request["rule"] = await self._faults.before("keep", request)
            response: web.StreamResponse = await handler(request)  # type: ignore[operator]
            status = response.status
            return response
        except Hangup:
            status = 0
            hang_up(request)
            return web.Response(status=500)
        except web.HTTPException as error:
            status = error.status
            raise
        except APIError as error:
            status = error.status
            return web.Response(status=error.status, text=str(error) + "\n")
        finally:
            self._faults.note("keep", request, request.method, status)

    def _token(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme not in ("Bearer", "OAuth2") or not token:
            raise APIError(401, "Unauthorized")
        return token.strip()

    async def _put(self, request: web.Request) -> web.Response:
        token = self._token(request)
        self._service.authenticate(token)
        rule = request["rule"] or {"action": "none"}
        if rule["action"] == "cut":
            await request.content.readexactly((request.content_length or 0) // 2)
            raise Hangup()
        data = await request.read()
        if len(data) > MAX_BLOCK:
            raise APIError(413, "Block is larger than 64 MiB")
        digest = await asyncio.to_thread(lambda: hashlib.md5(data).hexdigest())
        if digest != request.match_info["hash"]:
            raise APIError(422, "Hash mismatch in PUT request")
        asked = request.headers.get("X-Keep-Desired-Replicas", "")
        copies = int(asked) if asked.isdecimal() else None
        locator, copies = await asyncio.to_thread(self.keep, data, copies)
        await follow(rule)
        if rule["action"] == "wrong":
            locator = f"{hashlib.md5(locator.encode()).hexdigest()}+{len(data)}"
        signed = self._service.signer.sign(locator, token)
        classes = request.headers.get("X-Keep-Storage-Classes", "default")
        confirmed = ", ".join(f"{name.strip()}={copies}" for name in classes.split(","))
        if rule["action"] == "classes":
            confirmed = str(rule["value"])
        return web.Response(
            text=signed + "\n",
            headers={
                "X-Keep-Locator": signed,
                "X-Keep-Replicas-Stored": str(copies),
                "X-Keep-Storage-Classes-Confirmed": confirmed,
            },
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        token = self._token(request)
        locator = request.path[1:]
        if self.blob_signing and self._service.signer.enabled:
            if LOCATOR.match(locator) is None:
                raise APIError(403, "Forbidden: the locator is not signed")
            if not self._service.signer.valid(locator, token):
                raise APIError(403, "Forbidden: bad or expired signature")
        path = self.find(request.match_info["hash"])
        if path is None:
            raise APIError(404, "Not Found")
        if request.headers.get("X-Keep-Signature", "").startswith("local"):
            size = path.stat().st_size
            signed = self._service.signer.sign(f"{request.match_info['hash']}+{size}", token)
            return web.Response(headers={"X-Keep-Locator": signed})
        if request["rule"] is not None:
            data = await asyncio.to_thread(path.read_bytes)
            return web.Response(body=damaged(data, request["rule"]))
        return web.FileResponse(path, chunk_size=1 << 20)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"Version": "local"})


class Keepstore(KeepService):
    """A Keep service that has its blocks in a folder."""

    def __init__(self, folder: Path, service: Service, faults: Faults) -> None:
        super().__init__(service, faults)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def empty(self) -> None:
        """Throw all blocks away."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def path(self, block: str) -> Path:
        """Return where the block of that hash is kept."""
        return self.folder / block[:3] / block

    def store(self, data: bytes) -> str:
        """Keep a block; return its locator, unsigned."""
        block = hashlib.md5(data).hexdigest()
        path = self.path(block)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
        return f"{block}+{len(data)}"

    def keep(self, data: bytes, copies: int | None) -> tuple[str, int]:
        return self.store(data), 1

    def find(self, block: str) -> Path | None:
        path = self.path(block)
        return path if path.exists() else None


class Keepproxy(KeepService):
    """The one Keep service that clients outside of a cluster speak to: it keeps as many copies as
    they ask for (`default_copies` where they do not), and reads from whichever service has a block."""

    def __init__(
        self, stores: Sequence[Keepstore], default_copies: int, service: Service, faults: Faults
    ) -> None:
        super().__init__(service, faults)
        self._stores = stores
        self._default_copies = default_copies

    def keep(self, data: bytes, copies: int | None) -> tuple[str, int]:
        chosen = self._stores[: copies or self._default_copies]
        if not chosen:
            raise APIError(503, "No Keep service is running")
        locators = [store.store(data) for store in chosen]
        return locators[0], len(locators)

    def find(self, block: str) -> Path | None:
        return next(filter(None, (store.find(block) for store in self._stores)), None)
