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
from .errors import APIError
from .eventbus import EventBus
from .faults import Faults
from .hooks import Hooks
from .keepstore import Keepproxy, Keepstore
from .private import ensure_private, write_privately
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
    storage_classes: tuple[str, ...] = ("default", "fast", "cold")
    blob_signing_ttl: int = 14 * 24 * 3600
    blob_signing: bool = True
    replace_files: bool = True
    test_hooks: bool = False


class Cluster:
    """A cluster in this process. `start()` and `stop()` are called in an event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = Path(options.data).resolve()
        ensure_private(self.folder)
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
        self.service = Service(self.store, signer, replace_files=options.replace_files)
        self.faults = Faults()
        self.events = EventBus(self.service)
        self.keepstores: list[Keepstore] = []
        self.authority = ensure_certificates(self.folder / "tls")
        self._api_runner: web.AppRunner | None = None
        self._keep_runners: list[web.AppRunner] = []
        self._proxy_runner: web.AppRunner | None = None
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
        write_privately(self.folder / "cluster.json", json.dumps(self._settings, indent=1))

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
        known = self._settings["ports"]
        api_port = self.options.port or (known[0] if known else 0)
        api = API(self.service, self.faults, self._document, self._config)
        app = api.application()
        app.router.add_get("/websocket", self.events.handle)
        if self.options.test_hooks:
            Hooks(self).add_to(app)
        tls = server_context(self.folder / "tls")
        fixed = bool(self.options.port)
        self._api_runner, self.port = await self._listen(app, api_port, tls, fixed=fixed)
        self._settings["ports"] = [self.port, *known[1:]]
        await self.start_keep(self.options.keepstores)
        self._publish()

    def _publish(self) -> None:
        """Tell other processes how to speak to the cluster that runs in this folder."""
        write_privately(self.folder / "description.json", json.dumps(self.description()))

    async def start_keep(self, count: int, *, blob_signing: bool = True) -> None:
        """Run that many Keep services, at the ports they had before where those are free."""
        await self.stop_keep()
        ports = self._settings["ports"]
        self.keepstores = []
        for number in range(count):
            keepstore = Keepstore(self.folder / f"keep{number}", self.service, self.faults)
            keepstore.blob_signing = blob_signing
            wanted = ports[number + 1] if len(ports) > number + 1 else 0
            runner, port = await self._listen(keepstore.application(), wanted, None)
            ports[number + 1 : number + 2] = [port]
            self.keepstores.append(keepstore)
            self._keep_runners.append(runner)
        self._save_settings()
        self._register_keep("disk", ports[1 : count + 1])

    async def stop_keep(self) -> None:
        """Stop the Keep services; the API goes on to name them."""
        runners, self._keep_runners = self._keep_runners, []
        for runner in runners:
            await runner.cleanup()

    async def start_keep_proxy(self) -> int:
        """Run a proxy before the Keep services that run now; return its port."""
        await self.stop_keep_proxy()
        proxy = Keepproxy(self.keepstores, self.options.replication, self.service, self.faults)
        self._proxy_runner, port = await self._listen(proxy.application(), 0, None)
        self._register_keep("proxy", [port])
        return port

    async def stop_keep_proxy(self) -> None:
        """Stop the proxy; the API no longer names it."""
        runner, self._proxy_runner = self._proxy_runner, None
        if runner is not None:
            self._register_keep("proxy", [])
            await runner.cleanup()

    async def _listen(
        self, app: web.Application, port: int, tls: Any, fixed: bool = False
    ) -> tuple[web.AppRunner, int]:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.options.host, port, ssl_context=tls)
            await site.start()
        except OSError:
            if fixed or not port:
                await runner.cleanup()
                raise
            # The port of the last run is taken by now: any other will do.
            site = web.TCPSite(runner, self.options.host, 0, ssl_context=tls)
            await site.start()
        return runner, runner.addresses[0][1]

    def _register_keep(self, service_type: str, ports: list[int]) -> None:
        """Have the API name the services of a type that listen at these ports, and no others."""
        for old in self.store.all("keep_services"):
            if old["service_type"] == service_type:
                self.store.remove("keep_services", old["uuid"])
        admin, _ = self.service.authenticate(self.tokens["admin"])
        for number, port in enumerate(ports):
            record: Record = {
                "uuid": f"{self.store.cluster_id}-bi6l4-{service_type:0<8}{number:07d}",
                "owner_uuid": admin["uuid"],
                "created_at": admin["created_at"],
                "modified_at": admin["created_at"],
                "modified_by_user_uuid": admin["uuid"],
                "service_host": self.options.host,
                "service_port": port,
                "service_ssl_flag": False,
                "service_type": service_type,
                "read_only": False,
            }
            self.store.put("keep_services", record)

    async def stop(self) -> None:
        """Stop listening and close everything."""
        self.faults.clear()
        (self.folder / "description.json").unlink(missing_ok=True)
        await self.stop_keep_proxy()
        await self.stop_keep()
        if self._api_runner is not None:
            await self._api_runner.cleanup()
        self.store.close()
        self._lock.close()

    @property
    def tokens(self) -> dict[str, str]:
        """A token for each of the users that clients are told of; `admin` and `active` at least."""
        return self._settings["tokens"]

    @tokens.setter
    def tokens(self, tokens: dict[str, str]) -> None:
        self._settings["tokens"] = tokens
        self._save_settings()
        self._publish()

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
            "tokens": self.tokens,
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
            replace_files=self.options.replace_files,
        )

    def _config(self) -> dict[str, Any]:
        url = f"https://{self.api_host}/"
        return {
            "ClusterID": self.store.cluster_id,
            "API": {"MaxItemsPerResponse": 1000, "MaxRequestSize": 128 << 20},
            "Collections": {
                "BlobSigning": self.options.blob_signing,
                "BlobSigningTTL": f"{self.options.blob_signing_ttl}s",
                "CollectionVersioning": True,
                "PreserveVersionIfIdle": "-1s",
                "DefaultReplication": self.options.replication,
                "ForwardSlashNameSubstitution": "",
                "DefaultTrashLifetime": "336h0m0s",
            },
            # All are kept alike.
            "StorageClasses": {
                name: {"Default": name == "default", "Priority": 0}
                for name in self.options.storage_classes
            },
            "Services": {
                "Controller": {"ExternalURL": url},
                "Websocket": {"ExternalURL": f"wss://{self.api_host}/websocket"},
            },
            "Users": {"AnonymousUserToken": ""},
            "RemoteClusters": {},
        }


async def serve(options: Options, ready: Callable[[Cluster], None], until: asyncio.Event) -> None:
    """Run a cluster; tell `ready` when it answers, and stop it when `until` is set."""
    cluster = Cluster(options)
    try:
        await cluster.start()
        ready(cluster)
        await until.wait()
    finally:
        await cluster.stop()
