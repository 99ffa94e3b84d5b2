# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""File systems written against llfuse: in memory, over a real directory, and some that fail.

They run on any llfuse; `llfuse_server.py` serves them.
"""

import errno
import functools
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

import llfuse
from llfuse import FUSEError


class Node:
    """An inode in memory."""

    def __init__(self, mode: int, rdev: int = 0) -> None:
        self.mode, self.rdev = mode, rdev
        self.uid, self.gid, self.nlink = os.getuid(), os.getgid(), 1
        self.data = bytearray()
        self.entries: dict[bytes, int] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.atime = self.mtime = time.time_ns()


class MemoryFS(llfuse.Operations):
    """A file system in memory."""

    def __init__(self) -> None:
        self.nodes = {llfuse.ROOT_INODE: Node(stat.S_IFDIR | 0o755)}
        self.next = llfuse.ROOT_INODE + 1
        self.lookups = 0

    def _attributes(self, inode: int) -> llfuse.EntryAttributes:
        node = self.nodes[inode]
        entry = llfuse.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink = inode, node.mode, node.nlink
        entry.st_uid, entry.st_gid, entry.st_rdev = node.uid, node.gid, node.rdev
        entry.st_size = len(node.data)
        entry.st_atime_ns, entry.st_mtime_ns = node.atime, node.mtime
        entry.st_ctime_ns = node.mtime
        return entry

    def _add(self, parent: int, name: bytes, mode: int, rdev: int = 0) -> int:
        if len(name) > 255:
            raise FUSEError(errno.ENAMETOOLONG)
        if name in self.nodes[parent].entries:
            raise FUSEError(errno.EEXIST)
        inode, self.next = self.next, self.next + 1
        self.nodes[inode] = Node(mode, rdev)
        self.nodes[parent].entries[name] = inode
        return inode

    def _find(self, parent: int, name: bytes) -> int:
        if len(name) > 255:
            raise FUSEError(errno.ENAMETOOLONG)
        try:
            return self.nodes[parent].entries[name]
        except KeyError:
            raise FUSEError(errno.ENOENT) from None

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> llfuse.EntryAttributes:
        self.lookups += 1
        return self._attributes(self._find(parent_inode, name))

    def getattr(self, inode: int, ctx: Any = None) -> llfuse.EntryAttributes:
        return self._attributes(inode)

    def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        node = self.nodes[inode]
        if fields.update_size:
            if attr.st_size > 1 << 30:
                raise FUSEError(errno.EFBIG)
            del node.data[attr.st_size :]
            node.data.extend(bytes(attr.st_size - len(node.data)))
        if fields.update_mode:
            node.mode = attr.st_mode
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_atime:
            node.atime = attr.st_atime_ns
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        return self._attributes(inode)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        return self._attributes(self._add(parent, name, mode, rdev))

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        assert stat.S_ISDIR(mode)
        return self._attributes(self._add(parent, name, mode))

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        inode = self._add(parent, name, mode)
        return inode, self._attributes(inode)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
        inode = self._add(parent, name, stat.S_IFLNK | 0o777)
        self.nodes[inode].data[:] = target
        return self._attributes(inode)

    def readlink(self, inode: int, ctx: Any) -> bytes:
        return bytes(self.nodes[inode].data)

    def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> Any:
        self.nodes[parent].entries[name] = inode
        self.nodes[inode].nlink += 1
        return self._attributes(inode)

    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        inode = self._find(parent, name)
        del self.nodes[parent].entries[name]
        self.nodes[inode].nlink -= 1

    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        if self.nodes[self._find(parent, name)].entries:
            raise FUSEError(errno.ENOTEMPTY)
        self.unlink(parent, name, ctx)

    def rename(self, parent: int, name: bytes, parent_new: int, name_new: bytes, ctx: Any) -> None:
        inode = self._find(parent, name)
        replaced = self.nodes[parent_new].entries.get(name_new)
        if replaced is not None:
            if self.nodes[replaced].entries:
                raise FUSEError(errno.ENOTEMPTY)
            self.nodes[replaced].nlink -= 1
        del self.nodes[parent].entries[name]
        self.nodes[parent_new].entries[name_new] = inode

    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return inode

    def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self.nodes[fh].data[off : off + size])

    def write(self, fh: int, off: int, buf: bytes) -> int:
        data = self.nodes[fh].data
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        return len(buf)

    def flush(self, fh: int) -> None:
        pass

    def release(self, fh: int) -> None:
        pass

    def fsync(self, fh: int, datasync: bool) -> None:
        pass

    def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    def readdir(self, fh: int, off: int) -> Iterator[Any]:
        for inode_and_name in sorted((i, n) for n, i in self.nodes[fh].entries.items()):
            inode, name = inode_and_name
            if inode > off:
                yield name, self._attributes(inode), inode

    def releasedir(self, fh: int) -> None:
        pass

    def statfs(self, ctx: Any) -> Any:
        data = llfuse.StatvfsData()
        data.f_bsize, data.f_frsize, data.f_namemax = 8192, 4096, 255
        data.f_blocks, data.f_bfree, data.f_bavail = 1 << 40, 3 << 30, 5 << 20
        data.f_files, data.f_ffree, data.f_favail = 1 << 33, 7, 6
        return data

    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.nodes[inode].xattrs[name] = value

    def getxattr(self, inode: int, name: bytes, ctx: Any = None) -> bytes:
        try:
            return self.nodes[inode].xattrs[name]
        except KeyError:
            raise FUSEError(llfuse.ENOATTR) from None

    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return list(self.nodes[inode].xattrs)

    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        if self.nodes[inode].xattrs.pop(name, None) is None:
            raise FUSEError(llfuse.ENOATTR)


def fuse_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler: an `OSError` in it becomes a `FUSEError`."""

    @functools.wraps(handler)
    def wrapper(*args: Any) -> Any:
        try:
            return handler(*args)
        except OSError as error:
            raise FUSEError(error.errno) from None

    return wrapper


