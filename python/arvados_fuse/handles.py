# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Open files and directories, as objects.

The handles of a mount are kept by the core. `FileHandles` shows and changes its table; the other classes
describe a handle, and serve programs that keep handles of their own.
"""

from collections.abc import Iterator, MutableMapping
from typing import Any


class Handle:
    """Connects a number to the `File` or `Directory` that was opened; keeps it in use."""

    def __init__(self, fh: int, obj: Any) -> None:
        self.fh = fh
        self.obj = obj
        self.obj.inc_use()

    def release(self) -> None:
        """Let go of the object."""
        self.obj.dec_use()

    def flush(self, force: bool = False) -> None:
        """Save what was written; with `force`, whatever is unsaved."""


class FileHandle(Handle):
    """An open file, and the directory that is flushed along with it.

    `open_for_writing` tells whether closing it saves; None, as in 2017, that it does for what is writable.
    """

    def __init__(
        self, fh: int, obj: Any, parent_obj: Any = None, open_for_writing: Any = None
    ) -> None:
        super().__init__(fh, obj)
        self.parent_obj = parent_obj
        if self.parent_obj is not None:
            self.parent_obj.inc_use()
        self.open_for_writing = open_for_writing

    @classmethod
    def _of_open(cls, fh: int, obj: Any, parent_obj: Any, open_for_writing: bool) -> "FileHandle":
        described = cls.__new__(cls)
        described.fh, described.obj = fh, obj
        described.parent_obj, described.open_for_writing = parent_obj, open_for_writing
        return described

    def release(self) -> None:
        super().release()
        if self.parent_obj is not None:
            self.parent_obj.dec_use()

    def _saves(self) -> bool:
        if self.open_for_writing is None:
            return bool(self.obj.writable())
        return bool(self.open_for_writing)

    def flush(self, force: bool = False) -> None:
        if not (force or self._saves()):
            return
        self.obj.flush()
        if self.parent_obj is not None:
            self.parent_obj.flush()


class DirectoryHandle(Handle):
    """An open directory, and its listing as it was then.

    Entries that a listing names are not referenced by the kernel; being in use keeps them until
    the directory is closed.
    """

    def __init__(self, fh: int, dirobj: Any, entries: list[tuple[str, Any]]) -> None:
        super().__init__(fh, dirobj)
        self.entries = entries
        for _, entry in self.entries:
            entry.inc_use()

    @classmethod
    def _of_open(cls, fh: int, dirobj: Any, entries: list[tuple[str, Any]]) -> "DirectoryHandle":
        described = cls.__new__(cls)
        described.fh, described.obj, described.entries = fh, dirobj, entries
        return described

    def release(self) -> None:
        for _, entry in self.entries:
            entry.dec_use()
        super().release()

    def flush(self, force: bool = False) -> None:
        self.obj.flush()


class FileHandles(MutableMapping[int, Handle]):
    """The open handles of a mount: numbers to `FileHandle` and `DirectoryHandle` objects.

    Each object that is read from it is a new description. One that is put into it stands for an open
    handle from then on, with what the object says at that moment; methods that its class overrides are
    not called. Taking a handle out does not close it: as with a dict, whoever does has to `release()`.
    """

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getitem__(self, fh: int) -> Handle:
        described = self._operations._handle(fh) if isinstance(fh, int) and fh >= 0 else None
        if described is None:
            raise KeyError(fh)
        obj, parent_obj, for_writing, entries = described
        if entries is not None:
            return DirectoryHandle._of_open(fh, obj, entries)
        return FileHandle._of_open(fh, obj, parent_obj, for_writing)

    def __setitem__(self, fh: int, handle: Any) -> None:
        if isinstance(handle, DirectoryHandle):
            self._operations._set_handle(fh, handle.obj, None, False, list(handle.entries))
        elif isinstance(handle, FileHandle):
            self._operations._set_handle(fh, handle.obj, handle.parent_obj, handle._saves(), None)
        else:
            self._operations._set_handle(fh, handle.obj, None, False, None)

    def __delitem__(self, fh: int) -> None:
        if not self._operations._forget_handle(fh):
            raise KeyError(fh)

    def __iter__(self) -> Iterator[int]:
        return iter(self._operations._handle_numbers())

    def __len__(self) -> int:
        return len(self._operations._handle_numbers())

    def __repr__(self) -> str:
        return repr(dict(self))
