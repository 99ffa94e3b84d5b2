# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A cluster in a process of its own, for programs and tests."""

import contextlib
import http.client
import json
import os
import select
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .private import ensure_private


class ClusterError(RuntimeError):
    """The cluster did not start, or refused a test hook."""


class FaultControl:
    """Faults of a running cluster; see `arvados_fuse.localcluster.faults` for rules."""

    def __init__(self, cluster: "LocalCluster") -> None:
        self._cluster = cluster

    def add(self, **rule: Any) -> None:
        """Put a rule into force."""
        self._cluster.hook("faults/add", rule)

    def clear(self) -> None:
        """Have no rules, and answer whoever waits."""
        self._cluster.hook("faults/clear", {})

    def stalled(self) -> int:
        """Return how many requests are stalled now."""
        return self._cluster.hook("faults/stalled", {})


class LocalCluster:
    """A local cluster with its data in a folder, run as a subprocess.

    A context manager. Options are those of `python -m arvados_fuse.localcluster`: `port`, `keepstores`,
    `replication`, `storage_classes` (names, with commas between them), `blob_signing_ttl` (seconds),
    `blob_signing`, `replace_files` (False: as Arvados before 2.4), `cluster_id`, `test_hooks`.
    """

    def __init__(self, data: str | os.PathLike[str], **options: Any) -> None:
        self.data = Path(data)
        self.options = options
        self.faults = FaultControl(self)
        self._process: subprocess.Popen | None = None
        self._pidfd = -1
        self._description: dict[str, Any] = {}

    def _command(self, description: str) -> list[str]:
        command = [sys.executable, "-m", "arvados_fuse.localcluster", "--data", str(self.data)]
        command += ["--description", description, "--quiet", "--until-end-of-input"]
        for name, value in self.options.items():
            option = "--" + name.replace("_", "-")
            if value is True:
                command.append(option)
            elif value is False:
                command.append("--no-" + option[2:])
            else:
                command += [option, str(value)]
        return command

    def start(self, timeout: float = 60) -> "LocalCluster":
        """Start it, and wait until it answers; ClusterError where it does not."""
        if self._process is not None:
            return self
        ensure_private(self.data)
        log = self.data / "cluster.log"
        with tempfile.TemporaryDirectory() as folder, open(log, "ab") as output:
            description = os.path.join(folder, "description.json")
            self._process = subprocess.Popen(
                self._command(description),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self._pidfd = os.pidfd_open(self._process.pid)
            deadline = time.monotonic() + timeout
            while not os.path.exists(description):
                if self._process.poll() is not None:
                    self.stop()
                    lines = log.read_text(errors="replace").strip().splitlines()
                    reason = (
                        lines[-1].removeprefix("local cluster: ") if lines else "no reason given"
                    )
                    raise ClusterError(f"the local cluster did not start: {reason}")
                if time.monotonic() > deadline:
                    self.stop()
                    raise ClusterError(f"the local cluster did not start within {timeout} seconds")
                time.sleep(0.02)
            with open(description) as file:
                self._description = json.load(file)
        return self

    def attach(self) -> "LocalCluster":
        """Speak to a cluster that another process runs in this folder; ClusterError where there is
        none."""
        try:
            self._description = json.loads((self.data / "description.json").read_text())
            os.kill(self.pid, 0)
        except (OSError, ValueError) as error:
            raise ClusterError(f"no cluster is running in {self.data}") from error
        return self

    def stop(self) -> None:
        """Stop it. Safe to call twice, and in a fork of the process that started it: the cluster
        runs until all of those have gone or one of them stops it. Does nothing to one that was
        attached to."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            if not select.select([self._pidfd], [], [], 10)[0]:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        if process.stdin is not None:
            process.stdin.close()
        # Reaps it; in a fork there is nothing to reap.
        process.wait()

    def __enter__(self) -> "LocalCluster":
        return self.start()

    def __exit__(self, *_exception: Any) -> None:
        self.stop()

    @property
    def api_host(self) -> str:
        """Host and port of the API."""
        return self._description["api_host"]

    @property
    def pid(self) -> int:
        """Process id of the cluster."""
        return self._description["pid"]

    def token(self, user: str = "active") -> str:
        """Return the token of `active` or `admin`, the users that every cluster has."""
        return self._description["tokens"][user]

    def env(self, user: str = "active", token: str | None = None) -> dict[str, str]:
        """Return the environment in which a client speaks to this cluster as that user."""
        return {
            "ARVADOS_API_HOST": self.api_host,
            "ARVADOS_API_TOKEN": token or self.token(user),
            "ARVADOS_API_HOST_INSECURE": "",
            "SSL_CERT_FILE": self._description["ca_file"],
        }

    def api(self, user: str = "active", token: str | None = None, **options: Any) -> Any:
        """Return an SDK client for that user; it does not change the process's own settings."""
        import arvados

        os.environ.setdefault("SSL_CERT_FILE", self._description["ca_file"])
        return arvados.api(
            "v1",
            host=self.api_host,
            token=token or self.token(user),
            cache=False,
            **options,
        )

    # Test hooks

    def hook(self, name: str, body: Any) -> Any:
        """Call a test hook of a cluster that was started with `test_hooks`."""
        host, _, port = self.api_host.rpartition(":")
        context = ssl.create_default_context(cafile=self._description["ca_file"])
        connection = http.client.HTTPSConnection(host.strip("[]"), int(port), context=context)
        try:
            headers = {
                "Authorization": "Bearer " + self.token("admin"),
                "Content-Type": "application/json",
            }
            connection.request("POST", "/_local/" + name, json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ClusterError(f"hook {name}: {response.status} {answer.decode(errors='replace')}")
        return json.loads(answer)["result"]

    def create_user(self, name: str, admin: bool = False) -> tuple[dict, str]:
        """Make a user; return its record and a token."""
        user, token = self.hook("users/create", {"name": name, "admin": admin})
        return user, token

    def load_fixtures(
        self,
        records: dict[str, list[dict]],
        blocks: Iterable[bytes] = (),
        tokens: dict[str, str] | None = None,
    ) -> int:
        """Put records into tables, with defaults for what they lack, and blocks into Keep; return
        how many records.

        With `tokens` (by user), they replace all that the cluster had, its users included, and are
        what it goes back to when it is reset.
        """
        blocks = [block.hex() for block in blocks]
        count = self.hook("load", {"records": records, "blocks": blocks, "tokens": tokens})
        if tokens is not None:
            self._description["tokens"] = tokens
        return count

    def reset(self) -> None:
        """Go back to how a new cluster is, or to the fixtures that replaced its records; blocks stay
        in Keep."""
        self.hook("reset", {})

    def set_clock(self, ahead: float) -> None:
        """Have the cluster's clock go so many seconds ahead of this machine's (or, negative, behind), until
        it is reset."""
        self.hook("clock", {"ahead": ahead})

    def start_keep(self, services: int, blob_signing: bool = True) -> None:
        """Run that many Keep services, with no blocks but those of the fixtures."""
        self.hook("keep/start", {"services": services, "blob_signing": blob_signing})

    def stop_keep(self) -> None:
        """Stop the Keep services; clients still find them listed."""
        self.hook("keep/stop", {})

    def start_keep_proxy(self) -> str:
        """Run a Keep proxy before the services that run now; return its URL, which clients take from
        ARVADOS_KEEP_SERVICES."""
        port = self.hook("keep/proxy/start", {})
        return f"http://{self.api_host.rpartition(':')[0]}:{port}/"

    def stop_keep_proxy(self) -> None:
        """Stop the Keep proxy."""
        self.hook("keep/proxy/stop", {})

    def record_requests(self, on: bool = True) -> None:
        """Begin (or stop) to record requests; forgets those recorded before."""
        self.hook("requests/record", {"on": on})

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests recorded: service, method, path, status, and bytes sent in the body."""
        return self.hook("requests", {})

    def writes(self) -> Iterator[dict[str, Any]]:
        """Iterate over the recorded requests that could have changed something."""
        return (r for r in self.requests() if r["method"] not in ("GET", "HEAD", "OPTIONS"))
