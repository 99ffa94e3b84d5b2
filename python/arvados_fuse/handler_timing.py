# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How long handlers in Python take: counted in the core's registry, and shown by `metrics`.

The Prometheus library takes 8 ms and 1.5 MiB, and most mounts are never asked for a metric.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

from llfuse import _core

from .timed_operations import OPERATIONS


class Timed:
    """An attribute of a class: the metric of one operation, or of all, made when it is looked at."""

    def __init__(self, op: str | None = None) -> None:
        self._op = op
        if op is not None:
            OPERATIONS.append(op)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        from .metrics import fuse_time

        return fuse_time if self._op is None else fuse_time.labels(op=self._op)

    def time(self) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that counts the calls of a function and their time. A call by which a
        request of the kernel is answered is not counted again: the request is."""
        op = self._op
        assert op is not None

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def timed(*args: Any, **kwargs: Any) -> Any:
                begin = time.perf_counter()
                try:
                    return function(*args, **kwargs)
                finally:
                    _core.observe(op, time.perf_counter() - begin)

            return timed

        return decorate
