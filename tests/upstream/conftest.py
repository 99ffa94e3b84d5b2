# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How pytest runs the released suites: the cluster, the other process, what cannot run here.

`--outcomes FILE` writes what became of each test: `passed`, `failed`, `skipped` or `excluded`, and why.
"""

import functools
import json
import multiprocessing
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import run_test_server
from .integration_test import workerPool

_outcomes = pytest.StashKey[dict[str, tuple[str, str]]]()


@functools.lru_cache(None)
def _no_docker() -> str | None:
    """Return why no container of the image that a test wants can run."""
    if shutil.which("docker") is None:
        return "needs a Docker engine with the image busybox:uclibc: there is no docker"
    asked = subprocess.run(["docker", "image", "inspect", "busybox:uclibc"], capture_output=True)
    if asked.returncode:
        return "needs a Docker engine with the image busybox:uclibc: docker has it not"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_outcomes] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in list(items):
        if item.nodeid.endswith("DockerRaceTest::runTest") and (reason := _no_docker()):
            items.remove(item)
            config.hook.pytest_deselected(items=[item])
            config.stash[_outcomes][item.nodeid] = ("excluded", reason)


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """A cluster, and the other process, which has the active user's settings."""
    multiprocessing.set_start_method("fork", force=True)
    run_test_server.run()
    run_test_server.authorize_with("active")
    with workerPool() as pool:
        yield
        pool.close()
        pool.join()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    known = item.config.stash[_outcomes]
    reason = report.longrepr[2] if report.skipped else ""
    # Of setup and teardown only what went wrong counts, and nothing makes up for a failure.
    counts = report.when == "call" or report.outcome != "passed"
    if counts and known.get(item.nodeid, ("", ""))[0] != "failed":
        known[item.nodeid] = (report.outcome, reason)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("outcomes")
    if path is not None:
        path.write_text(json.dumps(session.config.stash[_outcomes], indent=1))
