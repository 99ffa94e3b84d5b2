# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Open files and directories, as objects.

The handles of a mount are kept by the core. These classes describe one (`operations._filehandles`)
and serve programs that keep handles of their own.
"""

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

    def flush(self, force: bool) -> None:
        """Save what was written; with `force`, whatever is unsaved."""


class FileHandle(Handle):
    """An open file, and the directory that is flushed along with it."""

    def __init__(self, fh: int, obj: Any, parent_obj: Any, open_for_writing: Any) -> None:
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

    def flush(self, force: bool) -> None:
        if not (self.open_for_writing or force):
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

    def flush(self, force: bool) -> None:
        self.obj.flush()
