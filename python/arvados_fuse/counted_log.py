# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Log lines for what happens again and again: each is written once, then counted."""

import logging
import threading
import time

#: How long a line is only counted after it was written, in seconds.
INTERVAL = 60.0
#: How many different lines are remembered; beyond that the oldest is forgotten.
_REMEMBERED = 1000


class CountedLog:
    """Writes a line at once, and where it comes again only after `INTERVAL`, with how often it came
    meanwhile. May be called from any thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        # Line to when it was last written and how often it came since then.
        self._lines: dict[str, tuple[float, int]] = {}

    def write(self, level: int, line: str, key: str | None = None) -> None:
        """Log `line`; lines with the same `key` (the line itself, if none is given) are the same."""
        key = line if key is None else key
        now = time.monotonic()
        with self._lock:
            written, more = self._lines.pop(key, (None, 0))
            if written is not None and now - written < INTERVAL:
                self._lines[key] = (written, more + 1)
                return
            self._lines[key] = (now, 0)
            if len(self._lines) > _REMEMBERED:
                del self._lines[next(iter(self._lines))]
        again = f" (and {more} times more before)" if more else ""
        self._logger.log(level, "%s%s", line, again)

    def error(self, line: str, key: str | None = None) -> None:
        self.write(logging.ERROR, line, key)

    def warning(self, line: str, key: str | None = None) -> None:
        self.write(logging.WARNING, line, key)


#: What servers do and records say, under the name that programs look for in the log.
counted = CountedLog(logging.getLogger("arvados.arvados_fuse"))
