# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Serves a file system of the tests, on whichever llfuse the interpreter has.

    python llfuse_server.py KIND MOUNTPOINT CALLS [DIRECTORY]

serves it until it is unmounted, and writes to the file CALLS what some of its handlers were given, a
line of JSON for each call.
"""

import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import llfuse
from llfuse_filesystems import BareFS, MemoryFS, PassthroughFS, RaisingFS, RefusingFS

#: Handlers of which the arguments are recorded: those that the kernel calls the same number of times
#: whatever it caches.
RECORDED = (
    "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "open",
    "create", "setxattr", "removexattr",
)  # fmt: skip
SET_FIELDS = ("mode", "uid", "gid", "size", "atime", "mtime")


#: Which arguments are inode numbers, where it is not the first alone. A real directory's are left out:
#: it gives those of removed files to new ones when it likes.
INODES = {"link": (1, 2), "rename": (1, 3)}


def plain(value: Any) -> Any:
    """Return an argument of a handler as JSON can say it."""
    if isinstance(value, bytes):
        return value.decode("latin-1") if len(value) < 300 else len(value)
    if isinstance(value, llfuse.SetattrFields):
        return [field for field in SET_FIELDS if getattr(value, f"update_{field}")]
    if isinstance(value, llfuse.RequestContext):
        return [value.uid, value.gid, value.pid > 0, value.umask]
    if isinstance(value, llfuse.EntryAttributes):
        return "attributes"
    return value


def recorded(kind: type, log: Any) -> type:
    """Return a class that writes to `log` what the handlers of `kind` are given."""

    def wrap(name: str) -> Callable[..., Any]:
        served = getattr(kind, name)

        @functools.wraps(served)
        def handler(self: Any, *args: Any) -> Any:
            given = [name, *map(plain, args)]
            for place in INODES.get(name, (1,)):
                given[place] = None if kind is PassthroughFS else given[place]
            if name == "setattr":
                attr, fields = args[1], given[3]
                times = [f for f in fields if f.endswith("time")]
                given[2] = [getattr(attr, f"st_{f}") for f in fields if f not in times]
                given[4] = args[3] is not None
            log.write(json.dumps(given) + "\n")
            log.flush()
            return served(self, *args)

        return handler

    return type(kind.__name__, (kind,), {name: wrap(name) for name in RECORDED})


KINDS = {
    "memory": MemoryFS,
    "passthrough": PassthroughFS,
    "refusing": RefusingFS,
    "raising": RaisingFS,
    "bare": BareFS,
}


def serve(kind: str, mountpoint: str, log: str, *arguments: str) -> None:
    """Serve a file system until it is unmounted."""
    logging.basicConfig(level=logging.ERROR)
    os.umask(0)
    with open(log, "w") as file:
        operations = recorded(KINDS[kind], file)(*arguments)
        llfuse.init(operations, mountpoint, ["fsname=test"])
        try:
            llfuse.main(workers=1)
        finally:
            llfuse.close()


if __name__ == "__main__":
    serve(*sys.argv[1:])
