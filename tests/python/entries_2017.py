# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Inode entries as programs of 2017 wrote them."""

import threading
from typing import Any

import arvados_fuse


class Entry:
    """An inode entry as a program of 2017 wrote it: no `parent_inode`, and `has_ref` wants to be told."""

    def __init__(self, size: int, uuid: str | None = None) -> None:
        self.inode: int | None = None
        self.size_, self.uuid_ = size, uuid
        self.ref_count = self.use_count = 0
        self.referenced_children = False
        self.dead = False
        self.cache_size, self.cache_uuid = 0, None
        self.cleared_by: list[int] = []
        self.invalidations = self.finalized = 0
        self._atime = 0.0

    def persisted(self) -> bool:
        return True

    def objsize(self) -> int:
        return self.size_

    def uuid(self) -> str | None:
        return self.uuid_

    def in_use(self) -> bool:
        return self.use_count > 0

    def inc_ref(self) -> int:
        self.ref_count += 1
        return self.ref_count

    def dec_ref(self, n: int) -> int:
        self.ref_count -= n
        return self.ref_count

    def has_ref(self, only_children: bool) -> bool:
        return self.referenced_children or (self.ref_count > 0 and not only_children)

    def clear(self) -> None:
        self.cleared_by.append(threading.get_ident())

    def kernel_invalidate(self) -> None:
        self.invalidations += 1

    def finalize(self) -> None:
        self.finalized += 1


class ReadableEntry(Entry):
    """One that Operations can show and open: a file with the entry's name for content."""

    allow_attr_cache = False
    allow_dirent_cache = True

    def size(self) -> int:
        return self.size_

    def atime(self) -> float:
        return self._atime

    def mtime(self) -> float:
        return 1_000_000

    def writable(self) -> bool:
        return False

    def inc_use(self) -> None:
        self.use_count += 1

    def dec_use(self) -> None:
        self.use_count -= 1

    def readfrom(self, off: int, size: int, num_retries: int) -> bytes:
        return bytes(range(self.size_))[off : off + size]


def numbered(number: int, size: int, uuid: str | None = None) -> Entry:
    made = Entry(size, uuid)
    made.inode = number
    return made


class Writable(arvados_fuse.File):
    """A file in memory."""

    def __init__(self, parent_inode: int) -> None:
        super().__init__(parent_inode)
        self.data = bytearray()
        self.flushes = 0

    def size(self) -> int:
        return len(self.data)

    def writable(self) -> bool:
        return True

    def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
        return bytes(self.data[off : off + size])

    def writeto(self, off: int, buf: bytes, num_retries: int = 0) -> int:
        self.data[off : off + len(buf)] = buf
        return len(buf)

    def flush(self) -> None:
        self.flushes += 1


class Folder(arvados_fuse.Directory):
    """A directory in memory."""

    def writable(self) -> bool:
        return True

    def create(self, name: str) -> None:
        self._entries[name] = self.inodes.add_entry(Writable(self.inode))

    def mkdir(self, name: str) -> None:
        self._entries[name] = self.inodes.add_entry(Folder(self.inode, self.inodes, True, None))

    def unlink(self, name: str) -> None:
        self.inodes.del_entry(self._entries.pop(name))

    rmdir = unlink

    def rename(self, name_old: str, name_new: str, src: Any) -> None:
        moved = src._entries.pop(name_old)
        moved.parent_inode = self.inode
        self._entries[name_new] = moved


class Failing(Folder):
    """A directory in which nothing can be made."""

    raised: BaseException

    def create(self, name: str) -> None:
        raise self.raised

    mkdir = unlink = rmdir = create

    def rename(self, name_old: str, name_new: str, src: Any) -> None:
        raise self.raised
