# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The servers of a cluster, put together and run."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from .api import API
from .blobsign import Signer
from .discovery import document
from .errors import APIError, forbidden
from .eventbus import EventBus
from .faults import Faults
from .keepstore import Keepstore
from .service import Service
from .store import Record, Store
from .tls import ensure_certificates, server_context


@dataclass
class Options:
    """How to run a cluster. `port` is the API's (0: any that is free)."""

    data: str
    host: str = "127.0.0.1"
    port: int = 0
    cluster_id: str = "xlocl"
    keepstores: int = 2
    replication: int = 2
    blob_signing_ttl: int = 14 * 24 * 3600
    blob_signing: bool = True
    test_hooks: bool = False


class Cluster:
    """A cluster in this process. `start()` and `stop()` are called in an event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = Path(options.data).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RuntimeError(f"another cluster is running in {self.folder}") from error
        self._settings = self._load_settings()
        self.store = Store(self.folder / "records.sqlite", self._settings["cluster_id"])
        signer = Signer(
            self._settings["signing_key"], options.blob_signing_ttl, options.blob_signing
        )
        self.service = Service(self.store, signer)
        self.faults = Faults()
        self.events = EventBus(self.service)
        self.keepstores = [
            Keepstore(self.folder / f"keep{n}", self.service, self.faults)
            for n in range(options.keepstores)
        ]
        self.authority = ensure_certificates(self.folder / "tls")
        self._runners: list[web.AppRunner] = []
        self.port = 0
        self._ensure_users()

    # What outlives a run

    def _load_settings(self) -> dict[str, Any]:
        path = self.folder / "cluster.json"
        if path.exists():
            return json.loads(path.read_text())
        settings = {
            "cluster_id": self.options.cluster_id,
            "signing_key": secrets.token_hex(32),
            "ports": [],
            "tokens": {},
        }
        self._settings = settings
        self._save_settings()
        return settings

    def _save_settings(self) -> None:
        path = self.folder / "cluster.json"
        temporary = path.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(self._settings, indent=1))
        temporary.replace(path)

    def _ensure_users(self) -> None:
        for name, admin in (("admin", True), ("active", False)):
            token = self._settings["tokens"].get(name)
            if token is not None:
                with suppress(APIError):
                    self.service.authenticate(token)
                    continue
            _, self._settings["tokens"][name] = self.service.create_user(name, admin)
        self._save_settings()

    # Running

    async def start(self) -> None:
        """Listen. Raises OSError where a port that was asked for is taken."""
        known = list(self._settings["ports"])
        api_port = self.options.port or (known[0] if known else 0)
        api = API(self.service, self.faults, self._document, self._config)
        app = api.application()
        app.router.add_get("/websocket", self.events.handle)
        if self.options.test_hooks:
            self._add_hooks(app)
        tls = server_context(self.folder / "tls")
        self.port = await self._listen(app, api_port, tls, fixed=bool(self.options.port))
        ports = [self.port]
        for number, keepstore in enumerate(self.keepstores):
            wanted = known[number + 1] if len(known) > number + 1 else 0
            ports.append(await self._listen(keepstore.application(), wanted, None))
        self._settings["ports"] = ports
        self._save_settings()
        self._register_keepstores(ports[1:])

    async def _listen(self, app: web.Application, port: int, tls: Any, fixed: bool = False) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        self._runners.append(runner)
        try:
            site = web.TCPSite(runner, self.options.host, port, ssl_context=tls)
            await site.start()
        except OSError:
            if fixed or not port:
                raise
            # The port of the last run is taken by now: any other will do.
            site = web.TCPSite(runner, self.options.host, 0, ssl_context=tls)
            await site.start()
        return runner.addresses[0][1]

    def _register_keepstores(self, ports: list[int]) -> None:
        for old in self.store.all("keep_services"):
            self.store.remove("keep_services", old["uuid"])
        admin, _ = self.service.authenticate(self._settings["tokens"]["admin"])
        for number, port in enumerate(ports):
            record: Record = {
                "uuid": f"{self.store.cluster_id}-bi6l4-{number:015d}",
                "owner_uuid": admin["uuid"],
                "created_at": admin["created_at"],
                "modified_at": admin["created_at"],
                "modified_by_user_uuid": admin["uuid"],
                "service_host": self.options.host,
                "service_port": port,
                "service_ssl_flag": False,
                "service_type": "disk",
                "read_only": False,
            }
            self.store.put("keep_services", record)

    async def stop(self) -> None:
        """Stop listening and close everything."""
        self.faults.clear()
        for runner in self._runners:
            await runner.cleanup()
        self.store.close()
        self._lock.close()

    # What clients are told

    @property
    def api_host(self) -> str:
        """Host and port of the API."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{host}:{self.port}"

    def description(self) -> dict[str, Any]:
        """Return what a client needs to know: host, tokens, certificate authority."""
        return {
            "api_host": self.api_host,
            "tokens": self._settings["tokens"],
            "ca_file": str(self.authority),
            "pid": os.getpid(),
            "options": asdict(self.options),
        }

    def _document(self) -> dict[str, Any]:
        return document(
            cluster_id=self.store.cluster_id,
            api_url=f"https://{self.api_host}/",
            websocket_url=f"wss://{self.api_host}/websocket",
            signature_ttl=self.options.blob_signing_ttl,
            replication=self.options.replication,
        )

    def _config(self) -> dict[str, Any]:
        url = f"https://{self.api_host}/"
        return {
            "ClusterID": self.store.cluster_id,
            "API": {"MaxItemsPerResponse": 1000, "MaxRequestSize": 128 << 20},
            "Collections": {
                "BlobSigning": self.options.blob_signing,
                "BlobSigningTTL": f"{self.options.blob_signing_ttl}s",
                "CollectionVersioning": False,
                "DefaultReplication": self.options.replication,
                "ForwardSlashNameSubstitution": "",
                "DefaultTrashLifetime": "336h0m0s",
            },
            "StorageClasses": {"default": {"Default": True, "Priority": 0}},
            "Services": {
                "Controller": {"ExternalURL": url},
                "Websocket": {"ExternalURL": f"wss://{self.api_host}/websocket"},
            },
            "Users": {"AnonymousUserToken": ""},
            "RemoteClusters": {},
        }

    # Test hooks

    def _add_hooks(self, app: web.Application) -> None:
        hooks: dict[str, Callable[[dict], Any]] = {
            "faults/add": lambda body: self.faults.add(body),
            "faults/clear": lambda body: self.faults.clear(),
            "requests": lambda body: self.faults.requests,
            "requests/record": lambda body: self._record_requests(body.get("on", True)),
            "users/create": lambda body: self.service.create_user(**body),
            "load": self._load_fixtures,
            "reset": lambda body: self.reset(),
        }

        async def handle(request: web.Request) -> web.Response:
            token = request.headers.get("Authorization", "").rpartition(" ")[2]
            if not self.service.authenticate(token)[0]["is_admin"]:
                raise forbidden()
            hook = hooks.get(request.match_info["hook"])
            if hook is None:
                raise APIError(404, "no such hook")
            return web.json_response({"result": hook(await request.json())})

        app.router.add_post("/_local/{hook:.*}", handle)

    def _record_requests(self, on: bool) -> None:
        self.faults.requests.clear()
        self.faults.recording = on

    def reset(self) -> None:
        """Go back to how a new cluster is: its first users, their tokens, nothing else."""
        self.faults.clear()
        self._record_requests(False)
        keep = {}
        for name, token in self._settings["tokens"].items():
            keep[name] = self.service.authenticate(token)
        services = list(self.store.all("keep_services"))
        self.store.clear()
        for user, auth in keep.values():
            self.store.put("users", user)
            self.store.put("api_client_authorizations", auth)
        for record in services:
            self.store.put("keep_services", record)
        self.service.permissions.changed()

    def _load_fixtures(self, body: dict) -> int:
        """Put records, as they are, into tables, and blocks (hexadecimal) into Keep."""
        count = 0
        for kind, records in (body.get("records") or {}).items():
            for record in records:
                self.store.put(kind, record)
                count += 1
        for block in body.get("blocks") or []:
            for keepstore in self.keepstores:
                keepstore.store(bytes.fromhex(block))
        self.service.permissions.changed()
        return count


async def serve(options: Options, ready: Callable[[Cluster], None], until: asyncio.Event) -> None:
    """Run a cluster; tell `ready` when it answers, and stop it when `until` is set."""
    cluster = Cluster(options)
    try:
        await cluster.start()
        ready(cluster)
        await until.wait()
    finally:
        await cluster.stop()
