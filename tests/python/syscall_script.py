# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A script of system calls, and what came of each: to be compared between file systems.

What is recorded of a call is its value or the name of its errno. Left out is what no two runs share:
inode numbers, the present time, free space.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raw_syscalls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    UTIME_NOW,
    UTIME_OMIT,
    getxattr_into,
    listxattr_into,
    renameat2,
    utimensat,
)  # fmt: skip

XATTR_CREATE, XATTR_REPLACE = os.XATTR_CREATE, os.XATTR_REPLACE


def described(found: os.stat_result) -> list[Any]:
    """Return what of a file's attributes two runs share."""
    return [
        stat.filemode(found.st_mode), found.st_nlink, found.st_uid, found.st_gid,
        0 if stat.S_ISDIR(found.st_mode) else found.st_size, found.st_rdev,
    ]  # fmt: skip


def plain(value: Any) -> Any:
    """Return a value in the form in which it is recorded."""
    if isinstance(value, os.stat_result):
        return described(value)
    if isinstance(value, (bytes, bytearray)) and len(value) > 100:
        return [len(value), hashlib.md5(value).hexdigest()]
    return value


class Script:
    """Carries out system calls in one directory and records their outcomes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outcomes: list[tuple[str, Any]] = []
        self.section = ""

    def do(self, what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Carry out one call; return its value, or None where it failed."""
        try:
            value = call(*args, **kwargs)
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, str(error))
            self.outcomes.append((f"{self.section}: {what}", outcome))
            return None
        self.outcomes.append((f"{self.section}: {what}", plain(value)))
        return value

    @contextmanager
    def opened(self, what: str, path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
        """Open a file, recording whether that worked, and close it, recording that too."""
        try:
            fd = os.open(path, flags, mode)
        except OSError as error:
            raise AssertionError(f"{self.section}: {what}: {error}") from error
        try:
            yield fd
        finally:
            self.do(f"{what}: close", os.close, fd)

    def content(self, what: str, path: Path) -> None:
        self.do(f"{what}: stat", os.stat, path)
        self.do(f"{what}: content", path.read_bytes)

    def run(self) -> list[tuple[str, Any]]:
        """Carry out every section, each in a directory of its own."""
        old = os.umask(0o027)
        try:
            for name in SECTIONS:
                self.section = name
                directory = self.root / name
                os.mkdir(directory)
                getattr(self, name)(directory)
        finally:
            os.umask(old)
        return self.outcomes

    def opening(self, d: Path) -> None:
        rw, creat = os.O_RDWR, os.O_CREAT
        with self.opened("new", d / "f", rw | creat | os.O_EXCL, 0o666) as fd:
            self.do("fstat of a new file", os.fstat, fd)
            self.do("write", os.write, fd, b"0123456789")
            self.do("fstat of a written file", os.fstat, fd)
        self.do("O_EXCL on one that is there", os.open, d / "f", rw | creat | os.O_EXCL)
        self.do("none there", os.open, d / "none", rw)
        self.do("a directory for writing", os.open, d, os.O_WRONLY)
        self.do("a directory with O_CREAT", os.open, d, os.O_RDONLY | creat)
        self.do("O_DIRECTORY on a file", os.open, d / "f", os.O_DIRECTORY)
        self.do("below a file", os.open, d / "f" / "x", os.O_RDONLY)
        self.do("create below a file", os.open, d / "f" / "x", rw | creat)
        self.do("create below nothing", os.open, d / "none" / "x", rw | creat)
        self.do("trailing slash", os.open, f"{d}/new/", rw | creat)
        self.do("255 bytes", lambda: os.close(os.open(d / ("n" * 255), rw | creat)))
        self.do("256 bytes", lambda: os.close(os.open(d / ("n" * 256), rw | creat)))
        self.do("1024 bytes", lambda: os.close(os.open(d / ("n" * 1024), rw | creat)))
        self.do("1025 bytes", lambda: os.close(os.open(d / ("n" * 1025), rw | creat)))
        odd = os.path.join(bytes(d), b"\xff\xfe \n\t*")
        self.do("no UTF-8", os.close, os.open(odd, rw | creat))
        self.do("stat of no UTF-8", os.stat, odd)
        self.do("listing", lambda: sorted(os.listdir(bytes(d))))
        os.symlink("f", d / "l")
        self.do("O_NOFOLLOW", os.open, d / "l", os.O_RDONLY | os.O_NOFOLLOW)
        with self.opened("O_PATH", d / "l", os.O_PATH | os.O_NOFOLLOW) as fd:
            self.do("O_PATH: fstat", os.fstat, fd)
            self.do("O_PATH: read", os.read, fd, 1)
        with self.opened("through a link, O_TRUNC", d / "l", rw | os.O_TRUNC) as fd:
            self.do("O_TRUNC: fstat", os.fstat, fd)
            self.do("O_TRUNC: write", os.write, fd, b"new")
        self.content("truncated and written", d / "f")
        with self.opened("O_TRUNC, read-only", d / "f", os.O_RDONLY | os.O_TRUNC) as fd:
            self.do("write to O_RDONLY", os.write, fd, b"x")
        with self.opened("O_WRONLY", d / "f", os.O_WRONLY) as fd:
            self.do("read from O_WRONLY", os.read, fd, 1)
        one = os.open(d / "log", rw | creat | os.O_APPEND)
        two = os.open(d / "log", os.O_WRONLY | os.O_APPEND)
        for fd, text in ((one, b"first\n"), (two, b"second\n"), (one, b"third\n")):
            self.do("O_APPEND", os.write, fd, text)
        self.do("O_APPEND: position", os.lseek, one, 0, os.SEEK_CUR)
        self.do("O_APPEND: pwrite", os.pwrite, two, b"at 0", 0)
        os.close(one)
        os.close(two)
        self.content("appended", d / "log")
        with self.opened("O_SYNC", d / "log", os.O_WRONLY | os.O_SYNC) as fd:
            self.do("O_SYNC: write", os.write, fd, b"FIRST")
        self.content("O_SYNC", d / "log")
        self.do("O_TMPFILE", lambda: os.close(os.open(d, rw | os.O_TMPFILE)))
        for mode in (0o777, 0o4755, 0o000):
            name = d / f"mode-{mode:o}"
            self.do(f"mode {mode:o}", os.close, os.open(name, os.O_WRONLY | creat, mode))
            self.do(f"mode {mode:o}: stat", os.stat, name)

    def offsets(self, d: Path) -> None:
        path = d / "f"
        with self.opened("f", path, os.O_RDWR | os.O_CREAT) as fd:
            for offset, data in (
                (4095, b"ab"), (1, b"x"), (70_001, b"beyond a hole"), (4096, b"B"), (0, b""),
                (131_071, b"page" * 1024), (3, b"y" * 4093),
            ):  # fmt: skip
                self.do(f"pwrite at {offset}", os.pwrite, fd, data, offset)
                self.do(f"size after {offset}", lambda: os.fstat(fd).st_size)
            for offset, size in (
                (0, 10), (4094, 4), (69_990, 30), (131_070, 4098), (135_160, 100), (135_167, 1),
                (1 << 40, 5), (5, 0),
            ):  # fmt: skip
                self.do(f"pread {size} at {offset}", os.pread, fd, size, offset)
            self.do("pread at -1", os.pread, fd, 1, -1)
            self.do("pwritev", os.pwritev, fd, [b"one", b"", b"three"], 200)
            buffers = [bytearray(2), bytearray(5), bytearray(3)]
            self.do("preadv", os.preadv, fd, buffers, 199)
            self.do("preadv: read", lambda: b"|".join(buffers))
            self.do("SEEK_END", os.lseek, fd, -7, os.SEEK_END)
            self.do("read to the end", os.read, fd, 100)
            self.do("read at the end", os.read, fd, 100)
            self.do("seek before the beginning", os.lseek, fd, -1, os.SEEK_SET)
            self.do("SEEK_DATA", os.lseek, fd, 0, os.SEEK_DATA)
            self.do("SEEK_DATA behind the end", os.lseek, fd, 1 << 30, os.SEEK_DATA)
            self.do("SEEK_HOLE behind the end", os.lseek, fd, 1 << 30, os.SEEK_HOLE)
            self.do("fsync", os.fsync, fd)
            self.do("fdatasync", os.fdatasync, fd)
        self.content("f", path)
        big = bytes(range(256)) * 12_000 + b"odd"
        self.do("3 MiB at once", path.write_bytes, big)
        self.content("3 MiB", path)
        with self.opened("chunks", d / "chunks", os.O_RDWR | os.O_CREAT) as fd:
            for start in range(0, len(big), 77_777):
                os.write(fd, big[start : start + 77_777])
            os.lseek(fd, 0, os.SEEK_SET)
            read = b"".join(iter(lambda: os.read(fd, 33_333), b""))
            self.do("chunks: the same", lambda: read == big)
        with open(path, "rb") as source, open(d / "copy", "wb") as target:
            self.do("sendfile", os.sendfile, target.fileno(), source.fileno(), 5, 100_000)
            self.do("copy_file_range", os.copy_file_range, source.fileno(), target.fileno(), 999)
        self.content("copy", d / "copy")
        with self.opened("sparse", d / "sparse", os.O_RDWR | os.O_CREAT) as fd:
            self.do("write at 5 MiB", os.pwrite, fd, b"end", 5 << 20)
            self.do("read in the hole", os.pread, fd, 100, 3 << 20)
            self.do("posix_fallocate", os.posix_fallocate, fd, 0, 6 << 20)
            self.do("sparse: size", lambda: os.fstat(fd).st_size)
        with self.opened("mapped", d / "mapped", os.O_RDWR | os.O_CREAT) as fd:
            os.ftruncate(fd, 10_000)
            with mmap.mmap(fd, 10_000) as memory:
                memory[4000:4200] = b"m" * 200
                self.do("mapped: read beside", os.pread, fd, 300, 3950)
                memory.flush()
                os.pwrite(fd, b"written", 4100)
                self.do("mapped: sees a write", lambda: bytes(memory[4095:4110]))
        self.content("mapped", d / "mapped")

    def truncating(self, d: Path) -> None:
        path = d / "f"
        path.write_bytes(b"0123456789" * 1000)
        for size in (9_999, 4096, 4097, 20_000, 3, 0, 12, 1 << 20, 7):
            self.do(f"truncate to {size}", os.truncate, path, size)
            self.content(f"truncated to {size}", path)
        with self.opened("f", path, os.O_RDWR) as fd:
            os.pwrite(fd, b"abcdefghij", 0)
            for size in (5, 8, 8, 100_000, 1):
                self.do(f"ftruncate to {size}", os.ftruncate, fd, size)
                self.do(f"ftruncate to {size}: read", os.pread, fd, 200_000, 0)
            self.do("ftruncate to -1", os.ftruncate, fd, -1)
            self.do("write behind the new end", os.pwrite, fd, b"z", 6)
        self.content("in the end", path)
        with self.opened("read-only", path, os.O_RDONLY) as fd:
            self.do("ftruncate of O_RDONLY", os.ftruncate, fd, 0)
        self.do("truncate a directory", os.truncate, d, 0)
        self.do("truncate none", os.truncate, d / "none", 0)
        self.do("truncate beyond 2^63", os.truncate, path, (1 << 63) - 1)

    def times(self, d: Path) -> None:
        path, link = d / "f", d / "l"
        path.write_bytes(b"x")
        os.symlink("f", link)

        def show(what: str, path: Path = path) -> None:
            found = os.lstat(path)
            self.do(what, lambda: [found.st_atime_ns, found.st_mtime_ns])

        for times in (
            (10**18 + 1, 2 * 10**18 + 999_999_999),
            (0, 1),
            (2**32 * 10**9, 2**33 * 10**9),
        ):
            self.do(f"utime {times}", os.utime, path, ns=times)
            show("both")
        self.do("utime before 1970", os.utime, path, ns=(-1_500_000_000, -1))
        show("before 1970")
        self.do("atime alone", utimensat, path, (111, 5), (0, UTIME_OMIT))
        show("atime alone")
        self.do("mtime alone", utimensat, path, (0, UTIME_OMIT), (222, 6))
        show("mtime alone")
        self.do("neither", utimensat, path, (0, UTIME_OMIT), (0, UTIME_OMIT))
        show("neither")
        self.do("atime now", utimensat, path, (0, UTIME_NOW), (0, UTIME_OMIT))
        self.do("atime is late", lambda: os.stat(path).st_atime > 1e9)
        self.do("mtime now", utimensat, path, (333, 0), (0, UTIME_NOW))
        self.do("mtime is late", lambda: (os.stat(path).st_mtime > 1e9, os.stat(path).st_atime))
        self.do("a billion nanoseconds", utimensat, path, (1, 10**9), (1, 1))
        self.do("of a link", os.utime, link, ns=(5, 6), follow_symlinks=False)
        show("of a link", link)
        self.do("of a directory", os.utime, d, ns=(7 * 10**9, 8 * 10**9))
        self.do("of a directory: mtime", lambda: os.stat(d).st_mtime)
        self.do("of none", os.utime, d / "none")
        with self.opened("f", path, os.O_RDWR) as fd:
            self.do("futimens", os.utime, fd, ns=(9, 10))
        show("futimens")

    def owners(self, d: Path) -> None:
        path, link = d / "f", d / "l"
        path.write_bytes(b"x")
        os.symlink("f", link)
        for mode in (0o000, 0o777, 0o1640, 0o2755, 0o4711, 0o7777, 0o644):
            self.do(f"chmod {mode:o}", os.chmod, path, mode)
            self.do(f"chmod {mode:o}: stat", os.stat, path)
        for uid, gid in ((12, 34), (-1, 56), (78, -1), (-1, -1), (2**31, 2**32 - 2), (0, 0)):
            self.do(f"chown {uid} {gid}", os.chown, path, uid, gid)
            self.do(f"chown {uid} {gid}: stat", os.stat, path)
        self.do("lchown", os.lchown, link, 3, 4)
        self.do("lchown: the link", os.lstat, link)
        self.do("lchown: the file", os.stat, link)
        self.do("chmod of a directory", os.chmod, d, 0o2711)
        self.do("chmod of a directory: stat", os.stat, d)
        self.do("chmod of none", os.chmod, d / "none", 0o644)
        with self.opened("f", path, os.O_RDWR) as fd:
            self.do("fchmod", os.fchmod, fd, 0o4751)
            self.do("fchown", os.fchown, fd, 5, 6)
            self.do("fchown: fstat", os.fstat, fd)
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK):
            self.do(f"access {mode}", os.access, path, mode)
        self.do("access of none", os.access, d / "none", os.F_OK)

    def links(self, d: Path) -> None:
        path = d / "f"
        path.write_bytes(b"content")
        self.do("link", os.link, path, d / "hard")
        self.do("link: stat", os.stat, path)
        self.do("the same file", lambda: os.path.samefile(path, d / "hard"))
        (d / "hard").write_bytes(b"through the other name")
        self.content("link", path)
        self.do("link to one that is there", os.link, path, d / "hard")
        self.do("link to none", os.link, d / "none", d / "new")
        self.do("link to a directory", os.link, d, d / "new")
        self.do("link into nothing", os.link, path, d / "none" / "new")
        self.do("link to elsewhere", os.link, path, "/proc/hard")
        self.do("unlink the first name", os.unlink, path)
        self.content("the second name", d / "hard")
        for target in ("hard", "../links/hard", "/absolute/path", "dangling", "t" * 4000, "self"):
            name = d / ("self" if target == "self" else f"l-{len(target)}")
            self.do(f"symlink {target[:20]}", os.symlink, target, name)
            self.do(f"symlink {target[:20]}: readlink", os.readlink, name)
            self.do(f"symlink {target[:20]}: lstat", os.lstat, name)
            self.do(f"symlink {target[:20]}: stat", os.stat, name)
        self.do("symlink of bytes", os.symlink, b"\xff\x80", os.path.join(bytes(d), b"bytes"))
        self.do("symlink of bytes: readlink", os.readlink, os.path.join(bytes(d), b"bytes"))
        self.do("symlink over one that is there", os.symlink, "x", d / "hard")
        self.do("symlink to nothing", os.symlink, "", d / "empty")
        self.do("readlink of a file", os.readlink, d / "hard")
        self.do("readlink of none", os.readlink, d / "none")
        self.do("read through a link", (d / "l-4").read_bytes)
        self.do("hard link to a link", os.link, d / "l-4", d / "hl", follow_symlinks=False)
        self.do("hard link to a link: lstat", os.lstat, d / "hl")
        self.do("unlink a link", os.unlink, d / "l-4")
        self.do("what it led to", os.stat, d / "hard")

    def nodes(self, d: Path) -> None:
        for what, kind, device in (
            ("fifo", stat.S_IFIFO, 0), ("socket", stat.S_IFSOCK, 0), ("file", stat.S_IFREG, 0),
            ("char", stat.S_IFCHR, os.makedev(1, 3)), ("block", stat.S_IFBLK, os.makedev(7, 300)),
        ):  # fmt: skip
            self.do(f"mknod {what}", os.mknod, d / what, kind | 0o666, device)
            self.do(f"mknod {what}: stat", os.lstat, d / what)
            self.do(f"mknod {what} again", os.mknod, d / what, kind | 0o600, device)
        self.do("mknod of a directory", os.mknod, d / "d", stat.S_IFDIR | 0o755)
        self.content("file", d / "file")
        reader = os.open(d / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        with self.opened("fifo", d / "fifo", os.O_WRONLY) as fd:
            self.do("write to a fifo", os.write, fd, b"through the pipe")
            self.do("read from a fifo", os.read, reader, 100)
        os.close(reader)
        self.do("connect to no socket", os.open, d / "socket", os.O_RDWR)
        for name in os.listdir(d):
            os.unlink(d / name)
        self.do("all gone", os.listdir, d)

    def directories(self, d: Path) -> None:
        for mode in (0o777, 0o700, 0o3775):
            self.do(f"mkdir {mode:o}", os.mkdir, d / f"{mode:o}", mode)
            self.do(f"mkdir {mode:o}: stat", os.stat, d / f"{mode:o}")
        (d / "f").write_bytes(b"")
        self.do("mkdir over a directory", os.mkdir, d / "777")
        self.do("mkdir over a file", os.mkdir, d / "f")
        self.do("mkdir below a file", os.mkdir, d / "f" / "x")
        self.do("mkdir below nothing", os.mkdir, d / "none" / "x")
        (d / "777" / "in").mkdir()
        self.do("rmdir of a full one", os.rmdir, d / "777")
        self.do("rmdir of a file", os.rmdir, d / "f")
        self.do("rmdir of none", os.rmdir, d / "none")
        self.do("rmdir of .", os.rmdir, f"{d}/700/.")
        self.do("rmdir of ..", os.rmdir, f"{d}/700/..")
        self.do("rmdir of the root", os.rmdir, self.root)
        self.do("unlink of a directory", os.unlink, d / "700")
        self.do("unlink of none", os.unlink, d / "none")
        self.do("unlink of f/", os.unlink, f"{d}/f/")
        self.do("listing of a file", os.listdir, d / "f")
        self.do("rmdir", os.rmdir, d / "700")
        self.do("listing", lambda: sorted(os.listdir(d)))
        many = d / "many"
        many.mkdir()
        names = [f"{n:04}-" + "x" * (n % 200) for n in range(700)]
        for name in names:
            (many / name).touch()
        self.do("many", lambda: sorted(os.listdir(many)) == names)
        with os.scandir(many) as listing:
            self.do("many: kinds", lambda: {e.is_file(follow_symlinks=False) for e in listing})
        seen = []
        with os.scandir(many) as listing:
            for number, entry in enumerate(listing):
                seen.append(entry.name)
                os.unlink(entry.path)
                if number == 100:
                    (many / "0000-again").touch()
        self.do("deleting while listing", lambda: sorted(n for n in seen if n in names) == names)
        self.do("left", lambda: sorted(os.listdir(many)) in ([], ["0000-again"]))
        fd = os.open(d / "777", os.O_RDONLY | os.O_DIRECTORY)
        self.do("fsync of a directory", os.fsync, fd)
        self.do("listing by descriptor", os.listdir, fd)
        self.do("openat", os.close, os.open("in/new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        self.do("fstatat", os.stat, "in/new", dir_fd=fd)
        self.do("read of a directory", os.read, fd, 10)
        os.unlink("in/new", dir_fd=fd)
        os.rmdir("in", dir_fd=fd)
        os.rmdir(d / "777")
        self.do("listing of a removed one", os.listdir, fd)
        self.do("create in a removed one", os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(fd)

    def renaming(self, d: Path) -> None:
        for name in ("a", "b", "c"):
            (d / name).write_text(name)
        for name in ("empty", "full", "full/in", "other"):
            (d / name).mkdir()
        self.do("to a new name", os.rename, d / "a", d / "a2")
        self.do("to itself", os.rename, d / "a2", d / "a2")
        self.do("over a file", os.rename, d / "a2", d / "b")
        self.content("over a file", d / "b")
        self.do("none", os.rename, d / "none", d / "x")
        self.do("into nothing", os.rename, d / "b", d / "none" / "x")
        self.do("below a file", os.rename, d / "b", d / "c" / "x")
        self.do("a file over a directory", os.rename, d / "b", d / "empty")
        self.do("a directory over a file", os.rename, d / "empty", d / "b")
        self.do("over an empty directory", os.rename, d / "other", d / "empty")
        self.do("over a full directory", os.rename, d / "empty", d / "full")
        self.do("into itself", os.rename, d / "full", d / "full" / "in" / "x")
        self.do("over its parent", os.rename, d / "full" / "in", d / "full")
        self.do("a directory elsewhere", os.rename, d / "full" / "in", d / "in")
        self.do("a file elsewhere", os.rename, d / "b", d / "in" / "b")
        self.do("the new path", (d / "in" / "b").read_text)
        self.do("the old path", os.stat, d / "b")
        os.link(d / "c", d / "c2")
        self.do("over another name of it", os.rename, d / "c", d / "c2")
        self.do("to another file system", os.rename, d / "c", "/proc/c")
        with self.opened("c", d / "c", os.O_RDWR) as fd:
            (d / "new").write_text("new")
            self.do("over an open file", os.rename, d / "new", d / "c")
            self.do("the open file", os.pread, fd, 10, 0)
            self.do("write to it", os.pwrite, fd, b"old!", 0)
            self.do("read it back", os.pread, fd, 10, 0)
        self.do("the new file", (d / "c").read_text)
        self.do("RENAME_NOREPLACE, new", renameat2, d / "c", d / "fresh", RENAME_NOREPLACE)
        self.do("RENAME_NOREPLACE, there", renameat2, d / "c2", d / "in", RENAME_NOREPLACE)
        self.do("RENAME_EXCHANGE", renameat2, d / "c2", d / "in", RENAME_EXCHANGE)
        self.do("RENAME_EXCHANGE, none", renameat2, d / "c2", d / "none", RENAME_EXCHANGE)
        self.do("RENAME_WHITEOUT", renameat2, d / "c2", d / "white", RENAME_WHITEOUT)
        self.do("listing", lambda: sorted(os.listdir(d)))

    def attributes(self, d: Path) -> None:
        path, link = d / "f", d / "l"
        path.write_bytes(b"x")
        os.symlink("f", link)
        self.do("none", os.getxattr, path, "user.none")
        self.do("no list", os.listxattr, path)
        self.do("set", os.setxattr, path, "user.one", b"first")
        self.do("get", os.getxattr, path, "user.one")
        self.do("create one that is there", os.setxattr, path, "user.one", b"no", XATTR_CREATE)
        self.do("replace one that is there", os.setxattr, path, "user.one", b"1", XATTR_REPLACE)
        self.do("create", os.setxattr, path, "user.two", b"", XATTR_CREATE)
        self.do("replace none", os.setxattr, path, "user.three", b"x", XATTR_REPLACE)
        both = XATTR_CREATE | XATTR_REPLACE
        self.do("both flags, none", os.setxattr, path, "user.four", b"x", both)
        self.do("both flags, there", os.setxattr, path, "user.one", b"x", both)
        self.do("unknown flag", os.setxattr, path, "user.five", b"x", 8)
        self.do("list", lambda: sorted(os.listxattr(path)))
        self.do("empty value", os.getxattr, path, "user.two")
        self.do("value", os.getxattr, path, "user.one")
        self.do("size of a value", getxattr_into, path, b"user.one", 0)
        self.do("size of a list", listxattr_into, path, 0)
        self.do("bytes", os.setxattr, path, "user.bytes", bytes(range(256)))
        self.do("bytes: get", os.getxattr, path, "user.bytes")
        self.do("too small a buffer", getxattr_into, path, b"user.bytes", 255)
        self.do("the right buffer", getxattr_into, path, b"user.bytes", 256)
        self.do("too small a list", listxattr_into, path, 5)
        self.do("3 KB", os.setxattr, path, "user.long", b"v" * 3000)
        self.do("3 KB: get", os.getxattr, path, "user.long")
        self.do("too long a value", os.setxattr, path, "user.long", b"v" * 65_537)
        self.do("255 bytes", os.setxattr, path, "user." + "n" * 250, b"x")
        self.do("256 bytes", os.setxattr, path, "user." + "n" * 251, b"x")
        self.do("no name", os.setxattr, path, "", b"x")
        self.do("trusted", os.setxattr, path, "trusted.t", b"x")
        self.do("trusted: get", os.getxattr, path, "trusted.t")
        self.do("of a directory", os.setxattr, d, "user.d", b"dir")
        self.do("of a directory: list", os.listxattr, d)
        self.do("of a link", os.setxattr, link, "trusted.l", b"x", follow_symlinks=False)
        self.do("through a link", os.getxattr, link, "user.bytes")
        self.do("remove", os.removexattr, path, "user.one")
        self.do("remove none", os.removexattr, path, "user.one")
        self.do("of none", os.getxattr, d / "none", "user.x")
        self.do("list in the end", lambda: sorted(os.listxattr(path)))

    def unlinked(self, d: Path) -> None:
        path = d / "f"
        path.write_bytes(b"content")
        with self.opened("f", path, os.O_RDWR) as fd:
            self.do("unlink while open", os.unlink, path)
            self.do("stat", os.stat, path)
            self.do("read", os.pread, fd, 100, 0)
            self.do("write", os.pwrite, fd, b"CONT", 0)
            self.do("read again", os.pread, fd, 100, 0)
            self.do("ftruncate", os.ftruncate, fd, 3)
            self.do("size", lambda: os.fstat(fd).st_size)
            self.do("fsync", os.fsync, fd)
            path.write_bytes(b"another")
            self.do("the old one", os.pread, fd, 100, 0)
            self.do("link it again", os.link, f"/proc/self/fd/{fd}", d / "back")
            self.do("listing", lambda: [n for n in os.listdir(d) if not n.startswith(".fuse")])
        self.content("another", path)

    def locks(self, d: Path) -> None:
        path = d / "f"
        path.write_bytes(b"0123456789")
        one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
        self.do("flock", fcntl.flock, one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.do("flock, taken", fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.do("unlock", fcntl.flock, one, fcntl.LOCK_UN)
        self.do("flock, shared", fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.do("lockf", fcntl.lockf, one, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
        self.do("lockf, unlock", fcntl.lockf, one, fcntl.LOCK_UN, 5, 0)
        self.do("ioctl", fcntl.ioctl, one, 0x80086601, bytes(8))
        os.close(one)
        os.close(two)

    def programs(self, d: Path) -> None:
        script = d / "program"
        script.write_text("#!/bin/sh\necho ran with $1\nexit 3\n")
        self.do("not executable", subprocess.run, [script])
        os.chmod(script, 0o755)

        def run() -> list[Any]:
            done = subprocess.run([script, "this"], capture_output=True, text=True)
            return [done.stdout, done.returncode]

        self.do("run", run)
        self.do("chdir", lambda: subprocess.run(["true"], cwd=d).returncode)
        self.do("statvfs", lambda: [os.statvfs(d).f_namemax, os.statvfs(d).f_frsize])


SECTIONS = (
    "opening", "offsets", "truncating", "times", "owners", "links", "nodes", "directories",
    "renaming", "attributes", "unlinked", "locks", "programs",
)  # fmt: skip
