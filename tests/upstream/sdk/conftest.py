# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How pytest runs the SDK's released tests: the cluster, an admin's settings, what cannot run here."""

import multiprocessing
import socket

import arvados.config
import pytest

from . import outcomes, run_test_server
from .outcomes import pytest_addoption  # noqa: F401

#: What the one test that waits for a connection in vain connects to.
_NOBODY = ("240.0.0.0", 65535)

#: How often tests may run again that depend on how the machine divides its time.
_RERUNS = {
    # They allow 0.1 s for what a busy machine does in between.
    "::KeepClientTimeout": 3,
    # It interrupts arv-put when that has written a line: too early if it has not returned from
    # writing, for then its handler, which writes too, raises an error instead of ending it.
    "::test_sigint_logs_request_id": 9,
}


def pytest_configure(config: pytest.Config) -> None:
    outcomes.pytest_configure(config)
    # The test modules already read the settings when they are imported.
    multiprocessing.set_start_method("fork", force=True)
    run_test_server.run()
    arvados.config.initialize()


def _somebody_answers() -> str | None:
    """Return why a connection to nobody does not take as long as it should."""
    try:
        socket.create_connection(_NOBODY, timeout=1).close()
    except TimeoutError:
        return None
    except OSError as error:
        answer = error.strerror
    else:
        answer = "accepted"
    return f"needs a network without an answer from {_NOBODY[0]}, which this one gives: {answer}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    outcomes.exclude(config, items, "::test_timeout_slow_connect", _somebody_answers)
    for item in items:
        for test, times in _RERUNS.items():
            if test in item.nodeid:
                item.add_marker(pytest.mark.flaky(reruns=times))
