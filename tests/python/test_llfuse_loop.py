# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The llfuse API: file systems that know nothing of Arvados, on real mounts."""

import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llfuse
import pytest
from conftest import force_unmount, is_mounted, poll
from llfuse_filesystems import MemoryFS, PassthroughFS, RaisingFS


@contextmanager
def mounted(ops: object, path: Path, options: tuple = (), workers: int = 3) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    llfuse.init(ops, str(path), list(options))
    loop = threading.Thread(target=llfuse.main, kwargs={"workers": workers})
    loop.start()
    try:
        yield path
    finally:
        llfuse.close()
        loop.join(20)
        force_unmount(path)
        assert not loop.is_alive()


def abort(minor: int, tmp_path: Path) -> None:
    control = Path("/sys/fs/fuse/connections")
    if (control / str(minor)).exists():
        (control / str(minor) / "abort").write_text("1")
        return
    control = tmp_path / "fusectl"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", str(control)], check=True)
    try:
        (control / str(minor) / "abort").write_text("1")
    finally:
        subprocess.run(["umount", str(control)], check=True)


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=["memory", "passthrough"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "memory":
        ops: object = MemoryFS()
    else:
        (tmp_path / "real").mkdir()
        ops = PassthroughFS(str(tmp_path / "real"))
    with mounted(ops, tmp_path / "mnt") as path:
        yield path


def test_every_operation(tree: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "f").write_bytes(b"0123456789" * 100_000)
    assert (tree / "d" / "f").read_bytes() == b"0123456789" * 100_000
    with open(tree / "d" / "f", "r+b") as file:
        file.seek(999_995)
        file.write(b"abcdefghij")
        file.flush()
        os.fsync(file.fileno())
        file.seek(999_990)
        assert file.read() == b"01234abcdefghij"
        file.truncate(3)
    assert (tree / "d" / "f").read_bytes() == b"012"
    os.chmod(tree / "d" / "f", 0o600)
    assert stat.S_IMODE(os.stat(tree / "d" / "f").st_mode) == 0o600
    os.utime(tree / "d" / "f", ns=(10**18 + 1, 10**18 + 2))
    assert os.stat(tree / "d" / "f").st_mtime_ns == 10**18 + 2
    os.chown(tree / "d" / "f", 12, 34)
    assert (os.stat(tree / "d" / "f").st_uid, os.stat(tree / "d" / "f").st_gid) == (12, 34)
    os.symlink("f", tree / "d" / "l")
    assert os.readlink(tree / "d" / "l") == "f"
    os.link(tree / "d" / "f", tree / "d" / "h")
    assert os.stat(tree / "d" / "h").st_nlink == 2
    os.setxattr(tree / "d" / "f", "user.x", b"value")
    assert os.getxattr(tree / "d" / "f", "user.x") == b"value"
    assert os.listxattr(tree / "d" / "f") == ["user.x"]
    os.removexattr(tree / "d" / "f", "user.x")
    with pytest.raises(OSError) as error:
        os.getxattr(tree / "d" / "f", "user.x")
    assert error.value.errno == llfuse.ENOATTR
    os.mkfifo(tree / "d" / "pipe")
    assert stat.S_ISFIFO(os.stat(tree / "d" / "pipe").st_mode)
    os.rename(tree / "d" / "f", tree / "g")
    assert sorted(os.listdir(tree / "d")) == ["h", "l", "pipe"]
    assert sorted(llfuse.listdir(str(tree))) == ["d", "g"]
    assert os.statvfs(tree).f_namemax > 0
    with pytest.raises(OSError) as error:
        (tree / "d").rmdir()
    assert error.value.errno == errno.ENOTEMPTY
    for name in ("h", "l", "pipe"):
        os.unlink(tree / "d" / name)
    (tree / "d").rmdir()
    assert os.listdir(tree) == ["g"]
    assert os.access(tree / "g", os.R_OK)
    with pytest.raises(FileNotFoundError):
        os.stat(tree / "d")


def test_a_directory_of_many_entries_is_listed_whole(tmp_path: Path) -> None:
    with mounted(MemoryFS(), tmp_path / "mnt") as path:
        names = [f"{n}-" + "x" * 60 for n in range(3000)]
        for name in names:
            (path / name).touch()
        assert sorted(os.listdir(path)) == sorted(names)


def test_exceptions_become_errnos_and_the_mount_lives_on(tmp_path: Path) -> None:
    with mounted(RaisingFS(), tmp_path / "mnt") as path:
        for name, expected in RaisingFS.ERRNOS.items():
            with pytest.raises(OSError) as error:
                os.stat(path / name)
            assert error.value.errno == expected, name
        assert stat.S_ISDIR(os.stat(path).st_mode)


def test_threads_and_descriptors_end_with_the_mount(tmp_path: Path) -> None:
    with mounted(MemoryFS(), tmp_path / "mnt"):
        pass
    before = tasks(), descriptors()
    for _ in range(20):
        with mounted(MemoryFS(), tmp_path / "mnt") as path:
            (path / "f").touch()
            assert os.listdir(path) == ["f"]
    assert descriptors() == before[1]
    # The kernel may take a moment to forget a thread that was joined.
    poll("the threads' end", lambda: tasks() <= before[0])


def test_no_thread_before_main(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    before = tasks()
    llfuse.init(MemoryFS(), str(tmp_path / "mnt"), [])
    assert tasks() == before
    assert is_mounted(tmp_path / "mnt")
    llfuse.close()
    assert not is_mounted(tmp_path / "mnt")


@pytest.mark.parametrize(
    "how", [["fusermount3", "-u", "-z"], ["umount"], "abort", "stop", "close", "SIGTERM", "SIGINT"]
)
def test_the_loop_ends_however_the_mount_goes(tmp_path: Path, how: object) -> None:
    script = textwrap.dedent(
        """
        import sys, threading
        sys.path.insert(0, sys.argv[2])
        import llfuse
        from llfuse_filesystems import MemoryFS
        llfuse.init(MemoryFS(), sys.argv[1], [])
        if sys.argv[3] in ("stop", "close"):
            threading.Timer(0.5, getattr(llfuse, sys.argv[3])).start()
        # As arv-mount has it: the loop in a thread, the main thread waiting.
        result = []
        loop = threading.Thread(target=lambda: result.append(llfuse.main(workers=2)))
        loop.start()
        loop.join()
        if sys.argv[3] != "close":
            llfuse.close()
        print(result[0])
        """
    )
    path = tmp_path / "mnt"
    path.mkdir()
    word = how if isinstance(how, str) else "command"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent), word],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        poll("mounted", lambda: is_mounted(path))
        (path / "f").touch()
        if isinstance(how, list):
            subprocess.run([*how, str(path)], check=True)
        elif how == "abort":
            abort(os.minor(os.stat(path).st_dev), tmp_path)
        elif how.startswith("SIG"):
            process.send_signal(getattr(signal, how))
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        expected = int(getattr(signal, how)) if str(how).startswith("SIG") else None
        assert output.strip() == str(expected)
    finally:
        process.kill()
        force_unmount(path)


