# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What a mount that nothing is asked of has in memory."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, Mounted, save_collection

#: What only other mounts, or whoever exports metrics, have a use for.
NOT_LOADED = {
    "arvados_fuse.localcluster",
    "arvados_fuse.metrics",
    "daemon",
    "http.server",
    "logging.handlers",
    "prometheus_client",
    # Of what the SDK's libraries import (test_lazy_imports.py).
    "asyncio",
    "cryptography",
    "email.message",
    "google.auth",
    "http.client",
    "httplib2.iri2uri",
    "pycurl._pycurl",
    "pyparsing",
    "unittest",
    "uritemplate",
    "websockets.sync.connection",
}

# Imported by Python itself as it starts.
WITNESS = """
import atexit, json, linecache, os, sys

def tell():
    seen = {"modules": sorted(sys.modules), "sources": sorted(linecache.cache)}
    with open(os.environ["WITNESS"], "w") as file:
        json.dump(seen, file)

atexit.register(tell)
"""


Witnessed = tuple[Mounted, Callable[[], dict[str, Any]]]


@pytest.fixture
def witnessed(
    cluster: LocalCluster, arv_mount: Callable[..., Mounted], tmp_path: Path
) -> Witnessed:
    """A mount, and what unmounts it and returns what was in memory then."""
    cluster.reset()
    folder, told = tmp_path / "witness", tmp_path / "seen.json"
    folder.mkdir()
    (folder / "sitecustomize").with_suffix(".py").write_text(WITNESS)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    options = ("--refresh-time=1", "--disable-event-listening")
    mount = arv_mount(*options, env={"PYTHONPATH": path, "WITNESS": str(told)})
    assert "home" in os.listdir(mount.path)

    def end() -> dict[str, Any]:
        assert mount.unmount() == 0
        return json.loads(told.read_text())

    return mount, end


def test_a_mount_loads_no_module_that_it_does_not_use(witnessed: Witnessed) -> None:
    mount, end = witnessed
    maps = Path(f"/proc/{mount.pid()}/maps").read_text()
    assert "llfuse/_core" in maps, "libraries are seen"
    assert "cryptography" not in maps and "pycurl" not in maps
    assert NOT_LOADED & set(end()["modules"]) == set()


def test_a_mount_whose_token_is_refused_loads_no_more(
    cluster: LocalCluster, witnessed: Witnessed
) -> None:
    mount, end = witnessed
    cluster.faults.add(service="api", action="status", value=401)
    with pytest.raises(OSError) as error:
        os.listdir(mount.path / "home")
    assert error.value.errno == errno.EIO
    cluster.faults.clear()
    assert os.listdir(mount.path / "home") == []
    assert "401" in mount.log.read_text() and "Traceback" not in mount.log.read_text()
    seen = end()
    assert NOT_LOADED & set(seen["modules"]) == set()


def test_reading_loads_no_more(cluster: LocalCluster, witnessed: Witnessed) -> None:
    mount, end = witnessed
    uuid = save_collection(cluster, "c")
    assert (mount.path / "by_id" / uuid / "f").read_text() == "text"
    assert NOT_LOADED & set(end()["modules"]) == set()


def test_a_mount_that_may_write_loads_curl_at_the_start(
    cluster: LocalCluster, arv_mount: Callable[..., Mounted]
) -> None:
    mount = arv_mount("--read-write")
    assert "pycurl" in Path(f"/proc/{mount.pid()}/maps").read_text()
    assert mount.unmount() == 0


def test_a_mount_that_may_write_does_not_begin_without_curl(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    (tmp_path / "pycurl").mkdir()
    broken = "raise ImportError('libcurl is a different one')"
    (tmp_path / "pycurl" / "__init__").with_suffix(".py").write_text(broken)
    (tmp_path / "mnt").mkdir()
    command = [*ARV_MOUNT, "--read-write", str(tmp_path / "mnt")]
    env = {**os.environ, **cluster.env(), "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "cannot set up the mount: libcurl is a different one" in run.stderr


def test_a_program_that_imports_the_package_keeps_no_lines_of_sources() -> None:
    text = "import sys, arvados_fuse, linecache; print(*sys.modules, *linecache.cache, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    seen = run.stdout.splitlines()
    assert "pyparsing" in seen
    assert [line for line in seen if "pyparsing" in line and "/" in line] == []
