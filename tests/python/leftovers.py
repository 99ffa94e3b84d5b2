# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What a run of tests left behind in a folder: mounts, and processes that serve them."""

import subprocess
from pathlib import Path

from arvados_fuse.unmount import mountinfo


def is_mounted(path: object) -> bool:
    """Return whether something is mounted at exactly this path."""
    return any(mount.path == str(path) for mount in mountinfo())


def force_unmount(path: object) -> None:
    """Unmount all that is mounted at a path, whoever uses it."""
    while is_mounted(path):
        done = subprocess.run(["fusermount3", "-u", "-z", str(path)], capture_output=True)
        if done.returncode:
            subprocess.run(["umount", "-l", str(path)], capture_output=True)


def unmount_below(folder: Path) -> list[str]:
    """Unmount what is mounted in a folder; return where it was."""
    left = [mount.path for mount in mountinfo() if mount.path.startswith(f"{folder}/")]
    for path in left:
        force_unmount(path)
    return left


def running_in(folder: Path) -> list[str]:
    """Return the processes, mounts and clusters, whose command line names the folder."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [
        line
        for line in listed.splitlines()
        if f"{folder}/" in line and ("arv-mount" in line or "localcluster" in line)
    ]
