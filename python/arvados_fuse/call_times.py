# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How often handlers in Python were called, and how long that took."""

import threading


class CallTimes:
    """Counts the calls of one operation and their time, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one call."""
        with self._lock:
            self._count += 1
            self._seconds += seconds

    def take(self) -> tuple[int, float]:
        """Return how many calls there were since this was last asked, and their seconds."""
        with self._lock:
            taken = (self._count, self._seconds)
            self._count, self._seconds = 0, 0.0
        return taken


#: What is counted, by the name that the metric labels it with.
TIMES: dict[str, CallTimes] = {}
