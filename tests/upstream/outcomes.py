# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What a conftest of the released suites takes over: `--outcomes FILE` writes what became of each
test, `passed`, `failed`, `skipped` or `excluded`, and why; `exclude` leaves tests out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


class _Outcomes:
    """By test, what became of it and why."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.known: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Of setup and teardown only what went wrong counts, and nothing makes up for a failure. A
        # report of a run that is to be repeated is neither.
        counts = report.when == "call" or report.outcome != "passed"
        known = self.known.get(report.nodeid, ("", ""))[0]
        if counts and known != "failed" and report.outcome in ("passed", "failed", "skipped"):
            reason = report.longrepr[2] if report.skipped else ""  # type: ignore[index]
            self.known[report.nodeid] = (report.outcome, reason)

    def pytest_sessionfinish(self) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(self.known, indent=1))


_KEY = pytest.StashKey[_Outcomes]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--outcomes", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to note."""
    config.stash[_KEY] = _Outcomes(config.getoption("outcomes"))
    config.pluginmanager.register(config.stash[_KEY])


def exclude(
    config: pytest.Config, items: list[pytest.Item], test: str, why: Callable[[], str | None]
) -> None:
    """Leave out the tests whose id ends with `test`, where `why` gives a reason."""
    found = [item for item in items if item.nodeid.endswith(test)]
    reason = why() if found else None
    if reason is None:
        return
    items[:] = [item for item in items if item not in found]
    config.hook.pytest_deselected(items=found)
    for item in found:
        config.stash[_KEY].known[item.nodeid] = ("excluded", reason)
