# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Saving collections so that what failed once can be saved later."""

from typing import Any

from arvados.arvfile import _BufferBlock
from arvados.errors import KeepWriteError

#: Where a block manager keeps the blocks that it handed to Keep and that are not known to have arrived.
_HANDED_OVER = "_arvados_fuse_handed_over"


def _handed_over(collection: Any, manager: Any) -> set[Any]:
    """Return the blocks of a collection whose upload may have failed.

    A temporary collection holds a block for each small file. Going through all of them whenever a file is
    closed would take longer with every file; only those that were handed over can have failed.
    """
    # Blocks are handed over under one of these two locks, and so before or after this, not meanwhile.
    with collection.lock, manager.lock:
        blocks = getattr(manager, _HANDED_OVER, None)
        if blocks is None:
            blocks = set(manager._bufferblocks.values())
            commit = manager.commit_bufferblock

            def commit_bufferblock(block: Any, sync: bool) -> None:
                blocks.add(block)
                commit(block, sync)

            manager.commit_bufferblock = commit_bufferblock
            setattr(manager, _HANDED_OVER, blocks)
    return blocks


def retry_failed_uploads(collection: Any) -> bool:
    """Upload the blocks again whose upload failed before; return whether others are under way.

    The SDK keeps their data but does not try again by itself; until they are uploaded, neither
    saving nor merging remote changes can work. Raises KeepWriteError where it fails again.
    """
    root = collection.root_collection()
    manager = root._block_manager
    if manager is None:
        return False
    blocks = getattr(manager, _HANDED_OVER, None)
    if blocks is None:
        blocks = _handed_over(root, manager)
    under_way = False
    for block in tuple(blocks):
        state = block.state()
        if state == _BufferBlock.ERROR:
            manager.commit_bufferblock(block, sync=True)
        elif state == _BufferBlock.PENDING:
            under_way = True
        else:
            blocks.discard(block)
    return under_way


def save(collection: Any) -> None:
    """Save a collection, with blocks that could not be uploaded before."""
    under_way = retry_failed_uploads(collection)
    try:
        collection.save()
    except KeepWriteError:
        # What another save had begun failed: it is this one's turn to try.
        if not under_way:
            raise
        retry_failed_uploads(collection)
        collection.save()
