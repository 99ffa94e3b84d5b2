# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Signals to programs written against llfuse: who handles them, and what becomes of the mount."""

import contextlib
import errno
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import force_unmount, is_mounted, poll
from test_llfuse_programs import program


@pytest.mark.parametrize("how", ["TERM", "INT", "HUP", "stop"])
@pytest.mark.parametrize("unmount", [False, True])
def test_whether_a_signal_unmounts_is_said_to_close(
    tmp_path: Path, how: str, unmount: bool
) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        f"""
        if {how == "stop"}:
            threading.Thread(target=lambda: (sys.stdin.readline(), llfuse.stop())).start()
        result = llfuse.main(workers=2)
        print(result, flush=True)
        input()
        llfuse.close(unmount={unmount})
        """,
        stdin=subprocess.PIPE,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").touch()
        if how != "stop":
            process.send_signal(getattr(signal, f"SIG{how}"))
        else:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        expected = "None" if how == "stop" else str(int(getattr(signal, f"SIG{how}")))
        assert process.stdout is not None
        assert process.stdout.readline().strip() == expected
        assert is_mounted(path)
        _, stderr = process.communicate("\n", timeout=20)
        assert process.returncode == 0, stderr
        assert is_mounted(path) is not unmount
        if not unmount:
            with pytest.raises(OSError) as error:
                os.stat(path)
            assert error.value.errno == errno.ENOTCONN
    finally:
        process.kill()
        force_unmount(path)


def test_a_signal_lets_the_requests_under_way_be_answered(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        """
        def slow(self, *args):
            print("reading", flush=True)
            with llfuse.lock_released:
                sys.stdin.readline()
            return b"answered"
        MemoryFS.read = slow
        llfuse.main(workers=3)
        llfuse.close(unmount=False)
        """,
        stdin=subprocess.PIPE,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").write_bytes(b"12345678")
        os.truncate(path / "f", 8)
        got: list[bytes] = []

        def read() -> None:
            fd = os.open(path / "f", os.O_RDONLY | os.O_DIRECT)
            try:
                got.append(os.read(fd, 8))
            finally:
                # The connection may be gone by now.
                with contextlib.suppress(ConnectionAbortedError):
                    os.close(fd)

        reader = threading.Thread(target=read)
        reader.start()
        assert process.stdout is not None and process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=20)
        reader.join(20)
        assert got == [b"answered"]
    finally:
        process.kill()
        force_unmount(path)


@pytest.mark.parametrize(
    "name", ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "PIPE", "QUIT", "IO", "PWR"]
)
def test_no_signal_leaves_a_dead_mount(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mnt"
    number = int(getattr(signal, f"SIG{name}"))
    process = program(
        path,
        """
        print(llfuse.main(workers=2))
        llfuse.close()
        """,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").touch()
        process.send_signal(number)
        if name in ("USR1", "PIPE"):
            # As llfuse has it.
            for _ in range(10):
                process.send_signal(number)
                assert os.listdir(path) == ["f"]
            process.send_signal(signal.SIGTERM)
            number = int(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        assert (process.returncode, output.strip()) == (0, str(number))
        assert not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)


def test_a_signal_that_the_program_handles_is_the_programs(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        """
        signal.signal(signal.SIGUSR2, lambda *_: print("handled", flush=True))
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        loop = threading.Thread(target=llfuse.main, kwargs={"workers": 2})
        loop.start()
        while loop.is_alive():
            loop.join(0.05)
        llfuse.close()
        """,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").touch()
        process.send_signal(signal.SIGUSR2)
        assert process.stdout is not None and process.stdout.readline() == "handled\n"
        process.send_signal(signal.SIGALRM)
        assert os.listdir(path) == ["f"]
    finally:
        force_unmount(path)
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_signal_before_main_leaves_no_dead_mount(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mnt"
    process = program(path, "input()", stdin=subprocess.PIPE)
    try:
        poll("mounted", lambda: is_mounted(path))
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(20) == -getattr(signal, f"SIG{name}")
        assert not is_mounted(path)
    finally:
        process.communicate("\n")
        force_unmount(path)


def test_a_signal_to_a_child_leaves_the_mount_alone(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        """
        import signal
        def main():
            llfuse.main(workers=2)
        loop = threading.Thread(target=main)
        loop.start()
        os.stat(sys.argv[1])
        child = os.fork()
        if not child:
            while True:
                signal.pause()
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
        loop.join()
        llfuse.close()
        """,
    )
    try:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
        (path / "f").touch()
        assert os.listdir(path) == ["f"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0 and not is_mounted(path)
    finally:
        process.kill()
        force_unmount(path)
