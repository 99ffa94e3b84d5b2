# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What programs written against llfuse count on: threads, time-outs, signals, caching."""

import copy
import errno
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import llfuse
import pytest
from conftest import force_unmount, is_mounted, poll
from llfuse_filesystems import MemoryFS
from test_llfuse_loop import abort, mounted

HERE = Path(__file__).parent

#: The beginning of a program that mounts a `MemoryFS` at its first argument.
PROGRAM = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[2])
import llfuse
from llfuse_filesystems import MemoryFS
llfuse.init(MemoryFS(), sys.argv[1], ["fsname=test"])
"""


def program(path: Path, rest: str, **more: Any) -> subprocess.Popen:
    path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(rest), str(path), str(HERE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


class ThreadsFS(MemoryFS):
    """Notes which threads its handlers run in, and how long the writes are."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.writes: list[int] = []
        self.reads = 0

    def lookup(self, *args: Any) -> llfuse.EntryAttributes:
        self.threads.add(threading.get_ident())
        return super().lookup(*args)

    def getattr(self, *args: Any) -> llfuse.EntryAttributes:
        self.threads.add(threading.get_ident())
        return super().getattr(*args)

    def read(self, *args: Any) -> bytes:
        self.threads.add(threading.get_ident())
        self.reads += 1
        return super().read(*args)

    def write(self, fh: int, off: int, buf: bytes) -> int:
        self.threads.add(threading.get_ident())
        self.writes.append(len(buf))
        return super().write(fh, off, buf)

    def destroy(self) -> None:
        self.threads.add(threading.get_ident())
        super().destroy()


