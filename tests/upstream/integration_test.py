# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the released suite imports as `integration_test`: tests on `arv-mount`'s own Mount object."""

import functools
import multiprocessing
import multiprocessing.pool
import os
import sys
import tempfile
import unittest
from collections.abc import Callable
from typing import Any

import arvados_fuse.command
import pytest

from . import run_test_server


@functools.lru_cache(None)
def workerPool() -> multiprocessing.pool.Pool:  # noqa: N802
    """Return the one process beside this one, which does what tests do on mounts.

    It is the same for the whole run: forking while a mount is being served is asking for trouble.
    """
    return multiprocessing.Pool(1)


def _as_test(module: str, class_name: str, function: str, args: tuple, kwargs: dict) -> None:
    """Run a function of a class with a TestCase in the place of `self`."""
    case = unittest.FunctionTestCase(lambda: None)
    getattr(getattr(sys.modules[module], class_name), function)(case, *args, **kwargs)


class IntegrationTest(unittest.TestCase):
    """Has a folder to mount at, `self.mnt`, and two Keep services that sign, as the active user."""

    mount: Any

    @classmethod
    def setUpClass(cls) -> None:
        run_test_server.run()
        run_test_server.run_keep(blob_signing=True, num_servers=2)
        cls.addClassCleanup(run_test_server.stop_keep, num_servers=2)

    def setUp(self) -> None:
        self.mnt = tempfile.mkdtemp(prefix="mount-")
        run_test_server.authorize_with("active")

    def tearDown(self) -> None:
        os.rmdir(self.mnt)
        run_test_server.reset()

    def pool_test(self, *args: Any, **kwargs: Any) -> None:
        """Run this test's other half, the static method `_NAME`, in the other process."""
        caller = sys._getframe(1).f_code.co_name
        cls = type(self)
        workerPool().apply(_as_test, (cls.__module__, cls.__name__, f"_{caller}", args, kwargs))

    @staticmethod
    def mount(argv: list[str]) -> Callable:  # type: ignore[no-redef]
        """Decorate a test: it runs with a mount at `self.mnt`, with these options of arv-mount."""

        def decorate(test: Callable) -> Callable:
            @functools.wraps(test)
            def mounted(self: Any, *args: Any, **kwargs: Any) -> Any:
                options = [*argv, "--foreground", "--unmount-timeout=60", self.mnt]
                parsed = arvados_fuse.command.ArgumentParser().parse_args(options)
                self.mount = None
                try:
                    with arvados_fuse.command.Mount(parsed) as self.mount:
                        return test(self, *args, **kwargs)
                finally:
                    if self.mount is not None and self.mount.llfuse_thread.is_alive():
                        # One mount at a time in a process: no other test can run after this.
                        pytest.exit(f"{self.id()}: the mount did not end", 2)

            return mounted

        return decorate
