# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Saving collections so that what failed once can be saved later."""

from typing import Any

from arvados.arvfile import _BufferBlock


def retry_failed_uploads(collection: Any) -> None:
    """Upload the blocks again whose upload failed before.

    The SDK keeps their data but does not try again by itself; until they are uploaded, neither
    saving nor merging remote changes can work. Raises KeepWriteError where it fails again.
    """
    manager = collection.root_collection()._block_manager
    if manager is None:
        return
    with manager.lock:
        blocks = list(manager._bufferblocks.values())
    for block in blocks:
        if block.state() == _BufferBlock.ERROR:
            manager.commit_bufferblock(block, sync=True)


def save(collection: Any) -> None:
    """Save a collection, with blocks that could not be uploaded before."""
    retry_failed_uploads(collection)
    collection.save()
