# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How pytest runs the released suite: the cluster, the other process, what cannot run here."""

import multiprocessing
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from . import outcomes, run_test_server
from .integration_test import workerPool
from .outcomes import exclude, pytest_configure  # noqa: F401


def _no_docker() -> str | None:
    """Return why no container of the image that a test wants can run."""
    if shutil.which("docker") is None:
        return "needs a Docker engine with the image busybox:uclibc: there is no docker"
    asked = subprocess.run(["docker", "image", "inspect", "busybox:uclibc"], capture_output=True)
    if asked.returncode:
        return "needs a Docker engine with the image busybox:uclibc: docker has it not"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    outcomes.pytest_addoption(parser)
    parser.addoption(
        "--unskipped", type=int, default=0, help="Run what the release skips so many times"
    )


#: What the release skips, and ours should pass; see `--unskipped`.
UNSKIPPED = ("test_git_clone_to_coll", "test_simultaneous_api_mount_updates")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = metafunc.config.getoption("--unskipped")
    if times and metafunc.function.__name__ in UNSKIPPED:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))


def _unskip(items: list[pytest.Item]) -> None:
    for item in items:
        if item.name.startswith(UNSKIPPED):
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "skip"]
            # What a test calls to skip itself.
            vars(item.module)["pytest"] = _NoSkip()  # type: ignore[attr-defined]


class _NoSkip:
    """The module pytest, but that nothing skips."""

    @staticmethod
    def skip(*_args: object, **_options: object) -> None:
        """Go on."""

    def __getattr__(self, name: str) -> object:
        return getattr(pytest, name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--unskipped"):
        _unskip(items)
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
