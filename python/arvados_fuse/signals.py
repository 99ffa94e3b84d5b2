# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What signals do to arv-mount, from its first line to its last.

They are caught below Python (src/py/llfuse/signals.rs): an exception from a handler in Python would
come out wherever the main thread happens to be, and be lost where somebody swallows it or waits.

| until something is mounted | ends the process at once, with status 128 + N |
| mounted, nobody serves it yet | unmounts and ends the process, with status 0 |
| served | a byte in a pipe, which a thread reads here |
| `--exec` runs its command | sent on to the command |

The first two need nothing of Python. There is nothing else to clean up then: the local cluster ends
with whoever holds its standard input, and files of the cache are complete or not there. From the third
on the process ends within 5 seconds of a signal that says so. A thread here sees to that and names
what could not be saved; should Python not get that far, SIGALRM ends the process below it.

Programs that use `Mount` themselves have none of this: there llfuse does what it documents.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llfuse import _core

_logger = logging.getLogger("arvados.arv-mount")

#: What a terminal stops its processes with; nothing to a daemon (for `daemon.DaemonContext`).
STOPPING = {signal.SIGTSTP: None, signal.SIGTTIN: None, signal.SIGTTOU: None}

#: The signals that unmount.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGXCPU)

#: So many seconds after a signal what is still unsaved is named, and the process ended.
_PATIENCE = 4.0

#: Where the numbers of caught signals come from; None in a program that is not arv-mount.
_pipe: int | None = None

#: The signal that asked for the end before signals were held; 0 for none.
_caught_before = 0

#: The exit status, as far as it is known: a command's.
_status = 0

#: The signal that asked for the end, and when (`time.monotonic()`).
_asked: tuple[int, float] | None = None


def catch() -> None:
    """Catch every signal that would end the process. For arv-mount's `main` alone."""
    global _pipe
    _pipe = _core.catch_signals()


def caught() -> bool:
    """Return whether the signals of this process are caught."""
    return _pipe is not None


def command_follows() -> None:
    """Say that the mount is made for a command: a signal before it runs is not a success."""
    if caught():
        _core.command_follows()


def asked_to_end() -> int | None:
    """Return the signal that asked for the end, if one did."""
    return _asked[0] if _asked else _caught_before or None


def set_exit_status(status: int) -> None:
    """Say with which status to end if the process does not end by itself in time after a signal."""
    global _status
    _status = status
    if caught():
        _core.set_exit_status(status)


def fork_away() -> None:
    """Go on in a process of its own, in a session of its own, which no terminal belongs to.

    What is sent to the process that is left, or to both, comes to the one that goes on: signals are
    blocked around each fork, and who leaves sends on what came to it.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for _ in range(2):
        child = os.fork()
        if child:
            for number in signal.sigpending():
                os.kill(child, number)
            os._exit(0)
        if os.getsid(0) != os.getpid():
            with contextlib.suppress(PermissionError):
                os.setsid()
    _core.own_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class Listener:
    """Reads the numbers of signals, and does what they mean."""

    def __init__(
        self,
        hang_up: Callable[[], bool],
        dump_stacks: Callable[[], None],
        unsaved: Callable[[], list[str]],
        flush: Callable[[], None] = logging.shutdown,
    ) -> None:
        """`hang_up` does what SIGHUP means and returns whether the mount goes on; `dump_stacks` logs
        where every thread stands; `unsaved` names what is not saved, without waiting for anything."""
        self._hang_up = hang_up
        self._dump_stacks = dump_stacks
        self._unsaved = unsaved
        self._flush = flush

    def start(self) -> None:
        """Have signals come here."""
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        _core.serve_signals()

    def _listen(self) -> None:
        assert _pipe is not None
        while True:
            for number in os.read(_pipe, 64):
                try:
                    self._take(number)
                except Exception as error:
                    _logger.error("%s: %s", _name(number), error)

    def _take(self, number: int) -> None:
        if number in _ENDING:
            self._end(number)
        elif number == signal.SIGHUP:
            if not self._hang_up():
                self._end(number)
        elif number == signal.SIGUSR1:
            _logger.warning("%s: this is where every thread stands", _name(number))
            self._dump_stacks()
        else:
            _logger.warning("%s is ignored", _name(number))

    def _end(self, number: int) -> None:
        global _asked
        if _asked:
            return
        _asked = number, time.monotonic()
        # Before anything that could wait.
        threading.Thread(target=self._last_words, name="deadline", daemon=True).start()
        _logger.info("%s: unmounting", _name(number))
        threading.Thread(target=_core.unmount, name="unmount", daemon=True).start()

    def _last_words(self) -> None:
        time.sleep(_PATIENCE)
        names = self._unsaved()
        status = 1 if names else _status
        _core.set_exit_status(status)
        for name in names:
            _logger.error("could not save %s before the mount ended: there was no time", name)
        if not names:
            _logger.warning("ending although requests are still under way; everything is saved")
        self._flush()
        _core.exit_now(status)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def forwarding() -> Iterator[Callable[[Any], None]]:
    """Have signals that end a mount go to a child instead, once it is given to what this yields."""
    if caught():
        global _caught_before
        # The listener may not have come to it yet.
        _caught_before = _core.hold_signals()
        try:
            yield lambda child: _core.forward_signals(child.pid)
        finally:
            _core.serve_signals()
        return
    forwarded = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)

    def forward(child: Any) -> None:
        for number in forwarded:
            signal.signal(number, lambda signum, frame: child.send_signal(signum))

    try:
        yield forward
    finally:
        for number in forwarded:
            signal.signal(number, signal.SIG_DFL)
