# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`Operations`: the requests that a file system can answer.

Names (of files, links, extended attributes) are bytes. Handlers run under `llfuse.lock`. One that
is not overridden fails with ENOSYS, after which the kernel may stop asking.
"""

import errno
import logging
import sys
import traceback
from collections.abc import Iterable
from typing import Any, NoReturn

from ._errors import FUSEError

_logger = logging.getLogger("llfuse")


def _unsupported() -> NoReturn:
    raise FUSEError(errno.ENOSYS)


class Operations:
    """Base class of file systems. `ctx` is the caller, a `RequestContext`."""

    def init(self) -> None:
        """The session begins; no other request came before."""

    def destroy(self) -> None:
        """The session has ended; no other request comes."""

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        """Return the `EntryAttributes` of `name`, and count one reference to it."""
        _unsupported()

    def forget(self, inode_list: Iterable[tuple[int, int]]) -> None:
        """Take away references: pairs of inode and count."""

    def getattr(self, inode: int, ctx: Any) -> Any:
        """Return the `EntryAttributes` of an inode."""
        _unsupported()

    def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        """Change the attributes that `fields` marks to those of `attr`; return the new ones."""
        _unsupported()

    def readlink(self, inode: int, ctx: Any) -> bytes:
        """Return the target of a symbolic link."""
        _unsupported()

    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        """Make a node and return its attributes; counts one reference."""
        _unsupported()

    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        """Make a directory and return its attributes; counts one reference."""
        _unsupported()

    def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        """Remove a file."""
        _unsupported()

    def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        """Remove an empty directory."""
        _unsupported()

    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        """Make a symbolic link and return its attributes; counts one reference."""
        _unsupported()

    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        ctx: Any,
    ) -> None:
        """Rename, replacing what is there."""
        _unsupported()

    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        """Make a hard link and return its attributes; counts one reference."""
        _unsupported()

    def open(self, inode: int, flags: int, ctx: Any) -> int:
        """Open a file; return a handle."""
        _unsupported()

    def read(self, fh: int, off: int, size: int) -> bytes:
        """Return up to `size` bytes from `off`; fewer only at the end of the file."""
        _unsupported()

    def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write at `off`; return how many bytes."""
        _unsupported()

    def flush(self, fh: int) -> None:
        """A descriptor of the handle was closed."""
        _unsupported()

    def release(self, fh: int) -> None:
        """The last descriptor of the handle was closed."""
        _unsupported()

    def fsync(self, fh: int, datasync: bool) -> None:
        """Make what was written durable."""
        _unsupported()

    def opendir(self, inode: int, ctx: Any) -> int:
        """Open a directory; return a handle."""
        _unsupported()

    def readdir(self, fh: int, off: int) -> Iterable[tuple[bytes, Any, int]]:
        """Yield name, attributes and next offset of each entry from `off` on. Counts nothing."""
        _unsupported()

    def releasedir(self, fh: int) -> None:
        """The directory was closed."""
        _unsupported()

    def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Make changes to a directory durable."""
        _unsupported()

    def statfs(self, ctx: Any) -> Any:
        """Return a `StatvfsData` object."""
        _unsupported()

    def stacktrace(self) -> None:
        """Log the stack of every thread; asked for by setting the extended attribute
        `fuse_stacktrace` of the mount point."""
        lines = []
        for ident, frame in sys._current_frames().items():
            lines.append(f"thread {ident}:")
            lines.extend(line.rstrip() for line in traceback.format_stack(frame))
        _logger.error("\n".join(lines))

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        """Set an extended attribute."""
        _unsupported()

    def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        """Return an extended attribute; `FUSEError(ENOATTR)` where there is none."""
        _unsupported()

    def listxattr(self, inode: int, ctx: Any) -> Iterable[bytes]:
        """Return the names of the extended attributes."""
        _unsupported()

    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        """Remove an extended attribute."""
        _unsupported()

    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        """Return whether the caller may access the inode; `mode` as in access(2)."""
        _unsupported()

    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[int, Any]:
        """Make a file and open it; return its handle and attributes. Counts one reference."""
        _unsupported()