class PassthroughFS(llfuse.Operations):
    """A real directory, shown elsewhere."""

    STAT_FIELDS = (
        "st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks",
        "st_atime_ns", "st_mtime_ns", "st_ctime_ns",
    )  # fmt: skip
    STATFS_FIELDS = (
        "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail",
        "f_namemax",
    )  # fmt: skip

    def __init__(self, root: str) -> None:
        self.root = os.fsencode(root)
        self.root_inode = os.stat(root).st_ino
        # Every name an inode is known by; the descriptors under which it is open.
        self.paths: dict[int, list[bytes]] = {llfuse.ROOT_INODE: [self.root]}
        self.open_files: dict[int, list[int]] = {}
        self.listings: dict[int, list[bytes]] = {}

    def _path(self, inode: int) -> bytes:
        for path in self.paths.get(inode, ()):
            if os.path.lexists(path) and os.lstat(path).st_ino in (inode, self.root_inode):
                return path
        raise FUSEError(errno.ENOENT)

    def _handle(self, inode: int) -> Any:
        """Return what stands for an inode in a system call: a descriptor where no name is left."""
        try:
            return self._path(inode)
        except FUSEError:
            if not self.open_files.get(inode):
                raise
            return self.open_files[inode][0]

    def _attributes(self, found: os.stat_result) -> llfuse.EntryAttributes:
        entry = llfuse.EntryAttributes()
        for field in self.STAT_FIELDS:
            setattr(entry, field, getattr(found, field))
        if found.st_ino == self.root_inode:
            entry.st_ino = llfuse.ROOT_INODE
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _at(self, parent: int, name: bytes) -> bytes:
        return os.path.join(self._path(parent), name)

    @fuse_errors
    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        path = self._at(parent_inode, name)
        entry = self._attributes(os.lstat(path))
        known = self.paths.setdefault(entry.st_ino, [])
        if path not in known:
            known.append(path)
        return entry

    @fuse_errors
    def getattr(self, inode: int, ctx: Any = None) -> Any:
        handle = self._handle(inode)
        return self._attributes(os.fstat(handle) if isinstance(handle, int) else os.lstat(handle))

    @fuse_errors
    def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        target = self._handle(inode) if fh is None else fh
        options = {} if isinstance(target, int) else {"follow_symlinks": False}
        if fields.update_size:
            os.truncate(target, attr.st_size)
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else -1
            os.chown(target, uid, attr.st_gid if fields.update_gid else -1, **options)
        if fields.update_mode:
            os.chmod(target, stat.S_IMODE(attr.st_mode))
        if fields.update_atime or fields.update_mtime:
            old = self.getattr(inode)
            atime = attr.st_atime_ns if fields.update_atime else old.st_atime_ns
            mtime = attr.st_mtime_ns if fields.update_mtime else old.st_mtime_ns
            os.utime(target, ns=(atime, mtime), **options)
        return self.getattr(inode)

    @fuse_errors
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        os.mknod(self._at(parent, name), mode, rdev)
        return self.lookup(parent, name, ctx)

    @fuse_errors
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        os.mkdir(self._at(parent, name), stat.S_IMODE(mode))
        return self.lookup(parent, name, ctx)

    def _opened(self, inode: int, path: bytes, flags: int, mode: int = 0) -> int:
        fd = os.open(path, (flags | os.O_NOFOLLOW) & ~os.O_APPEND, mode)
        self.open_files.setdefault(inode or os.fstat(fd).st_ino, []).append(fd)
        return fd

    @fuse_errors
    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        fd = self._opened(0, self._at(parent, name), flags | os.O_CREAT, stat.S_IMODE(mode))
        return fd, self.lookup(parent, name, ctx)

    @fuse_errors
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
        os.symlink(target, self._at(parent, name))
        return self.lookup(parent, name, ctx)

    @fuse_errors
    def readlink(self, inode: int, ctx: Any) -> bytes:
        return os.readlink(self._path(inode))

    @fuse_errors
    def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> Any:
        os.link(self._path(inode), self._at(parent, name), follow_symlinks=False)
        return self.lookup(parent, name, ctx)

    @fuse_errors
    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        os.unlink(self._at(parent, name))

    @fuse_errors
    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        os.rmdir(self._at(parent, name))

    @fuse_errors
    def rename(self, parent: int, name: bytes, parent_new: int, name_new: bytes, ctx: Any) -> None:
        old, new = self._at(parent, name), self._at(parent_new, name_new)
        os.rename(old, new)
        for paths in self.paths.values():
            for index, path in enumerate(paths):
                if path == old or path.startswith(old + b"/"):
                    paths[index] = new + path[len(old) :]

    @fuse_errors
    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return self._opened(inode, self._path(inode), flags)

    @fuse_errors
    def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    @fuse_errors
    def write(self, fh: int, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    @fuse_errors
    def flush(self, fh: int) -> None:
        os.close(os.dup(fh))

    @fuse_errors
    def release(self, fh: int) -> None:
        for descriptors in self.open_files.values():
            if fh in descriptors:
                descriptors.remove(fh)
        os.close(fh)

    @fuse_errors
    def fsync(self, fh: int, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(fh)

    @fuse_errors
    def opendir(self, inode: int, ctx: Any) -> int:
        fh = max(self.listings, default=0) + 1
        self.listings[fh] = [self._path(inode), *sorted(os.listdir(self._path(inode)))]
        return fh

    @fuse_errors
    def readdir(self, fh: int, off: int) -> Iterator[Any]:
        path, *names = self.listings[fh]
        for number, name in enumerate(names[off:], off + 1):
            if os.path.lexists(os.path.join(path, name)):
                yield name, self._attributes(os.lstat(os.path.join(path, name))), number

    def releasedir(self, fh: int) -> None:
        del self.listings[fh]

    def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    @fuse_errors
    def statfs(self, ctx: Any) -> Any:
        found = os.statvfs(self.root)
        data = llfuse.StatvfsData()
        for field in self.STATFS_FIELDS:
            setattr(data, field, getattr(found, field))
        return data

    @fuse_errors
    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return os.access(self._path(inode), mode)

    @fuse_errors
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        os.setxattr(self._path(inode), name, value, follow_symlinks=False)

    @fuse_errors
    def getxattr(self, inode: int, name: bytes, ctx: Any = None) -> bytes:
        return os.getxattr(self._path(inode), name, follow_symlinks=False)

    @fuse_errors
    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return [
            os.fsencode(name) for name in os.listxattr(self._path(inode), follow_symlinks=False)
        ]

    @fuse_errors
    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        os.removexattr(self._path(inode), name, follow_symlinks=False)


class RaisingFS(MemoryFS):
    """A file system whose lookups fail, each name in its own way."""

    RAISED: dict[bytes, BaseException] = {
        b"fuse": FUSEError(errno.EDQUOT),
        b"os": PermissionError(errno.EACCES, "no"),
        b"os-without-errno": OSError("odd"),
        b"tls": ssl.SSLError(1, "an errno of OpenSSL's own"),
        b"resolver": socket.gaierror(-2, "an errno of the resolver's own"),
        b"not-implemented": NotImplementedError(),
        b"value": ValueError("a defect of the file system"),
        b"key": KeyError("another"),
    }
    ERRNOS = {
        "fuse": errno.EDQUOT,
        "os": errno.EACCES,
        "os-without-errno": errno.EIO,
        "tls": errno.EIO,
        "resolver": errno.EIO,
        "not-implemented": errno.ENOSYS,
        "value": errno.EIO,
        "key": errno.EIO,
        "wrong-answer": errno.EIO,
    }

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        if name == b"wrong-answer":
            return "no attributes"
        raise self.RAISED[name]


#: Handlers that can be made to fail, and the errno with which each does: no two with the same.
REFUSALS: dict[str, int] = {
    "lookup": errno.EHOSTUNREACH,
    "getattr": errno.ENXIO,
    "setattr": errno.E2BIG,
    "readlink": errno.ECHILD,
    "mknod": errno.ENOMEM,
    "mkdir": errno.EACCES,
    "unlink": errno.EBUSY,
    "rmdir": errno.EDEADLK,
    "symlink": errno.EXDEV,
    "rename": errno.ENODEV,
    "link": errno.EMLINK,
    "open": errno.ENFILE,
    "read": errno.EMFILE,
    "write": errno.ENOSPC,
    "flush": errno.EDQUOT,
    "fsync": errno.EFBIG,
    "opendir": errno.EROFS,
    "readdir": errno.EOVERFLOW,
    "fsyncdir": errno.ENOLCK,
    "statfs": errno.EUSERS,
    "setxattr": errno.ERANGE,
    "getxattr": errno.EBADMSG,
    "listxattr": errno.EPROTO,
    "removexattr": errno.ETIMEDOUT,
    "access": errno.ELIBBAD,
    "create": errno.ESTALE,
    "release": errno.EBADF,
    "releasedir": errno.EBADFD,
}


class RefusingFS(MemoryFS):
    """Every handler fails, at the file or in the directory that has the handler's name.

    The root has a directory and a file of each name, `fsync.dir` and `fsync.file`; attributes are not
    cached, so that every request arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[int, str] = {}
        for name in REFUSALS:
            self._add_named(name, f"{name}.dir", stat.S_IFDIR | 0o755)
            kind = stat.S_IFLNK if name == "readlink" else stat.S_IFREG
            inode = self._add_named(name, f"{name}.file", kind | 0o644)
            self.nodes[inode].data[:] = b"content"
        for name in REFUSALS:
            self._add(self._find(llfuse.ROOT_INODE, f"{name}.dir".encode()), b"d", 0o40755)
            self._add(self._find(llfuse.ROOT_INODE, f"{name}.dir".encode()), b"f", 0o100644)

    def _add_named(self, name: str, full_name: str, mode: int) -> int:
        inode = self._add(llfuse.ROOT_INODE, full_name.encode(), mode)
        self.refused[inode] = name
        return inode

    def _attributes(self, inode: int) -> llfuse.EntryAttributes:
        entry = super()._attributes(inode)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass


def _refuse(name: str) -> None:
    served = getattr(RefusingFS, name)

    @functools.wraps(served)
    def handler(self: RefusingFS, *args: Any) -> Any:
        # Handles are inode numbers here, so the first argument tells the inode either way.
        if name == "statfs" or self.refused.get(args[0]) == name:
            raise FUSEError(REFUSALS[name])
        return served(self, *args)

    setattr(RefusingFS, name, handler)


for _name in REFUSALS:
    _refuse(_name)


class BareFS(llfuse.Operations):
    """A root directory with one file in it, and no other handler than it takes to find that."""

    def getattr(self, inode: int, ctx: Any = None) -> Any:
        entry = llfuse.EntryAttributes()
        entry.st_ino, entry.st_nlink = inode, 1
        entry.st_mode = 0o40755 if inode == llfuse.ROOT_INODE else 0o100644
        entry.st_size = 7
        return entry

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        if name != b"file":
            raise FUSEError(errno.ENOENT)
        return self.getattr(2)
