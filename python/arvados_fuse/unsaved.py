# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What would be lost if the process ended now."""

from typing import Any

from llfuse import _core

from .collection_dir import CollectionDirectory


def names(operations: Any) -> list[str]:
    """Name the collections with something unsaved, and what an ended mount could not save.

    No lock is waited for: a save that hangs holds those of its collection.
    """
    found = [name for name, _ in operations.unsaved]
    # Not what is in collections: that would have each entry made.
    for entry in operations.inodes._added():
        if not isinstance(entry, CollectionDirectory):
            # Scratch space is not kept.
            continue
        # Not by methods that load what is not there, or wait for who has the lock.
        collection = entry._loaded_collection()
        if collection is None:
            if not _core.draft_is_unsaved(entry):
                continue
        elif collection._committed or not entry._enable_write:
            continue
        name = str(entry.collection_locator or entry.inode)
        if name not in found:
            found.append(name)
    return found
