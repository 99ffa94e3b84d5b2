# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""System calls that a file system without handlers, or with one that refuses, cannot serve; recorded as in
`syscall_script`."""

import os
import stat
from pathlib import Path
from typing import Any

from raw_syscalls import call
from syscall_script import Script


def refusals(root: Path, names: list[str]) -> list[tuple[str, Any]]:
    """Carry out, for each handler, what makes the kernel call it; record what comes of it."""
    script = Script(root)
    for name in names:
        d, f = root / f"{name}.dir", root / f"{name}.file"
        script.section = name
        script.do("stat", os.lstat, f)
        script.do("stat of a directory", os.stat, d)
        script.do("lookup", os.stat, d / "f")
        script.do("chmod", os.chmod, f, 0o600)
        script.do("truncate", os.truncate, f, 3)
        script.do("readlink", os.readlink, f)
        script.do("mknod", os.mknod, d / "fifo", stat.S_IFIFO | 0o600)
        script.do("mkdir", os.mkdir, d / "new")
        script.do("symlink", os.symlink, "x", d / "l")
        script.do("link", os.link, f, d / "hard", follow_symlinks=False)
        script.do("rename", os.rename, d / "f", d / "g")
        script.do("unlink", os.unlink, d / "g")
        script.do("rmdir", os.rmdir, d / "d")
        script.do("setxattr", os.setxattr, f, "user.x", b"x", follow_symlinks=False)
        script.do("getxattr", os.getxattr, f, "user.x", follow_symlinks=False)
        script.do("listxattr", os.listxattr, f, follow_symlinks=False)
        script.do("removexattr", os.removexattr, f, "user.x", follow_symlinks=False)
        script.do("access", call, "access", bytes(f), os.R_OK)
        script.do("access of a directory", call, "access", bytes(d), os.W_OK)
        script.do("listing", lambda d=d: sorted(os.listdir(d)))
        for what, path, flags in (
            ("open", f, os.O_RDWR | os.O_NOFOLLOW), ("opendir", d, os.O_DIRECTORY),
            ("create", d / "made", os.O_CREAT | os.O_RDWR),
        ):  # fmt: skip
            fd = script.do(what, os.open, path, flags)
            script.outcomes[-1] = (script.outcomes[-1][0], "ok" if fd else script.outcomes[-1][1])
            if fd is not None:
                if what != "opendir":
                    script.do(f"{what}: write", os.pwrite, fd, b"y", 0)
                    script.do(f"{what}: read", os.pread, fd, 10, 5000)
                    script.do(f"{what}: read at 0", os.pread, fd, 10, 0)
                script.do(f"{what}: fsync", os.fsync, fd)
                script.do(f"{what}: fstat", os.fstat, fd)
                script.do(f"{what}: close", os.close, fd)
    script.section = "statfs"
    script.do("statfs", os.statvfs, root)
    return script.outcomes


def bare(root: Path) -> list[tuple[str, Any]]:
    """Carry out what a file system without handlers cannot do."""
    script = Script(root)
    script.section = "bare"
    f = root / "file"
    script.do("stat", os.stat, f)
    script.do("read", f.read_bytes)
    script.do("write", f.write_bytes, b"x")
    script.do("listing", os.listdir, root)
    script.do("create", os.mknod, root / "f", stat.S_IFREG | 0o644)
    script.do("open O_CREAT", os.open, root / "f", os.O_CREAT | os.O_WRONLY)
    script.do("mkdir", os.mkdir, root / "d")
    script.do("unlink", os.unlink, f)
    script.do("rename", os.rename, f, root / "g")
    script.do("symlink", os.symlink, "x", root / "l")
    script.do("link", os.link, f, root / "h")
    script.do("chmod", os.chmod, f, 0o600)
    script.do("truncate", os.truncate, f, 0)
    script.do("access", os.access, f, os.R_OK)
    script.do("getxattr", os.getxattr, f, "user.x")
    script.do("setxattr", os.setxattr, f, "user.x", b"x")
    script.do("listxattr", os.listxattr, f)
    script.do("removexattr", os.removexattr, f, "user.x")
    script.do("statfs", lambda: list(os.statvfs(root)[:10]))
    return script.outcomes
