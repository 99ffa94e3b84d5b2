# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Directories inside collections that the SDK holds: their entries follow the SDK's `Collection`."""

import errno
from typing import Any

import arvados
import arvados.collection
import llfuse
from llfuse import _core

from .directory import Directory
from .fresh import check_update, use_counter
from .fusefile import FuncToJSONFile, FuseArvadosFile

#: Name of the file that shows a collection's record.
RECORD_FILE = ".arvados#collection"


class CollectionDirectoryBase(Directory):
    """A directory inside a collection, and the base of the collection's own.

    The SDK's `Collection` holds the truth. It calls `on_event` when something is added to, removed
    from or changed in it, by whatever hand, and inodes follow.
    """

    __slots__ = ("collection", "collection_root", "collection_record_file")

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        enable_write: bool,
        filters: Any,
        collection: Any,
        collection_root: Any,
        poll_time: float = 15,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.collection = collection
        self.collection_root = collection_root
        self.collection_record_file: Any = None
        self._poll_time = poll_time

    def new_entry(self, name: str, item: Any, mtime: float) -> None:
        """Give `item` of the collection an entry; one that moved here keeps the entry it had."""
        name = self.sanitize_filename(name) or ""
        moved = getattr(item, "fuse_entry", None)
        if moved is not None:
            if moved.parent_inode is not None:
                raise Exception("an entry can only move here after it was taken from where it was")
            if moved.inode is None:
                raise Exception("an entry that moves must still have its inode")
            moved.parent_inode = self.inode
            self._entries[name] = moved
        elif isinstance(item, arvados.collection.RichCollectionBase):
            directory = self._add_entry(
                name,
                CollectionDirectoryBase(
                    self.inode,
                    self.inodes,
                    self._enable_write,
                    self._filters,
                    item,
                    self.collection_root,
                    poll_time=self._poll_time,
                ),
            )
            self._entries[name] = directory
            directory.populate(mtime)
        else:
            self._entries[name] = self._add_entry(
                name,
                FuseArvadosFile(
                    self.inode, item, mtime, self._enable_write, self._poll, self._poll_time
                ),
            )
        item.fuse_entry = self._entries[name]

    def _add_entry(self, name: str, entry: Any) -> Any:
        # What takes the place of something that the core served keeps its number.
        number = _core.number_in_tree(self.collection_root, self.inode, name)
        return self.inodes._add_entry_as(entry, number)

    def on_event(self, event: Any, collection: Any, name: str, item: Any) -> None:
        """Follow a change that the collection tells of.

        It also tells of files that were removed or replaced and are still open. What the name leads
        to is decided by what the collection has under it now, never by what the event is about.
        """
        if collection is not self.collection:
            return
        if event in (arvados.collection.ADD, arvados.collection.DEL):
            self._follow_name(name)
        elif event == arvados.collection.MOD:
            self._modified(name, item[1])
        self._record_changed()

    def _modified(self, name: str, item: Any) -> None:
        """Follow that `item` was changed, or came under `name` in place of another."""
        self._follow_name(name)
        # One that was removed or moved is still looked at by whoever has it open.
        entry = getattr(item, "fuse_entry", None)
        if entry is not None:
            entry.invalidate()
            self.inodes.invalidate_inode(entry)

    def _follow_name(self, name: str) -> None:
        """Have `name` lead to what the collection has under it."""
        # The collection calls under its lock.
        item = self.collection[name] if name in self.collection else None  # noqa: SIM401
        name = self.sanitize_filename(name) or ""
        entry = self._entries.get(name)
        if entry is not None:
            if not isinstance(entry, _SHOWN) or (item is not None and _item_of(entry) is item):
                return
            del self._entries[name]
            self.inodes.invalidate_entry(self, name)
            self.inodes.del_entry(entry)
        if item is not None:
            # The kernel need not be told of a new name: that there is none, it asks each time.
            self.new_entry(name, item, self.mtime())

    def _record_changed(self) -> None:
        if self.collection_record_file is not None:
            self.collection_record_file.invalidate()
            self.inodes.invalidate_inode(self.collection_record_file)

    def _record_entry(self) -> Any:
        """Return the file that shows the record; it is made when somebody first asks for it."""
        if self.collection_record_file is None:
            self.collection_record_file = FuncToJSONFile(self.inode, self.collection_record)
            self.inodes.add_entry(self.collection_record_file)
        return self.collection_record_file

    def _unlisted(self) -> list[tuple[str, Any]]:
        record = self.collection_record_file
        return [] if record is None else [(RECORD_FILE, record)]

    def collection_record(self) -> Any:
        """Return what the record file shows."""
        raise NotImplementedError()

    def populate(self, mtime: float) -> None:
        """Make an entry for everything in the collection, and follow its changes."""
        self._mtime = mtime
        with self.collection.lock:
            self.collection.subscribe(self.on_event)
            for name, item in self.collection.items():
                self.new_entry(name, item, self.mtime())

    def writable(self) -> bool:
        return self._enable_write and self.collection.writable()

    @use_counter
    def flush(self) -> None:
        self.collection_root.flush()

    def _must_be_writable(self) -> None:
        if not self.writable():
            raise llfuse.FUSEError(errno.EROFS)

    @use_counter
    @check_update
    def create(self, name: str) -> None:
        self._must_be_writable()
        with llfuse.lock_released:
            self.collection.open(name, "w").close()

    @use_counter
    @check_update
    def mkdir(self, name: str) -> None:
        self._must_be_writable()
        with llfuse.lock_released:
            self.collection.mkdirs(name)

    @use_counter
    @check_update
    def unlink(self, name: str) -> None:
        self._must_be_writable()
        with llfuse.lock_released:
            self.collection.remove(name)
        self.flush()

    @use_counter
    @check_update
    def rmdir(self, name: str) -> None:
        self.unlink(name)

    @use_counter
    @check_update
    def rename(self, name_old: str, name_new: str, src: Any) -> None:
        self._must_be_writable()
        if not isinstance(src, CollectionDirectoryBase):
            raise llfuse.FUSEError(errno.EPERM)
        replaced = None
        if name_new in self:
            replaced = self[name_new]
        if replaced is not None:
            self._check_replacing(src[name_old], replaced)
        with llfuse.lock_released:
            if isinstance(replaced, CollectionDirectoryBase):
                # The SDK would move into a directory that is there, not over it.
                self.collection.remove(name_new)
            self.collection.rename(
                name_old, name_new, source_collection=src.collection, overwrite=True
            )
        self.flush()
        src.flush()

    @staticmethod
    def _check_replacing(moving: Any, replaced: Any) -> None:
        moving_dir = isinstance(moving, CollectionDirectoryBase)
        replaced_dir = isinstance(replaced, CollectionDirectoryBase)
        if moving_dir and replaced_dir:
            if len(replaced) > 0:
                raise llfuse.FUSEError(errno.ENOTEMPTY)
        elif moving_dir and isinstance(replaced, FuseArvadosFile):
            raise llfuse.FUSEError(errno.ENOTDIR)
        elif replaced_dir and isinstance(moving, FuseArvadosFile):
            raise llfuse.FUSEError(errno.EISDIR)

    def clear(self) -> None:
        super().clear()
        if self.collection is not None:
            self.collection.unsubscribe()
        self.collection = None

    def objsize(self) -> int:
        # The whole collection is counted at its root.
        return 0


#: Kinds of entry that stand for an item of a collection.
_SHOWN = (CollectionDirectoryBase, FuseArvadosFile)


def _item_of(entry: Any) -> Any:
    """Return what `entry` stands for: a file or a directory of the SDK's."""
    return entry.arvfile if isinstance(entry, FuseArvadosFile) else entry.collection