def test_closing_leaves_a_later_mount_at_the_same_place_alone(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[2])
        import llfuse
        from llfuse_filesystems import MemoryFS
        llfuse.init(MemoryFS(), sys.argv[1], [])
        llfuse.main(workers=2)
        print("ended", flush=True)
        input()
        llfuse.close()
        """
    )
    path = tmp_path / "mnt"
    path.mkdir()
    command = [sys.executable, "-c", script, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            poll("mounted", lambda: is_mounted(path))
            os.stat(path)
            subprocess.run(["fusermount3", "-u", "-z", str(path)], check=True)
            assert first.stdout is not None and first.stdout.readline() == "ended\n"
            with mounted(MemoryFS(), path):
                # The kernel gave it the device number that the first one had.
                first.communicate("\n", timeout=20)
                assert first.returncode == 0
                assert is_mounted(path)
                (path / "f").touch()
        finally:
            first.kill()
            force_unmount(path)


def test_closing_ends_the_loop_although_a_file_is_open(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    llfuse.init(MemoryFS(), str(path), [])
    loop = threading.Thread(target=llfuse.main, kwargs={"workers": 3})
    loop.start()
    try:
        (path / "f").write_text("x")
        held = open(path / "f")
        llfuse.close()
        loop.join(20)
        assert not loop.is_alive()
        assert not is_mounted(path)
        with pytest.raises(OSError) as error:
            held.close()
        assert error.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        force_unmount(path)


def test_it_may_fork_between_init_and_main(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        import llfuse
        from llfuse_filesystems import MemoryFS
        llfuse.init(MemoryFS(), sys.argv[1], [])
        if os.fork():
            os._exit(0)
        os.setsid()
        llfuse.main(workers=2)
        llfuse.close()
        """
    )
    path = tmp_path / "mnt"
    path.mkdir()
    command = [sys.executable, "-c", script, str(path), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=20)
    try:
        (path / "f").write_text("from the background")
        assert (path / "f").read_text() == "from the background"
    finally:
        force_unmount(path)


