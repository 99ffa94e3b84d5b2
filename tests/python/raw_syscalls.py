# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""System calls that Python has no function for; they raise OSError as its own do."""

import ctypes
import os
from pathlib import Path
from typing import Any

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: Any) -> int:
    """Call a function of the C library that answers less than 0 where it fails."""
    result = getattr(libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def renameat2(old: Path, new: Path, flags: int) -> int:
    return call("renameat2", AT_FDCWD, bytes(old), AT_FDCWD, bytes(new), flags)


def utimensat(path: Path, *times: tuple[int, int], flags: int = 0) -> int:
    values = (ctypes.c_long * 4)(*times[0], *times[1])
    return call("utimensat", AT_FDCWD, bytes(path), values, flags)


def getxattr_into(path: Path, name: bytes, size: int) -> int:
    return call("getxattr", bytes(path), name, ctypes.create_string_buffer(size), size)


def listxattr_into(path: Path, size: int) -> int:
    return call("listxattr", bytes(path), ctypes.create_string_buffer(size), size)
