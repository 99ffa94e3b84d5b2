# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How pytest runs the released suite: the cluster, the other process, what cannot run here."""

import multiprocessing
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from . import run_test_server
from .integration_test import workerPool
from .outcomes import exclude, pytest_addoption, pytest_configure  # noqa: F401


def _no_docker() -> str | None:
    """Return why no container of the image that a test wants can run."""
    if shutil.which("docker") is None:
        return "needs a Docker engine with the image busybox:uclibc: there is no docker"
    asked = subprocess.run(["docker", "image", "inspect", "busybox:uclibc"], capture_output=True)
    if asked.returncode:
        return "needs a Docker engine with the image busybox:uclibc: docker has it not"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    exclude(config, items, "DockerRaceTest::runTest", _no_docker)


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
