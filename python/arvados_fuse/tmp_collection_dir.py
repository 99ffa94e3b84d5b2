# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Scratch space in Keep: a collection that no record is made of.

The core serves and changes it (`TmpCollectionDirectory._serve`) for as long as nobody wants to see its
contents in Python; from then on they are the SDK's `Collection` (`TmpCollectionDirectory._promote`).
"""

import threading
from typing import Any

import arvados.collection
import llfuse
from llfuse import _core
from llfuse._core import done_natively, final_when_fresh

from . import sdk_hooks
from .collection_base import RECORD_FILE, CollectionDirectoryBase
from .fresh import use_counter
from .fusefile import FuncToJSONFile
from .replication import default_replication


class _RecordFile(FuncToJSONFile):
    """The file that shows the manifest: as stale as something was changed since."""

    __slots__ = ("_directory", "_seen")

    def __init__(self, directory: "TmpCollectionDirectory") -> None:
        super().__init__(directory.inode, directory.collection_record)
        self._directory = directory
        self._seen: int | None = None

    def stale(self) -> bool:
        return super().stale() or _core.draft_changes(self._directory) != self._seen

    def update(self) -> None:
        self._seen = _core.draft_changes(self._directory)
        super().update()


class TmpCollectionDirectory(CollectionDirectoryBase):
    """Scratch space in Keep: a collection that is never saved.

    Its file `.arvados#collection` shows the manifest as it is, from which a program can save a
    snapshot: what is in it is stored by then.
    """

    __slots__ = ("_api", "_num_retries", "_storage_classes", "_promoting_lock", "_promoting")

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
        # Whether the mount may write is asked elsewhere; the collection itself always can.
        super().__init__(parent_inode, inodes, True, filters, None, self)
        self._api = api_client
        self._num_retries = num_retries
        self._storage_classes = storage_classes
        self._promoting_lock = threading.RLock()
        self._promoting = False
        self._poll = False
        if not self._serve():
            self.collection = self._sdk_collection()
            self.populate(self.mtime())

    @property
    def collection(self) -> Any:
        """The SDK's collection object.

        While the core serves the contents itself there is no such object; asking for it has everything
        stored, one made of that, and an object for every file.
        """
        if _core.shows_tree(self):
            self._promote()
        return _SLOT.__get__(self)

    @collection.setter
    def collection(self, value: Any) -> None:
        _SLOT.__set__(self, value)

    def _sdk_collection(self, *manifest: str) -> Any:
        return self.UnsaveableCollection(
            *manifest,
            api_client=self._api,
            keep_client=self._api.keep,
            num_retries=self._num_retries,
            storage_classes_desired=self._storage_classes,
        )

    def _may_stay_native(self) -> bool:
        """Return whether everything that Python would be asked is as it was shipped."""
        keep = getattr(self._api, "keep", None)
        return (
            sdk_hooks.is_as_shipped(self, TmpCollectionDirectory, keep)
            and type(self).UnsaveableCollection is _UNSAVEABLE
        )

    def _serve(self) -> bool:
        """Have the core serve the contents; return False where the SDK has to."""
        if not self._may_stay_native():
            return False
        _core.show_scratch(
            self,
            sdk_hooks.reader_for(self._api.keep),
            sdk_hooks.keep_check(self._api.keep),
            [RECORD_FILE],
            default_replication(self._api),
            list(self._storage_classes or ()),
        )
        return True

    def _promote(self) -> None:
        """Serve the contents through the SDK's collection from now on. Every entry keeps its number."""
        with sdk_hooks.under_lock():
            with llfuse.lock_released:
                self._promoting_lock.acquire()
            try:
                # Populating asks for the entries, which asks for this: once is enough.
                if not self._promoting and _core.shows_tree(self):
                    self._promoting = True
                    self._promote_once()
            finally:
                self._promoting_lock.release()

    @use_counter
    def _promote_once(self) -> None:
        try:
            with llfuse.lock_released:
                # First while others go on writing: what they write meanwhile is little.
                _core.draft_manifest(self)
                _core.freeze_draft(self, True)
                manifest, _ = _core.draft_manifest(self)
                collection = self._sdk_collection(manifest)
            self.collection = collection
            self.populate(self.mtime())
            _core.supersede_tree(self)
        finally:
            _core.freeze_draft(self, False)
            self._promoting = False

    def collection_record(self) -> dict:
        if _core.shows_tree(self):
            with llfuse.lock_released:
                manifest, portable_data_hash = _core.draft_manifest(self)
            classes = list(self._storage_classes or ())
        else:
            with llfuse.lock_released:
                manifest = self.collection.manifest_text()
                portable_data_hash = self.collection.portable_data_hash()
                classes = self.collection.storage_classes_desired()
        return {
            "uuid": None,
            "manifest_text": manifest,
            "portable_data_hash": portable_data_hash,
            "storage_classes_desired": classes,
        }

    def _record_entry(self) -> Any:
        if self.collection_record_file is None:
            self.collection_record_file = _RecordFile(self)
            self.inodes.add_entry(self.collection_record_file)
        return self.collection_record_file

    create = done_natively(CollectionDirectoryBase.create)
    mkdir = done_natively(CollectionDirectoryBase.mkdir)
    unlink = done_natively(CollectionDirectoryBase.unlink)
    rmdir = done_natively(CollectionDirectoryBase.rmdir)
    rename = done_natively(CollectionDirectoryBase.rename)

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

    @done_natively
    def writable(self) -> bool:
        return True

    @done_natively
    def flush(self) -> None:
        pass

    def want_event_subscribe(self) -> bool:
        return False

    def finalize(self) -> None:
        if not _core.shows_tree(self):
            self.collection.stop_threads()

    def clear(self) -> None:
        if _core.shows_tree(self):
            _core.drop_tree(self)
            super().invalidate()
        super().clear()

    def invalidate(self) -> None:
        if self.collection_record_file:
            self.collection_record_file.invalidate()
        super().invalidate()


#: Where `TmpCollectionDirectory` keeps its collection object.
_SLOT: Any = CollectionDirectoryBase.__dict__["collection"]
_UNSAVEABLE = TmpCollectionDirectory.UnsaveableCollection


sdk_hooks.remember_kinds(TmpCollectionDirectory, _RecordFile)
