# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Where the log and the statistics of a mount go, and what becomes of a log file that is rotated."""

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from arvados_fuse import logging_setup
from arvados_fuse.localcluster import LocalCluster
from conftest import ARV_MOUNT, force_unmount, is_mounted, poll

#: Runs arv-mount with its system log at the socket that is its first argument.
WITH_SYSTEM_LOG = """
import sys
from arvados_fuse import logging_setup
logging_setup.SYSLOG_SOCKET = sys.argv.pop(1)
sys.argv[0] = "arv-mount"
from arvados_fuse.command import main
main()
"""


class SystemLog:
    """What syslog is to those who log: a datagram socket, here with what arrived at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A socket's path is at most 107 bytes.
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            self._socket.bind(path.name)
        finally:
            os.chdir(here)
        self._socket.setblocking(False)
        self._messages: list[str] = []

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def messages(self) -> list[str]:
        while True:
            try:
                self._messages.append(self._socket.recv(1 << 16).decode())
            except BlockingIOError:
                return self._messages

    def told(self, pattern: str) -> list[str]:
        return [message for message in self.messages() if re.search(pattern, message)]


@pytest.fixture
def system_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemLog]:
    # pytest's own folders have long names.
    folder = Path(os.environ["TMPDIR"]) / f"log{os.getpid()}"
    folder.mkdir()
    log = SystemLog(folder / "dev-log")
    yield log
    log.close()
    folder.rmdir()


@pytest.fixture
def in_background(
    fresh_cluster: LocalCluster, tmp_path: Path
) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Mounts in the background, with the system's log at a path; returns how that went."""
    path = tmp_path / "mnt"
    path.mkdir()

    def start(log: Path, *options: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-c", WITH_SYSTEM_LOG, str(log), *options, str(path)],
            env={**os.environ, **fresh_cluster.env()},
            stdout=subprocess.PIPE,
            # A pipe would stay open as long as whatever inherited it runs.
            stderr=open(tmp_path / "stderr", "w"),
            timeout=60,
        )
        done.stderr = (tmp_path / "stderr").read_text()
        assert done.returncode == 0, done.stderr
        poll("mounted", lambda: is_mounted(path))
        return done

    start.path = path  # type: ignore[attr-defined]
    yield start
    force_unmount(path)


def test_a_daemon_logs_to_the_systems_log(
    fresh_cluster: LocalCluster, system_log: SystemLog, in_background: Callable
) -> None:
    done = in_background(system_log.path, "--crunchstat-interval=0.2", "--retries=0")
    assert done.stderr == ""
    mount = in_background.path  # type: ignore[attr-defined]
    # Statistics arrive whatever the level of the log is.
    tag = r"^<\d+>arv-mount\[\d+\]: "
    poll("statistics", lambda: system_log.told(tag + r".*crunchstat: fuseops \d+ write \d+ read"))
    # <27> is an error of a daemon.
    fresh_cluster.faults.add(service="api", path="contents", action="status", value=500)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mount / "home")
        poll("the error", lambda: system_log.told(r"^<27>arv-mount\[\d+\]: arvados\S* ERROR: "))
    finally:
        fresh_cluster.faults.clear()
    secret = fresh_cluster.token().split("/")[-1]
    assert not [message for message in system_log.messages() if secret in message]


def test_a_daemon_lives_with_a_system_log_that_ends(
    fresh_cluster: LocalCluster, system_log: SystemLog, in_background: Callable
) -> None:
    in_background(system_log.path, "--crunchstat-interval=0.1")
    mount = in_background.path  # type: ignore[attr-defined]
    poll("statistics", lambda: system_log.told("crunchstat: fuseops"))
    system_log.close()
    for _ in range(20):
        os.listdir(mount)
    again = SystemLog(system_log.path)
    try:
        poll("statistics again", lambda: again.told("crunchstat: fuseops"))
    finally:
        again.close()
    assert "home" in os.listdir(mount)


