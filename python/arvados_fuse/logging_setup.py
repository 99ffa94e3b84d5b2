# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Where the log of a mount goes: to stderr, to a file, or to the system's log.

A mount must not wait for its log, nor fail with it: a message that cannot be written is lost, and the
request that it is about goes on.
"""

import errno
import logging
import os
import socket
import threading
from collections import deque
from typing import Any

import arvados

from .apierrors import secret_part

#: Where syslog (or journald in its place) listens, as syslog(3) has it.
SYSLOG_SOCKET = "/dev/log"

#: The loggers whose messages are the mount's: the SDK's with ours below it, and those of the core.
_LOGGERS = ("arvados", "arvados_fuse", "llfuse", "fuser")

#: Where crunchstat's lines go when there is no stderr.
STATISTICS = logging.getLogger("arvados.crunchstat")


class WithoutToken(logging.Filter):
    """Keeps the token out of the log: libraries write whole requests when they debug."""

    def filter(self, record: logging.LogRecord) -> bool:
        secret = secret_part(arvados.config.get("ARVADOS_API_TOKEN") or "")
        if secret:
            message = record.getMessage()
            if secret in message:
                record.msg, record.args = message.replace(secret, "..."), ()
        return True


class LogFile(logging.FileHandler):
    """Appends to a file, and begins it anew when its name leads to another file or to none: whoever
    rotates logs has moved it away.

    While it cannot be begun anew, messages go on into the file that was moved.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._writing = False
        self._wanted_anew = False

    def emit(self, record: logging.LogRecord) -> None:
        self._writing = True
        try:
            if self._wanted_anew or self._was_moved():
                self._begin_anew()
            super().emit(record)
        finally:
            self._writing = False

    def reopen(self) -> None:
        """Open the file by its name again. May be called by a signal handler."""
        with self.lock:  # type: ignore[union-attr]
            # A signal handler may have interrupted a message of its own thread: then the next one is
            # soon enough.
            self._wanted_anew = True
            if not self._writing:
                self._begin_anew()

    def _was_moved(self) -> bool:
        if self.stream is None:
            return False
        try:
            there = os.stat(self.baseFilename)
        except OSError as error:
            return error.errno == errno.ENOENT
        here = os.fstat(self.stream.fileno())
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _begin_anew(self) -> None:
        old = self.stream
        try:
            self.stream = self._open()
        except OSError:
            return
        self._wanted_anew = False
        if old is not None:
            try:
                old.close()
            except OSError:
                # What it had not written yet is lost.
                pass


class SystemLog(logging.Handler):
    """Sends messages to syslog or journald, through a datagram socket.

    OSError where nobody listens there. Unlike `SysLogHandler` it never waits: what the system's log
    does not take at once it gets before the next message, the last thousand of them.
    """

    def __init__(self, path: str, tag: str) -> None:
        super().__init__()
        # Imported when used: a mount with a log file has no use for it.
        from logging.handlers import SysLogHandler

        self._words = SysLogHandler
        self._path = path
        self._tag = tag
        self._socket = self._connect()
        self._waiting: deque[bytes] = deque(maxlen=1000)

    def _connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            connected.setblocking(False)
            connected.connect(self._path)
        except BaseException:
            connected.close()
            raise
        return connected

    def emit(self, record: logging.LogRecord) -> None:
        try:
            name = self._words.priority_map.get(record.levelname, "warning")
            level = self._words.priority_names[name]
            text = f"<{self._words.LOG_DAEMON << 3 | level}>{self._tag}[{os.getpid()}]: "
            self._send((text + self.format(record)).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)

    def _send(self, message: bytes) -> None:
        self._waiting.append(message)
        while self._waiting:
            oldest = self._waiting.popleft()
            try:
                self._transmit(oldest)
            except BlockingIOError:
                self._waiting.appendleft(oldest)
                return
            except OSError:
                # It is lost; the others are not to wait for it.
                if not self._waiting:
                    raise

    def _transmit(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._socket.send(message[:8192])
                return
            # The log's server was started again, and listens at a new socket.
            fresh = self._connect()
            self._socket.close()
            self._socket = fresh
            fresh.send(message)

    def close(self) -> None:
        self._socket.close()
        super().close()


def send_to(handler: logging.Handler) -> None:
    """Have a handler get the mount's messages, in place of stderr."""
    handler.addFilter(WithoutToken())
    arvados.logger.removeHandler(arvados.log_handler)
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(handler)


def log_to_stderr() -> None:
    """Leave the log where the SDK has it."""
    arvados.log_handler.addFilter(WithoutToken())


def log_to_file(path: str) -> None:
    """Append to a file, which may be moved away and is begun anew then; OSError where it cannot be
    opened."""
    handler = LogFile(path)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(name)s[%(process)d] %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S"
        )
    )
    send_to(handler)


def connect_to_system_log(tag: str = "arv-mount") -> SystemLog | None:
    """Return a handler for `send_to`, or None where there is neither syslog nor journald."""
    try:
        handler = SystemLog(SYSLOG_SOCKET, tag)
    except OSError:
        return None
    # Time, program and process are told by the system's log itself.
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s: %(message)s"))
    return handler


def reopen_logs() -> None:
    """Open every log file by its name again, as after SIGHUP. May be called by a signal handler, and
    by any thread."""
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, LogFile):
                handler.reopen()


def log_what_ends_threads(logger: logging.Logger) -> None:
    """Have exceptions that end a thread logged: in the background, nobody reads stderr."""

    def log(ended: Any) -> None:
        if ended.exc_type is not SystemExit:
            name = ended.thread.name if ended.thread else "a thread"
            told = (ended.exc_type, ended.exc_value, ended.exc_traceback)
            logger.error("thread %s ended by an exception", name, exc_info=told)

    threading.excepthook = log


def write_statistics(line: str) -> None:
    """Write a line of crunchstat, without its newline, to where the log goes."""
    # Whoever asks for statistics gets them, whatever the level of the log is.
    STATISTICS.setLevel(logging.INFO)
    STATISTICS.info("%s", line)
