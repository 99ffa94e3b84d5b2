# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Says in the log that the SDK waits for Keep: who writes waits with it, for as long as it tries.

The SDK tells of its requests in debug messages, one in the thread that makes each and one when it has
ended. They are looked at on their way and go no further than they would.
"""

import logging
import threading
import time

from .reports import report

#: A request that takes longer is told of, in seconds, and how often it is looked for.
_NOTICE = 7.0
_INTERVAL = 1.0


class _Requests(logging.Filter):
    """Follows the requests of a logger's messages."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self._lock = threading.Lock()
        #: By thread: when it began, the method, the URL.
        self._running: dict[int, tuple[float, str, str]] = {}
        self._watcher: threading.Thread | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._look(record)
        except Exception:
            # Another wording: then nothing is known of requests.
            pass
        return record.levelno >= self._level

    def _look(self, record: logging.LogRecord) -> None:
        thread = threading.get_ident()
        if record.msg.startswith("Request: "):
            _, method, url = record.getMessage().split(" ", 2)
            with self._lock:
                self._running[thread] = (time.monotonic(), method, _service(url))
                # None of before a fork is alive.
                if self._watcher is None or not self._watcher.is_alive():
                    self._watcher = threading.Thread(
                        target=self._watch, name="keep-waiting", daemon=True
                    )
                    self._watcher.start()
            return
        if not record.msg.startswith(("Request fail: ", "GET ", "PUT ", "HEAD ")):
            return
        with self._lock:
            request = self._running.pop(thread, None)
        if request is not None and record.msg.startswith("Request fail: "):
            _, method, service = request
            reason = " ".join(record.getMessage().rpartition(">: ")[2].split())
            # That one service does not have a block says nothing: the next is asked.
            if not reason.startswith(("(404,", "(410,")):
                report(f"{method} at {service} failed: {reason}", "warn")

    def _watch(self) -> None:
        told: set[tuple[int, float]] = set()
        while True:
            time.sleep(_INTERVAL)
            now = time.monotonic()
            with self._lock:
                running = dict(self._running)
                if not running:
                    self._watcher = None
                    return
            for thread, (begun, method, service) in running.items():
                if now - begun >= _NOTICE and (thread, begun) not in told:
                    told.add((thread, begun))
                    report(f"waiting for {service}: {method}, no answer in {_NOTICE:.0f} s", "warn")


def _service(url: str) -> str:
    """The root of a service, without the block, whose locator may be signed."""
    return url.rsplit("/", 1)[0] + "/"


def watch_requests() -> None:
    """Watch the SDK's requests to Keep from now on."""
    logger = logging.getLogger("arvados.keep")
    if any(isinstance(known, _Requests) for known in logger.filters):
        return
    logger.addFilter(_Requests(logger.getEffectiveLevel()))
    logger.setLevel(logging.DEBUG)
