# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The llfuse API, served by a Rust core.

A drop-in for the module that arvados-llfuse and llfuse install: a file system written against it
runs unchanged. `init()` mounts, `main()` serves until the mount is gone, `close()` cleans up; one
mount at a time in a process. Handlers run one at a time under `lock`, except in blocks
`with lock_released:`.
"""

import errno as _errno
import logging as _logging
import queue as _queue
import sys as _sys
from pickle import PicklingError

from ._core import (
    EntryAttributes,
    Lock,
    NoLockManager,
    RequestContext,
    SetattrFields,
    StatvfsData,
    close,
    getxattr,
    init,
    invalidate_entry,
    invalidate_inode,
    listdir,
    lock,
    lock_released,
    main,
    notify_store,
    setxattr,
    stop,
)
from ._errors import FUSEError
from ._operations import Operations

__version__ = "1.5.2"

#: Inode number of the root of every mount.
ROOT_INODE = 1

# Programs of llfuse's kind count times with it.
_NANOS_PER_SEC = 1_000_000_000

#: What `getxattr` fails with where there is no such attribute.
ENOATTR = _errno.ENODATA

#: Mount options that suit most file systems.
default_options = frozenset(
    ("big_writes", "default_permissions", "no_splice_read", "splice_write", "splice_move")
)

#: Encoding of file names.
fse = _sys.getfilesystemencoding()

#: What this module logs to.
log = _logging.getLogger("llfuse")

# Programs of the time replaced llfuse's queue with one that has no limit. The core's has none;
# what is assigned here has no effect.
_notify_queue: "_queue.Queue[object]" = _queue.Queue()


def get_ino_t_bits() -> int:
    """Return the number of bits in an inode number."""
    return 64


def get_off_t_bits() -> int:
    """Return the number of bits in a file offset."""
    return 64


def get_sup_groups(pid: int) -> set[int]:
    """Return the supplementary groups of a process, read from /proc/PID/status.

    Raises `OSError` where there is no such process (any more).
    """
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Groups:"):
                return {int(group) for group in line.split()[1:]}
    raise RuntimeError(f"/proc/{pid}/status tells no groups")


__all__ = [
    "ENOATTR",
    "EntryAttributes",
    "FUSEError",
    "Lock",
    "NoLockManager",
    "Operations",
    "PicklingError",
    "ROOT_INODE",
    "RequestContext",
    "SetattrFields",
    "StatvfsData",
    "close",
    "default_options",
    "fse",
    "get_ino_t_bits",
    "get_off_t_bits",
    "get_sup_groups",
    "getxattr",
    "init",
    "invalidate_entry",
    "invalidate_inode",
    "listdir",
    "lock",
    "lock_released",
    "log",
    "main",
    "notify_store",
    "setxattr",
    "stop",
]
