# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Mounts of `arvados_fuse.Operations` inside the test's own process."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import arvados_fuse
import llfuse
from conftest import force_unmount


@contextmanager
def mounted(
    path: Path,
    root: Callable[[Any], Any],
    *,
    api: Any = None,
    kind: type = arvados_fuse.Operations,
    inode_cache: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """Mount a file system whose root directory is what `root` makes of its Operations object."""
    path.mkdir(exist_ok=True)
    operations = kind(
        os.getuid(),
        os.getgid(),
        api_client=api,
        inode_cache=inode_cache or arvados_fuse.InodeCache(cap=1 << 30),
        fsns=options.pop("fsns", "_"),
        **options,
    )
    operations.inodes.add_entry(root(operations))
    llfuse.init(operations, str(path), [])
    loop = threading.Thread(target=llfuse.main, kwargs={"workers": 4})
    loop.start()
    assert operations.initlock.wait(10)
    try:
        yield operations
    finally:
        llfuse.close()
        loop.join(20)
        force_unmount(path)
        assert not loop.is_alive()


def directory(operations: Any, parent: int = llfuse.ROOT_INODE, **entries: Any) -> Any:
    """Return a plain directory."""
    return arvados_fuse.Directory(parent, operations.inodes, operations.enable_write, None)


def add(operations: Any, parent: Any, name: str, entry: Any) -> Any:
    """Put an entry into a directory."""
    parent._entries[name] = operations.inodes.add_entry(entry)
    return entry