def test_what_cannot_be_mounted_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        llfuse.init(MemoryFS(), str(tmp_path / "nowhere"), [])
    with pytest.raises(RuntimeError, match="frobnicate"):
        llfuse.init(MemoryFS(), str(tmp_path), ["frobnicate"])
    with pytest.raises(TypeError):
        llfuse.init(MemoryFS(), b"bytes", [])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "f").touch()
    with pytest.raises(RuntimeError, match="full: not empty"):
        llfuse.init(MemoryFS(), str(tmp_path / "full"), [])
    llfuse.init(MemoryFS(), str(tmp_path / "full"), ["nonempty"])
    llfuse.close()
    with pytest.raises(RuntimeError, match="init"):
        llfuse.main()
    with pytest.raises(ValueError):
        llfuse.main(workers=0)


def test_invalidations_reach_the_kernel(tmp_path: Path) -> None:
    fs = MemoryFS()
    with mounted(fs, tmp_path / "mnt") as path:
        (path / "f").write_text("old")
        assert (path / "f").read_text() == "old"
        with pytest.raises(FileNotFoundError):
            os.stat(path / "later")
        inode = os.stat(path / "f").st_ino
        fs.nodes[inode].data[:] = b"newer"
        assert os.stat(path / "f").st_size == 3  # what the kernel cached
        llfuse.invalidate_inode(inode)
        poll("the new size", lambda: os.stat(path / "f").st_size == 5)
        assert (path / "f").read_text() == "newer"
        asked = fs.lookups
        os.stat(path / "f")
        assert fs.lookups == asked
        llfuse.invalidate_entry(llfuse.ROOT_INODE, b"f")
        poll("a new lookup", lambda: (os.stat(path / "f"), fs.lookups > asked)[1])


def test_the_lock(tmp_path: Path) -> None:
    with llfuse.lock:
        with pytest.raises(RuntimeError, match="more than once"):
            llfuse.lock.acquire()
        refused: list = []
        other = threading.Thread(target=lambda: refused.append(llfuse.lock.acquire(0.05)))
        other.start()
        other.join()
        assert refused == [False]
        with llfuse.lock_released:
            taken: list = []

            def take() -> None:
                with llfuse.lock:
                    taken.append(True)

            other = threading.Thread(target=take)
            other.start()
            other.join(10)
            assert taken == [True]
    with pytest.raises(RuntimeError, match="holding thread"):
        llfuse.lock.release()
    with pytest.raises(RuntimeError), llfuse.lock_released:
        pass
    with pytest.raises(TypeError):
        type(llfuse.lock)()


def test_yield_hands_the_lock_to_another_thread() -> None:
    order = []
    ready = threading.Event()

    def other() -> None:
        ready.set()
        with llfuse.lock:
            order.append("other")

    with llfuse.lock:
        thread = threading.Thread(target=other)
        thread.start()
        ready.wait()
        while not order:
            llfuse.lock.yield_()
        order.append("first")
    thread.join()
    assert order == ["other", "first"]


