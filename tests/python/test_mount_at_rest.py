# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What a mount that nothing is asked of has in memory."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounted

#: What only other mounts, or whoever exports metrics, have a use for.
NOT_LOADED = {
    "arvados_fuse.localcluster",
    "arvados_fuse.metrics",
    "daemon",
    "http.server",
    "logging.handlers",
    "prometheus_client",
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


@pytest.fixture
def seen(arv_mount: Callable[..., Mounted], tmp_path: Path) -> dict[str, Any]:
    """What was in memory when a mount ended that had listed its top directory."""
    folder, told = tmp_path / "witness", tmp_path / "seen.json"
    folder.mkdir()
    (folder / "sitecustomize").with_suffix(".py").write_text(WITNESS)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    mount = arv_mount(env={"PYTHONPATH": path, "WITNESS": str(told)})
    assert "home" in os.listdir(mount.path)
    assert mount.unmount() == 0
    return json.loads(told.read_text())


def test_a_mount_loads_no_module_that_it_does_not_use(seen: dict[str, Any]) -> None:
    assert NOT_LOADED & set(seen["modules"]) == set()


def test_a_mount_keeps_no_lines_of_sources(seen: dict[str, Any]) -> None:
    assert [path for path in seen["sources"] if "pyparsing" in path] == []
