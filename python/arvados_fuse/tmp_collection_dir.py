# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Scratch space in Keep: a collection that no record is made of."""

from typing import Any

import arvados.collection
import llfuse
from llfuse._core import final_when_fresh

from .collection_base import RECORD_FILE, CollectionDirectoryBase
from .fresh import use_counter


class TmpCollectionDirectory(CollectionDirectoryBase):
    """Scratch space in Keep: a collection that is never saved.

    Its file `.arvados#collection` shows the manifest as it is, from which a program can save a
    snapshot.
    """

    class UnsaveableCollection(arvados.collection.Collection):
        """A collection whose contents go to Keep and whose record goes nowhere."""

        def save(self, *args: Any, **kwargs: Any) -> None:
            pass

        def save_new(self, *args: Any, **kwargs: Any) -> None:
            pass

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api_client: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any = None,
        storage_classes: Any = None,
    ) -> None:
        collection = self.UnsaveableCollection(
            api_client=api_client,
            keep_client=api_client.keep,
            num_retries=num_retries,
            storage_classes_desired=storage_classes,
        )
        # Whether the mount may write is asked elsewhere; the collection itself always can.
        super().__init__(parent_inode, inodes, True, filters, collection, self)
        self._poll = False
        self.populate(self.mtime())

    def collection_record(self) -> dict:
        with llfuse.lock_released:
            return {
                "uuid": None,
                "manifest_text": self.collection.manifest_text(),
                "portable_data_hash": self.collection.portable_data_hash(),
                "storage_classes_desired": self.collection.storage_classes_desired(),
            }

    @final_when_fresh
    def __contains__(self, k: object) -> bool:
        return k == RECORD_FILE or super().__contains__(k)

    @final_when_fresh
    @use_counter
    def __getitem__(self, item: str) -> Any:
        if item == RECORD_FILE:
            return self._record_entry()
        return super().__getitem__(item)

    def persisted(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def want_event_subscribe(self) -> bool:
        return False

    def finalize(self) -> None:
        self.collection.stop_threads()

    def invalidate(self) -> None:
        if self.collection_record_file:
            self.collection_record_file.invalidate()
        super().invalidate()
