# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Taking FUSE mounts away, also ones that no longer answer.

Nothing here asks a mounted file system anything before it is known to answer: lstat() on a dead
mount point hangs.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple


class MountInfo(NamedTuple):
    """A line of the mount table."""

    is_fuse: bool
    major: str
    minor: str
    mnttype: str
    path: str


_OCTAL = re.compile(r"\\([0-7]{3})")


def _unescape(field: str) -> str:
    """Undo the octal escapes of the mount table (space, tab, newline, backslash)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def mountinfo() -> list[MountInfo]:
    """Return the mounts that this process sees."""
    mounts = []
    with open("/proc/self/mountinfo") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            _, _, device, _, path = fields.split(" ")[:5]
            major, _, minor = device.partition(":")
            mnttype = rest.split(" ", 1)[0]
            mounts.append(
                MountInfo(
                    is_fuse=mnttype == "fuse" or mnttype.startswith("fuse."),
                    major=major,
                    minor=minor,
                    mnttype=mnttype,
                    path=_unescape(path),
                )
            )
    return mounts


def paths_to_unmount(path: str, mnttype: str | None) -> list[str]:
    """Return the mount points at and below `path`.

    Raises Exception where one of them is not a FUSE mount, or not of type `mnttype` if given.
    """
    paths = []
    for mount in mountinfo():
        if mount.path != path and not mount.path.startswith(path + "/"):
            continue
        if not mount.is_fuse or mnttype not in (None, mount.mnttype):
            raise Exception(f"cannot unmount {path}: mount type is {mount.mnttype}")
        paths.append(mount.path)
    return paths


def safer_realpath(path: str, loop: bool = True) -> tuple[str, bool]:
    """Resolve symbolic links as far as that is possible with readlink() alone.

    Returns the path, and whether it is fully resolved.
    """
    if path == "/":
        return path, True
    if not path.startswith("/"):
        path = os.path.abspath(path)
    while True:
        path = path.rstrip("/")
        dirname, basename = os.path.split(path)
        try:
            path, resolved = safer_realpath(os.path.join(dirname, os.readlink(path)), loop=False)
        except OSError as error:
            # No symbolic link (EINVAL), or nothing that can be looked at.
            dirname, resolved = safer_realpath(dirname, loop=loop)
            path = os.path.join(dirname, basename)
            if resolved and error.errno == errno.EINVAL:
                return os.path.normpath(path), True
            return path, False
        except RecursionError:
            if not loop:
                # Back to where the first link was followed.
                raise
            # The links go in a circle; the directory itself may still be resolved.
            dirname, _ = safer_realpath(dirname, loop=loop)
            return os.path.join(dirname, basename), False


def _helper() -> str:
    for name in ("fusermount", "fusermount3"):
        if shutil.which(name):
            return name
    raise Exception(
        "cannot unmount: neither fusermount nor fusermount3 is installed "
        "(Debian's package fuse3 has them)"
    )


def detach(path: str) -> subprocess.CompletedProcess:
    """Take a mount out of the tree, whether or not it is in use. Returns how that went."""
    return subprocess.run(
        [_helper(), "-u", "-z", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _abort(minor: str) -> None:
    """End the conversation of a mount with its server, dead or alive."""
    try:
        with open(f"/sys/fs/fuse/connections/{minor}/abort", "w") as control:
            control.write("1")
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _fuse_mount_at(path: str, mnttype: str | None) -> MountInfo | None:
    for mount in mountinfo():
        if mount.path == path and mount.is_fuse and mnttype in (None, mount.mnttype):
            return mount
    return None


def unmount(
    path: str, subtype: str | None = None, timeout: float | None = 10, recursive: bool = False
) -> bool:
    """Unmount the FUSE mount at `path`; with `recursive`, all at and below it.

    The server of the mount is cut off, then the mount point is freed, until it is gone from the
    mount table. With `subtype`, only a mount of type `fuse.SUBTYPE` (`fuse` where it is empty) counts.

    Returns True when it was unmounted, False where there was no such mount. Raises Exception where
    it cannot be unmounted within `timeout` seconds.
    """
    path, _ = safer_realpath(path)
    mnttype = None
    if subtype is not None:
        mnttype = "fuse." + subtype if subtype else "fuse"
    if recursive:
        paths = paths_to_unmount(path, mnttype)
        if not paths:
            # Perhaps there are links in the path that only stat() can resolve.
            paths = paths_to_unmount(os.path.realpath(path), mnttype)
        for each in sorted(paths, key=len, reverse=True):
            unmount(each, timeout=timeout)
        return bool(paths)

    mount = _fuse_mount_at(path, mnttype)
    if mount is None:
        # As above; there is no mount at the path as it is written, so that stat() is safe now.
        path = os.path.realpath(path)
        mount = _fuse_mount_at(path, mnttype)
        if mount is None:
            return False
    deadline = None if timeout is None else time.time() + timeout
    while True:
        _abort(mount.minor)
        done = detach(path)
        mount = _fuse_mount_at(path, mnttype)
        if mount is None:
            return True
        sys.stderr.buffer.write(done.stdout)
        pause = 0.2
        if deadline is not None:
            pause = min(pause, deadline - time.time())
            if pause <= 0:
                raise Exception(f"cannot unmount {path}: still mounted after {timeout} seconds")
        time.sleep(pause)