def test_one_worker_is_the_thread_that_calls_main(tmp_path: Path) -> None:
    fs = ThreadsFS()
    (tmp_path / "mnt").mkdir()
    llfuse.init(fs, str(tmp_path / "mnt"), [])
    loop = threading.Thread(target=llfuse.main, kwargs={"workers": 1})
    loop.start()
    try:
        (tmp_path / "mnt" / "f").write_bytes(b"x" * 100_000)
        assert (tmp_path / "mnt" / "f").stat().st_size == 100_000
        readers = [threading.Thread(target=(tmp_path / "mnt" / "f").read_bytes) for _ in range(5)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        llfuse.close()
        loop.join(20)
        force_unmount(tmp_path / "mnt")
    assert not loop.is_alive()
    assert fs.threads == {loop.ident}


class TimeoutsFS(MemoryFS):
    """Counts requests; lets the kernel keep names, or attributes, and not the other."""

    def __init__(self, entry: float, attr: float) -> None:
        super().__init__()
        self.entry, self.attr = entry, attr
        self.getattrs = 0
        self.absent: list[bytes] = []

    def _timed(self, attributes: llfuse.EntryAttributes) -> llfuse.EntryAttributes:
        attributes.entry_timeout, attributes.attr_timeout = self.entry, self.attr
        return attributes

    def lookup(self, inode_p: int, name: bytes, ctx: Any) -> llfuse.EntryAttributes:
        if name.startswith(b"absent"):
            self.absent.append(name)
            attributes = self._timed(llfuse.EntryAttributes())
            attributes.st_ino = 0
            return attributes
        return self._timed(super().lookup(inode_p, name, ctx))

    def getattr(self, *args: Any) -> llfuse.EntryAttributes:
        self.getattrs += 1
        return self._timed(super().getattr(*args))

    def mkdir(self, *args: Any) -> llfuse.EntryAttributes:
        return self._timed(super().mkdir(*args))

    def mknod(self, *args: Any) -> llfuse.EntryAttributes:
        return self._timed(super().mknod(*args))

    def symlink(self, *args: Any) -> llfuse.EntryAttributes:
        return self._timed(super().symlink(*args))

    def link(self, *args: Any) -> llfuse.EntryAttributes:
        return self._timed(super().link(*args))


@pytest.mark.parametrize("kept", ["names", "attributes"])
@pytest.mark.parametrize("made_by", ["lookup", "mkdir", "mknod", "symlink", "link"])
def test_names_and_attributes_are_kept_for_times_of_their_own(
    tmp_path: Path, kept: str, made_by: str
) -> None:
    fs = TimeoutsFS(*((600, 0) if kept == "names" else (0, 600)))
    with mounted(fs, tmp_path / "mnt") as path:
        os.mkdir(path / "d")
        os.mknod(path / "f")
        if made_by == "lookup":
            llfuse.invalidate_entry(llfuse.ROOT_INODE, b"d")
            asked = fs.lookups
            poll("a new lookup", lambda: (os.lstat(path / "d"), fs.lookups > asked)[1])
        elif made_by == "mkdir":
            os.mkdir(path / "x")
        elif made_by == "mknod":
            os.mkfifo(path / "x")
        elif made_by == "symlink":
            os.symlink("f", path / "x")
        else:
            os.link(path / "f", path / "x")
        name = path / ("d" if made_by == "lookup" else "x")
        lookups, getattrs = fs.lookups, fs.getattrs
        for _ in range(3):
            os.lstat(name)
        # Of the name's inode and of the root, which is asked for by none of these.
        if kept == "names":
            assert fs.lookups == lookups and fs.getattrs >= getattrs + 3
        else:
            assert fs.lookups >= lookups + 3 and fs.getattrs == getattrs


def test_that_a_name_is_not_there_can_be_kept(tmp_path: Path) -> None:
    fs = TimeoutsFS(600, 0)
    with mounted(fs, tmp_path / "mnt") as path:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                os.stat(path / "absent")
        assert fs.absent == [b"absent"]
    fs = TimeoutsFS(0, 600)
    with mounted(fs, tmp_path / "mnt") as path:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                os.stat(path / "absent")
        assert fs.absent == [b"absent"] * 3


def test_what_was_just_written_is_not_read_again(tmp_path: Path) -> None:
    fs = ThreadsFS()
    data = os.urandom(4 << 20)
    with mounted(fs, tmp_path / "mnt") as path:
        with open(path / "f", "w+b") as file:
            file.write(data)
            file.flush()
            os.stat(path / "f")
            llfuse.invalidate_inode(os.stat(path / "f").st_ino, attr_only=True)
            os.fsync(file.fileno())
            os.utime(file.fileno())
            file.seek(0)
            assert file.read() == data
        assert fs.reads == 0
    assert max(fs.writes) == 128 << 10


@pytest.mark.parametrize("options", [[], ["auto_inval_data"]], ids=["plain", "auto_inval_data"])
def test_a_new_mtime_drops_pages_where_that_was_asked_for(tmp_path: Path, options: list) -> None:
    fs = ThreadsFS()
    with mounted(fs, tmp_path / "mnt", tuple(options)) as path:
        (path / "f").write_bytes(b"before")
        inode = os.stat(path / "f").st_ino
        with open(path / "f", "rb", buffering=0) as file:
            assert file.read() == b"before"
            fs.nodes[inode].data[:] = b"after!"
            fs.nodes[inode].mtime += 10**9
            llfuse.invalidate_inode(inode, attr_only=True)
            changed = fs.nodes[inode].mtime
            poll("the new time", lambda: os.fstat(file.fileno()).st_mtime_ns == changed)
            file.seek(0)
            assert file.read() == (b"after!" if options else b"before")


def test_a_fork_of_a_program_that_serves_may_serve_another_mount(tmp_path: Path) -> None:
    path, inner = tmp_path / "mnt", tmp_path / "inner"
    inner.mkdir()
    process = program(
        path,
        f"""
        loop = threading.Thread(target=llfuse.main, kwargs={{"workers": 2}})
        loop.start()
        os.stat(sys.argv[1])
        if not os.fork():
            llfuse.init(MemoryFS(), {str(inner)!r}, [])
            llfuse.main(workers=2)
            llfuse.close()
            os._exit(0)
        print(os.wait()[1], flush=True)
        loop.join()
        llfuse.close()
        """,
    )
    try:
        poll("both", lambda: is_mounted(path) and is_mounted(inner))
        (path / "a").touch()
        (inner / "b").touch()
        assert (os.listdir(path), os.listdir(inner)) == (["a"], ["b"])
        force_unmount(inner)
        assert process.stdout is not None and process.stdout.readline() == "0\n"
        assert os.listdir(path) == ["a"]
        force_unmount(path)
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        force_unmount(inner)
        force_unmount(path)


def test_after_an_unmount_from_outside_one_may_mount_again(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    # Before anybody served it, and after.
    llfuse.init(MemoryFS(), str(path), [])
    force_unmount(path)
    for _ in range(2):
        llfuse.init(MemoryFS(), str(path), [])
        loop = threading.Thread(target=llfuse.main, kwargs={"workers": 2})
        loop.start()
        (path / "f").touch()
        assert os.listdir(path) == ["f"]
        force_unmount(path)
        loop.join(20)
        assert not loop.is_alive()
    llfuse.close()
    # One that is still there is not lost sight of.
    llfuse.init(MemoryFS(), str(path), [])
    with pytest.raises(RuntimeError, match="close"):
        llfuse.init(MemoryFS(), str(path), [])
    llfuse.close()
    assert not is_mounted(path)


def test_a_mount_goes_with_a_program_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        """
        llfuse.close()
        llfuse.init(MemoryFS(), sys.argv[1], ["auto_unmount", "fsname=a\\\\,b"])
        print("mounted", flush=True)
        llfuse.main(workers=2)
        """,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "mounted\n"
        (path / "f").touch()
        line = next(ln for ln in Path("/proc/mounts").read_text().splitlines() if str(path) in ln)
        assert line.split()[0] == "a,b"
        process.kill()
        poll("unmounted", lambda: not is_mounted(path))
    finally:
        process.kill()
        process.communicate()
        force_unmount(path)


def test_an_escaped_comma_belongs_to_the_value(tmp_path: Path) -> None:
    with mounted(MemoryFS(), tmp_path / "mnt", ("fsname=a\\,b\\\\c,ro",)) as path:
        line = next(ln for ln in Path("/proc/mounts").read_text().splitlines() if str(path) in ln)
        assert line.split()[0] == "a,b\\134c" and "ro" in line.split()[3].split(",")


def test_small_things_that_programs_use() -> None:
    assert llfuse._NANOS_PER_SEC == 1_000_000_000
    error = llfuse.FUSEError(errno.ENOENT)
    assert (error.errno, error.errno_, error.args) == (errno.ENOENT, errno.ENOENT, (errno.ENOENT,))
    assert str(error) == os.strerror(errno.ENOENT)
    for name in ("errno", "errno_"):
        with pytest.raises(AttributeError):
            setattr(error, name, 1)
        assert hasattr(llfuse.FUSEError, name)
    assert pickle.loads(pickle.dumps(error)).errno_ == errno.ENOENT

    class Named(llfuse.FUSEError):
        def __init__(self, errno: int) -> None:
            self.name = "x"

    assert Named(errno.EPERM).errno == errno.EPERM
    with pytest.raises(TypeError):
        llfuse.FUSEError()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        llfuse.FUSEError("x")  # type: ignore[arg-type]

    for lock, name in ((llfuse.lock, "Lock"), (llfuse.lock_released, "NoLockManager")):
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(pickle.PicklingError, match=f"{name} instances can't be pickled"):
                attempt(lock)

    attributes = llfuse.EntryAttributes()
    for name in ("st_size", "st_blocks", "st_blksize"):
        setattr(attributes, name, -1)
        assert getattr(attributes, name) == -1
    assert copy.copy(attributes).st_size == -1


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_an_answer_that_nobody_waits_for_is_nothing_to_log(tmp_path: Path, how: str) -> None:
    path = tmp_path / "mnt"
    process = program(
        path,
        """
        import logging
        logging.basicConfig(level=logging.INFO)
        def slow(self, *args):
            print("reading", flush=True)
            with llfuse.lock_released:
                sys.stdin.readline()
            print("answering", flush=True)
            return b"late"
        MemoryFS.read = slow
        llfuse.main(workers=3)
        llfuse.close()
        """,
        stdin=subprocess.PIPE,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").write_bytes(b"1234")
        minor = os.minor(os.stat(path).st_dev)
        reader = subprocess.Popen(["dd", f"if={path / 'f'}", "iflag=direct", "of=/dev/null"])
        assert process.stdout is not None and process.stdout.readline() == "reading\n"
        if how == "killed":
            reader.kill()
        else:
            abort(minor, tmp_path)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        reader.wait(20)
        assert process.stdout.readline() == "answering\n"
        force_unmount(path)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0 and "Failed to send" not in stderr, stderr
    finally:
        process.kill()
        force_unmount(path)
