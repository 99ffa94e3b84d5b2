# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Three file systems written against llfuse: in memory, over a real directory, and one that fails."""

import errno
import os
import stat
import time
from collections.abc import Iterator
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
        if name in self.nodes[parent].entries:
            raise FUSEError(errno.EEXIST)
        inode, self.next = self.next, self.next + 1
        self.nodes[inode] = Node(mode, rdev)
        self.nodes[parent].entries[name] = inode
        return inode

    def _find(self, parent: int, name: bytes) -> int:
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
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data

    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self.nodes[inode].xattrs[name] = value

    def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        try:
            return self.nodes[inode].xattrs[name]
        except KeyError:
            raise FUSEError(llfuse.ENOATTR) from None

    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return list(self.nodes[inode].xattrs)

    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        del self.nodes[inode].xattrs[name]


class PassthroughFS(llfuse.Operations):
    """A real directory, shown elsewhere. `OSError` is left to become an errno."""

    def __init__(self, root: str) -> None:
        self.paths = {llfuse.ROOT_INODE: os.fsencode(root)}
        self.root_inode = os.stat(root).st_ino

    def _inode(self, path: bytes) -> int:
        inode = os.lstat(path).st_ino
        inode = llfuse.ROOT_INODE if inode == self.root_inode else inode
        self.paths[inode] = path
        return inode

    def _attributes(self, path: bytes) -> llfuse.EntryAttributes:
        found = os.lstat(path)
        entry = llfuse.EntryAttributes()
        for field in (
            "st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blocks",
            "st_atime_ns", "st_mtime_ns", "st_ctime_ns",
        ):  # fmt: skip
            setattr(entry, field, getattr(found, field))
        entry.st_ino = self._inode(path)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _at(self, parent: int, name: bytes) -> bytes:
        return os.path.join(self.paths[parent], name)

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        return self._attributes(self._at(parent_inode, name))

    def getattr(self, inode: int, ctx: Any = None) -> Any:
        return self._attributes(self.paths[inode])

    def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        path = self.paths[inode]
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            os.chown(
                path,
                attr.st_uid if fields.update_uid else -1,
                attr.st_gid if fields.update_gid else -1,
            )
        if fields.update_atime or fields.update_mtime:
            old = os.lstat(path)
            os.utime(
                path,
                ns=(
                    attr.st_atime_ns if fields.update_atime else old.st_atime_ns,
                    attr.st_mtime_ns if fields.update_mtime else old.st_mtime_ns,
                ),
            )
        return self._attributes(path)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        os.mknod(self._at(parent, name), mode, rdev)
        return self.lookup(parent, name, ctx)

    def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        os.mkdir(self._at(parent, name), stat.S_IMODE(mode))
        return self.lookup(parent, name, ctx)

    def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        fd = os.open(self._at(parent, name), flags | os.O_CREAT, mode)
        return fd, self.lookup(parent, name, ctx)

    def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> Any:
        os.symlink(target, self._at(parent, name))
        return self.lookup(parent, name, ctx)

    def readlink(self, inode: int, ctx: Any) -> bytes:
        return os.readlink(self.paths[inode])

    def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> Any:
        os.link(self.paths[inode], self._at(parent, name))
        return self.lookup(parent, name, ctx)

    def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        path = self._at(parent, name)
        inode = os.lstat(path).st_ino
        os.unlink(path)
        if self.paths.get(inode) == path:
            # Another name of the same file may be left.
            for other in os.listdir(self.paths[parent]):
                if os.lstat(self._at(parent, other)).st_ino == inode:
                    self.paths[inode] = self._at(parent, other)

    def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        os.rmdir(self._at(parent, name))

    def rename(self, parent: int, name: bytes, parent_new: int, name_new: bytes, ctx: Any) -> None:
        os.rename(self._at(parent, name), self._at(parent_new, name_new))
        self._inode(self._at(parent_new, name_new))

    def open(self, inode: int, flags: int, ctx: Any) -> int:
        return os.open(self.paths[inode], flags)

    def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    def write(self, fh: int, off: int, buf: bytes) -> int:
        return os.pwrite(fh, buf, off)

    def flush(self, fh: int) -> None:
        os.close(os.dup(fh))

    def release(self, fh: int) -> None:
        os.close(fh)

    def fsync(self, fh: int, datasync: bool) -> None:
        (os.fdatasync if datasync else os.fsync)(fh)

    def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    def readdir(self, fh: int, off: int) -> Iterator[Any]:
        names = sorted(os.listdir(self.paths[fh]))
        for number, name in enumerate(names[off:], off + 1):
            yield name, self._attributes(self._at(fh, name)), number

    def releasedir(self, fh: int) -> None:
        pass

    def statfs(self, ctx: Any) -> Any:
        found = os.statvfs(self.paths[llfuse.ROOT_INODE])
        data = llfuse.StatvfsData()
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files"):
            setattr(data, field, getattr(found, field))
        data.f_namemax = 255
        return data

    def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return os.access(self.paths[inode], mode)

    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        os.setxattr(self.paths[inode], name, value)

    def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return os.getxattr(self.paths[inode], name)

    def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self.paths[inode])]

    def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        os.removexattr(self.paths[inode], name)


class RaisingFS(MemoryFS):
    """A file system whose lookups fail, each name in its own way."""

    RAISED: dict[bytes, BaseException] = {
        b"fuse": FUSEError(errno.EDQUOT),
        b"os": PermissionError(errno.EACCES, "no"),
        b"os-without-errno": OSError("odd"),
        b"not-implemented": NotImplementedError(),
        b"value": ValueError("a defect of the file system"),
        b"key": KeyError("another"),
    }
    ERRNOS = {
        "fuse": errno.EDQUOT,
        "os": errno.EACCES,
        "os-without-errno": errno.EIO,
        "not-implemented": errno.ENOSYS,
        "value": errno.EIO,
        "key": errno.EIO,
        "wrong-answer": errno.EIO,
    }

    def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        if name == b"wrong-answer":
            return "no attributes"
        raise self.RAISED[name]
