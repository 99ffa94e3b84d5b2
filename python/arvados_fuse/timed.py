# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How long handlers in Python take: counted here, and shown by `metrics` when somebody looks.

The Prometheus library takes 8 ms and 1.5 MiB, and most mounts are never asked for a metric.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

from .call_times import TIMES, CallTimes


class Timed:
    """An attribute of a class: the metric of one operation, or of all, made when it is looked at."""

    def __init__(self, op: str | None = None) -> None:
        self._op = op
        self._times = CallTimes()
        if op is not None:
            TIMES[op] = self._times

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        from .metrics import fuse_time

        return fuse_time if self._op is None else fuse_time.labels(op=self._op)

    def time(self) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that counts the calls of a function and their time."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def timed(*args: Any, **kwargs: Any) -> Any:
                begin = time.perf_counter()
                try:
                    return function(*args, **kwargs)
                finally:
                    self._times.add(time.perf_counter() - begin)

            return timed

        return decorate
