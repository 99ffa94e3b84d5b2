# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Mounts and unmounts many times in one process, and looks for what is left of it.

usage: soak_mounts.py MOUNT_DIR COUNT
"""

import gc
import os
import sys
import threading
from pathlib import Path
from typing import Any

import arvados_fuse
import llfuse


def walk(path: str) -> tuple[list[str], list[str]]:
    """Return the files below a directory, and what went wrong on the way: `os.walk` tells nobody."""
    errors: list[str] = []
    seen = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path, onerror=lambda error: errors.append(repr(error)))
        for name in names
    ]
    return sorted(seen), errors


def once(path: str) -> None:
    operations = arvados_fuse.Operations(
        os.getuid(),
        os.getgid(),
        api_client=None,
        inode_cache=arvados_fuse.InodeCache(1 << 20),
        fsns="_",
    )
    inodes = operations.inodes
    root = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
    for number in range(10):
        inner = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
        root._entries[f"d{number}"] = inner
        inner._entries["f"] = inodes.add_entry(arvados_fuse.StringFile(inner.inode, "text", 0))
    llfuse.init(operations, path, [])
    loop = threading.Thread(target=llfuse.main, kwargs={"workers": 4})
    loop.start()
    operations.initlock.wait()
    seen, errors = walk(path)
    expected = sorted(f"{path}/d{number}/f" for number in range(10))
    assert (seen, errors) == (expected, []), (seen, errors, os.stat(path))
    with open(os.path.join(path, "d3", "f")) as file:
        assert file.read() == "text"
    llfuse.close()
    loop.join()


def measure() -> dict[str, Any]:
    gc.collect()
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "resident KiB": resident,
        "nodes": sum(isinstance(o, arvados_fuse.FreshBase) for o in gc.get_objects()),
    }


def main() -> int:
    path, count = sys.argv[1], int(sys.argv[2])
    for _ in range(max(50, count // 10)):
        once(path)
    before = measure()
    for _ in range(count):
        once(path)
    after = measure()
    print("before:", before)
    print("after:", after)
    return not (
        after["threads"] <= before["threads"]
        and after["descriptors"] <= before["descriptors"]
        and after["nodes"] <= before["nodes"]
        # A hundred bytes a mount would be noise; a leaked inode is several hundred.
        and after["resident KiB"] - before["resident KiB"] < count * 1
    )


if __name__ == "__main__":
    sys.exit(main())
