# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`Directory`, the base of every kind of directory."""

import errno
from typing import Any

import llfuse
from llfuse import _core

from .fresh import FreshBase
from .sibling_records import SiblingRecords


class Directory(_core.DirectoryNode, FreshBase):
    """A directory: a table of names and entries, refreshed when it is stale and somebody looks.

    `directory[name]`, `name in directory`, `len(directory)` and `items()` refresh it where that is due.
    A subclass fills `_entries` in `update()`, usually by `merge()`. An error of the API there is passed
    on: it must not look like an empty directory.
    """

    api: Any
    num_retries: int
    #: Whether collections are what it lists.
    _lists_collections = False
    _siblings: SiblingRecords | None = None

    def sibling_records(self, make: bool) -> SiblingRecords | None:
        """Return what is loaded of the collections that this directory lists; None where it lists none, or
        has nothing and is not to `make` it."""
        if make and self._lists_collections and self._siblings is None:
            self._siblings = SiblingRecords(self.api, self.num_retries)
        return self._siblings

    def _gone(self) -> llfuse.FUSEError:
        """The cluster has what this directory shows no more: have the directory above look again.
        Returns the error to raise."""
        if self.parent_inode in self.inodes:
            above = self.inodes[self.parent_inode]
            if above is not self and hasattr(above, "_child_is_gone"):
                above._child_is_gone(self)
        return llfuse.FUSEError(errno.ENOENT)

    def _child_is_gone(self, entry: "Directory") -> None:
        self.invalidate()