def test_data_classes() -> None:
    entry = llfuse.EntryAttributes()
    assert (entry.entry_timeout, entry.attr_timeout, entry.generation) == (300, 300, 0)
    entry.st_ino, entry.st_mtime_ns, entry.attr_timeout = 7, 12345678901234567, 0.5
    copy = pickle.loads(pickle.dumps(entry))
    assert (copy.st_ino, copy.st_mtime_ns, copy.attr_timeout) == (7, 12345678901234567, 0.5)
    data = llfuse.StatvfsData()
    data.f_bsize = 4096
    assert pickle.loads(pickle.dumps(data)).f_bsize == 4096
    for context in (llfuse.SetattrFields(), llfuse.RequestContext()):
        with pytest.raises(llfuse.PicklingError, match="can't be pickled"):
            pickle.dumps(context)
    assert (llfuse.RequestContext().uid, llfuse.RequestContext().umask) == (0, 0)
    error = llfuse.FUSEError(errno.ENOENT)
    assert (error.errno, str(error)) == (errno.ENOENT, os.strerror(errno.ENOENT))
    with pytest.raises(TypeError):
        llfuse.FUSEError("5")  # type: ignore[arg-type]
    assert llfuse.get_ino_t_bits() == llfuse.get_off_t_bits() == 64
    assert "big_writes" in llfuse.default_options


def test_attributes_are_set_as_before() -> None:
    class Named(llfuse.EntryAttributes):
        def __init__(self, name: str) -> None:
            self.name = name

    entry = Named("x")
    # Computed with `/`, as programs do that were written for Python 2.
    entry.st_blocks, entry.st_mtime_ns = 1025 / 512, 1.5e18
    assert (entry.name, entry.st_blocks, entry.st_mtime_ns) == ("x", 2, 1_500_000_000_000_000_000)
    for wrong, kind in (
        ("5", TypeError),
        (None, TypeError),
        (-1, OverflowError),
        (2**64, OverflowError),
    ):
        with pytest.raises(kind):
            entry.st_ino = wrong
    data = llfuse.StatvfsData()
    data.f_bfree = 10 / 4
    assert data.f_bfree == 2


def test_errors_name_the_path_as_it_was_given(tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    for call in (llfuse.listdir, lambda path: llfuse.getxattr(path, "user.x")):
        with pytest.raises(FileNotFoundError) as error:
            call(path)
        assert error.value.filename == path


def test_xattr_calls_that_let_go_of_the_gil(tmp_path: Path) -> None:
    with mounted(MemoryFS(), tmp_path / "mnt") as path:
        (path / "f").touch()
        llfuse.setxattr(str(path / "f"), "user.long", b"v" * 500)
        assert llfuse.getxattr(str(path / "f"), "user.long") == b"v" * 500
        with pytest.raises(OSError) as error:
            llfuse.getxattr(str(path / "f"), "user.none")
        assert error.value.errno == llfuse.ENOATTR


@pytest.mark.parametrize("options", [("subtype=some",), ("fsname=thing", "ro")])
def test_the_mount_table_shows_what_was_asked_for(tmp_path: Path, options: tuple) -> None:
    with mounted(MemoryFS(), tmp_path / "mnt", options) as path:
        line = next(x for x in Path("/proc/mounts").read_text().splitlines() if str(path) in x)
        source, _, kind, flags, *_ = line.split()
        if "ro" in options:
            assert (source, kind) == ("thing", "fuse")
            assert flags.split(",")[0] == "ro"
        else:
            assert (source, kind) == ("some", "fuse.some")


def test_a_panic_is_an_error_of_one_request(tmp_path: Path) -> None:
    from llfuse import _core

    assert _core.HAS_FAULT_INJECTION, "the tests need a build with the feature fault-injection"
    with mounted(MemoryFS(), tmp_path / "mnt") as path:
        (path / "f").write_text("still here")
        with pytest.raises(OSError) as error:
            os.setxattr(path / "f", "user.panic", b"now")
        assert error.value.errno == errno.EIO
        for _ in range(20):
            assert (path / "f").read_text() == "still here"


def test_the_rest_of_llfuse(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        llfuse.get_sup_groups(999_999_999)
    assert llfuse.fse == sys.getfilesystemencoding() and llfuse.log.name == "llfuse"
    assert isinstance(llfuse.lock, llfuse.Lock)
    assert isinstance(llfuse.lock_released, llfuse.NoLockManager)
    with mounted(MemoryFS(), tmp_path / "mnt") as path:
        (path / "f").write_bytes(b"old content")
        with open(path / "f", "rb") as file:
            assert file.read() == b"old content"
            llfuse.notify_store(os.fstat(file.fileno()).st_ino, 0, b"new")
            poll("what was stored", lambda: os.pread(file.fileno(), 11, 0) == b"new content")