def test_a_daemon_does_not_wait_for_a_system_log_that_does_not_read(
    system_log: SystemLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging_setup, "SYSLOG_SOCKET", str(system_log.path))
    handler = logging_setup.connect_to_system_log("tag")
    assert handler is not None
    record = logging.LogRecord("name", logging.WARNING, "", 0, "x" * 4000, (), None)
    # Far more than such a socket holds.
    for _ in range(1000):
        handler.handle(record)
    huge = logging.LogRecord("name", logging.WARNING, "", 0, "y" * (1 << 20), (), None)
    assert 0 < len(system_log.messages()) < 1000
    handler.handle(huge)

    def arrived() -> list[str]:
        # What waits goes before the next message.
        handler.handle(record)
        return system_log.told(rf"^<28>tag\[{os.getpid()}\]: name WARNING: yyy")

    (message,) = poll("the huge one", arrived)  # type: ignore[misc]
    assert len(message) == 8192
    handler.close()


def test_without_a_system_log_it_says_so(in_background: Callable, tmp_path: Path) -> None:
    done = in_background(tmp_path / "none")
    assert f"there is no {tmp_path}/none: from here on nothing is logged" in done.stderr
    assert "--logfile FILE" in done.stderr
    done = subprocess.run(
        [*ARV_MOUNT, "--unmount", str(in_background.path)],  # type: ignore[attr-defined]
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_log_file_is_begun_anew_when_it_was_moved(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    # Statistics keep on writing.
    mount = arv_mount("--crunchstat-interval=0.1", daemon=True)

    def is_written() -> bool:
        return mount.log.is_file() and "crunchstat: fuseops" in mount.log.read_text()

    poll("a first line", is_written)
    moved = mount.log.with_suffix(".log.1")
    mode = mount.log.stat().st_mode
    mount.log.rename(moved)
    poll("a new file", is_written)
    assert mount.log.stat().st_mode == mode
    # Somebody else put one in its place.
    mount.log.rename(moved)
    mount.log.write_text("from outside\n")
    poll("the file in its place", is_written)
    # Where none can be made, the mount goes on, and so does the log once it can.
    mount.log.unlink()
    mount.log.mkdir()
    for _ in range(10):
        assert "home" in os.listdir(mount.path)
    mount.log.rmdir()
    poll("a new file", is_written)


def test_a_log_file_is_begun_anew_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("arvados")
    handlers = list(logger.handlers)
    log, moved = tmp_path / "log", tmp_path / "moved"
    handler = logging_setup.LogFile(str(log))
    monkeypatch.setattr(logger, "handlers", [*handlers, handler])
    logger.error("one")
    log.rename(moved)
    logging_setup.reopen_logs()
    assert log.read_text() == ""
    logger.error("two")
    assert (moved.read_text(), log.read_text()) == ("one\n", "two\n")

    class Interrupts:
        """A message during which a signal arrives, as it may in the main thread."""

        def __str__(self) -> str:
            logging_setup.reopen_logs()
            return "three"

    log.rename(moved)
    logger.error(Interrupts())
    logger.error("four")
    written = moved.read_text() + log.read_text()
    assert written == "two\nthree\nfour\n"
    handler.close()


def test_the_statistics_of_a_daemon_are_in_its_log_file(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    mount = arv_mount("--crunchstat-interval=0.2", daemon=True)
    line = r"crunchstat: fuseops \d+ write \d+ read -- interval 0\.2000 seconds "
    poll("statistics", lambda: re.search(line, mount.log.read_text()))


def test_what_the_systems_log_does_not_take_at_once_it_gets_later(system_log: SystemLog) -> None:
    handler = logging_setup.SystemLog(str(system_log.path), "arv-mount")
    try:
        # The kernel keeps about ten datagrams for a reader that is busy.
        for number in range(100):
            handler.emit(logging.makeLogRecord({"msg": f"message {number}", "levelno": 40}))

        def last() -> list[str]:
            handler.emit(logging.makeLogRecord({"msg": "another"}))
            return system_log.told("message 99$")

        poll("the last one", last)
        found = [m.rpartition(" ")[2] for m in system_log.told(r"message \d+$")]
        assert found == [str(number) for number in range(100)]
    finally:
        handler.close()


def test_a_message_that_cannot_be_sent_holds_up_no_other(system_log: SystemLog) -> None:
    handler = logging_setup.SystemLog(str(system_log.path), "arv-mount")
    # Less than a message that is cut to what syslog takes.
    handler._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging, "raiseExceptions", False)
            handler.emit(logging.makeLogRecord({"msg": "x" * 100_000}))
            handler.emit(logging.makeLogRecord({"msg": "the next"}))
        assert len(system_log.told("the next$")) == 1
    finally:
        handler.close()
