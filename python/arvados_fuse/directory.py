# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`Directory`, the base of every kind of directory."""

from llfuse import _core

from .fresh import FreshBase


class Directory(_core.DirectoryNode, FreshBase):
    """A directory: a table of names and entries, refreshed when it is stale and somebody looks.

    `directory[name]`, `name in directory`, `len(directory)` and `items()` refresh it where that is due.
    A subclass fills `_entries` in `update()`, usually by `merge()`. An error of the API there is passed
    on: it must not look like an empty directory.
    """
