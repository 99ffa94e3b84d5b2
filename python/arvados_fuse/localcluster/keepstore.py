# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A Keep service: blocks in a folder, named by their md5.

`PUT /HASH` checks and stores a block and answers its signed locator; `GET` and `HEAD /LOCATOR` want a
signature for the token they come with.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from aiohttp import web

from .blobsign import LOCATOR
from .errors import APIError
from .faults import Faults, Hangup, damaged, hang_up
from .service import Service

#: Largest block, in bytes.
MAX_BLOCK = 64 * 1024 * 1024


class Keepstore:
    """One Keep service."""

    def __init__(self, folder: Path, service: Service, faults: Faults) -> None:
        self.folder = folder
        self._service = service
        self._faults = faults
        #: Whether this service makes and asks for signatures, where the cluster has any.
        self.blob_signing = True
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def _signs(self) -> bool:
        return self.blob_signing and self._service.signer.enabled

    def _sign(self, locator: str, token: str) -> str:
        return self._service.signer.sign(locator, token) if self._signs else locator

    def empty(self) -> None:
        """Throw all blocks away."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

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
            self._faults.note("keep", request.method, request.path, status)

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

    def _token(self, request: web.Request) -> str:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme not in ("Bearer", "OAuth2") or not token:
            raise APIError(401, "Unauthorized")
        return token.strip()

    async def _put(self, request: web.Request) -> web.Response:
        token = self._token(request)
        self._service.authenticate(token)
        data = await request.read()
        if len(data) > MAX_BLOCK:
            raise APIError(413, "Block is larger than 64 MiB")
        digest = await asyncio.to_thread(lambda: hashlib.md5(data).hexdigest())
        if digest != request.match_info["hash"]:
            raise APIError(422, "Hash mismatch in PUT request")
        locator = await asyncio.to_thread(self.store, data)
        signed = self._sign(locator, token)
        classes = request.headers.get("X-Keep-Storage-Classes", "default")
        confirmed = ", ".join(f"{name.strip()}=1" for name in classes.split(","))
        return web.Response(
            text=signed + "\n",
            headers={
                "X-Keep-Locator": signed,
                "X-Keep-Replicas-Stored": "1",
                "X-Keep-Storage-Classes-Confirmed": confirmed,
            },
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        token = self._token(request)
        locator = request.path[1:]
        if self._signs and LOCATOR.match(locator) is None:
            raise APIError(403, "Forbidden: the locator is not signed")
        if self._signs and not self._service.signer.valid(locator, token):
            raise APIError(403, "Forbidden: bad or expired signature")
        path = self.path(request.match_info["hash"])
        if not path.exists():
            raise APIError(404, "Not Found")
        if request.headers.get("X-Keep-Signature", "").startswith("local"):
            size = path.stat().st_size
            signed = self._sign(f"{request.match_info['hash']}+{size}", token)
            return web.Response(headers={"X-Keep-Locator": signed})
        if request["rule"] is not None:
            data = await asyncio.to_thread(path.read_bytes)
            return web.Response(body=damaged(data, request["rule"]))
        return web.FileResponse(path, chunk_size=1 << 20)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"Version": "local"})
