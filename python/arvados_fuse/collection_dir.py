# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections as directories.

The core serves a collection's contents itself for as long as nobody wants to see them in Python or to
change them (`sdk_hooks`, `CollectionDirectory._show`); from then on they are the SDK's `Collection`, with
an object for each entry (`CollectionDirectory._take_over`).
"""

import contextlib
import errno
import itertools
import logging
import threading
from collections.abc import Iterator
from typing import Any

import arvados
import arvados.collection
import arvados.errors
import llfuse
from arvados.util import uuid_pattern
from llfuse import _core
from llfuse._core import done_natively, final_when_fresh

from . import listing, sdk_hooks
from .api_requests import is_ours
from .apierrors import is_not_found
from .collection_base import RECORD_FILE, CollectionDirectoryBase
from .directory import Directory
from .event_clients import Change
from .fresh import check_update, convertTime, use_counter
from .fusefile import FuseArvadosFile
from .known_record import KnownRecord, Saved, Update
from .replication import default_replication
from .reports import report
from .sibling_records import SiblingRecord, SiblingRecords
from .upload_retry import retry_failed_uploads, save

_logger = logging.getLogger("arvados.arvados_fuse")


class CollectionDirectory(CollectionDirectoryBase):
    """The root of a collection, loaded from the API and saved there.

    `collection_record` is a record (dict), a uuid or a portable data hash. One named by uuid may
    change: it is looked at again after `poll_time` seconds. One named by hash cannot: it is only
    looked at again before its block signatures expire.
    """

    __slots__ = (
        "api",
        "num_retries",
        "collection_locator",
        "_manifest_size",
        "_writable",
        "_updating_lock",
        "_promoting",
        "_record",
    )

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any = None,
        collection_record: Any = None,
        poll_time: float = 15,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters, None, self)
        self.api = api
        self.num_retries = num_retries
        self._poll = True
        if isinstance(collection_record, dict):
            self.collection_locator = collection_record["uuid"]
            self._mtime = convertTime(collection_record.get("modified_at"))
        else:
            self.collection_locator = collection_record
            self._mtime = 0
        by_uuid = self._named_by_uuid()
        self._poll_time = poll_time if by_uuid else self._signature_half_life(api)
        self._writable = by_uuid and enable_write
        self._manifest_size = 0
        self._updating_lock = threading.RLock()
        self._promoting = False
        self._record = KnownRecord(api, num_retries)

    @property
    def collection(self) -> Any:
        """The SDK's collection object; None before the first look at the contents.

        While the core serves the contents itself there is no such object; asking for it has one
        loaded, and an object made for every file.
        """
        if _core.shows_tree(self):
            self._promote()
        return self._loaded_collection()

    @collection.setter
    def collection(self, value: Any) -> None:
        _SLOT.__set__(self, value)

    def _loaded_collection(self) -> Any:
        return _SLOT.__get__(self)

    def _named_by_uuid(self) -> bool:
        locator = self.collection_locator
        return locator is not None and uuid_pattern.match(locator) is not None

    @staticmethod
    def _signature_half_life(api: Any) -> int:
        try:
            return api._rootDesc.get("blobSignatureTtl", 60 * 60 * 2) // 2
        except Exception as error:
            _logger.debug("no blobSignatureTtl in the discovery document: %s", error)
            return 60 * 60

    def same(self, i: dict) -> bool:
        """Return whether record `i` is the one that this directory shows."""
        return self.collection_locator in (i["uuid"], i["portable_data_hash"])

    @done_natively
    def writable(self) -> bool:
        if not self._enable_write:
            return False
        collection = self._loaded_collection()
        return collection.writable() if collection is not None else self._writable

    @done_natively
    @use_counter
    def flush(self) -> None:
        """Save what was changed, or see what others changed. Sends no write where there is nothing
        to save."""
        with llfuse.lock_released:
            with self._updating_lock:
                collection = self._loaded_collection()
                if collection is None:
                    if _core.draft_is_unsaved(self):
                        _core.save_draft(self)
                    elif _core.shows_tree(self):
                        self._look()
                    return
                if collection.committed() or not self.writable():
                    collection.update()
                else:
                    save(collection)
                self.new_collection_record(collection.api_response())

    def _save_update(self, *of_update: Any) -> Saved | None:
        """Have the record become what the core says, with the fields of an `Update`. Return None where that
        is for another version. Called in a thread that saves, without `llfuse.lock`.
        """
        update = Update(*of_update)
        stale = self.stale()
        if stale and not update.only_removes_files:
            return None
        try:
            saved = self._record.update(update)
        except Exception:
            # It may have been made all the same.
            self.invalidate()
            raise
        if saved is None:
            return None
        self._record_changed()
        if stale or saved.contested is not None:
            self.invalidate()
            return saved._replace(
                contested=saved.at if saved.contested is None else saved.contested
            )
        self.fresh()
        return saved

    def changed_elsewhere(self, change: Change) -> None:
        """Somebody else changed the collection just now."""
        self.invalidate()
        _core.changed_elsewhere(self, change.at)

    def is_known(self, change: Change) -> bool:
        """Return whether an event of that change tells nothing new of the contents."""
        return self._record.is_known(change)

    def want_event_subscribe(self) -> bool:
        return self._named_by_uuid()

    def new_collection(self, new_collection_record: dict, coll_reader: Any) -> None:
        """Show another collection object."""
        if _core.shows_tree(self):
            # What is not saved goes along.
            unsaved = None
            if _core.draft_is_unsaved(self):
                with self._lock_released():
                    unsaved = self._end_saving()
            self._take_over(new_collection_record, coll_reader, unsaved)
            return
        if self.inode:
            self.clear()
        self.collection = coll_reader
        self.new_collection_record(new_collection_record)
        self.populate(self.mtime())

    def _take_over(
        self, record: dict, collection: Any, unsaved: tuple[str, str] | None = None
    ) -> None:
        """Have `collection` take the place of what the core serves; every entry keeps its number.

        `unsaved` is what is to be changed in it: manifests of what was and what is to be."""
        promoting, self._promoting = self._promoting, True
        try:
            # Both show the same version before the one takes the other's place.
            self._show(record)
            self.collection = collection
            if unsaved is not None:
                _take_over_unsaved(collection, *unsaved)
            self.populate(self.mtime())
            _core.supersede_tree(self)
            self.inodes.inode_cache.update_cache_size(self)
        finally:
            self._promoting = promoting

    def new_collection_record(self, new_collection_record: dict) -> None:
        """Take over what a newer record of the collection says."""
        if not new_collection_record:
            raise Exception("invalid new_collection_record")
        self._mtime = convertTime(new_collection_record.get("modified_at"))
        self._record.uuid = new_collection_record["uuid"]
        self._record.hash = new_collection_record.get("portable_data_hash")
        self._manifest_size = len(new_collection_record["manifest_text"])
        self.collection_locator = new_collection_record["uuid"]
        self._record_changed()
        self.inodes.update_uuid(self)
        self.inodes.inode_cache.update_cache_size(self)
        self.fresh()

    def uuid(self) -> str | None:
        return self.collection_locator

    @use_counter
    def update(self) -> bool:
        """Load the collection, or what changed in it since.

        Raises FUSEError(ENOENT) where there is no such collection; returns False instead where
        something in it is not saved yet.
        """
        if self.collection_locator is None:
            # Nowhere to load it from.
            self.fresh()
            return True
        with llfuse.lock_released:
            self._updating_lock.acquire()
        try:
            if not self.stale():
                return True
            if self._update_natively():
                return True
            with llfuse.lock_released:
                record, collection = self._fetch()
            if collection is not None:
                self.new_collection(record, collection)
            else:
                self.new_collection_record(record)
            return True
        except arvados.errors.ArgumentError as error:
            _logger.error("collection %s has a bad manifest: %s", self.collection_locator, error)
            self.invalidate()
            raise llfuse.FUSEError(errno.EIO) from error
        except Exception as error:
            self.invalidate()
            if is_not_found(error):
                report(f"collection {self.collection_locator} is not there any more", "warn")
                if not self._is_unsaved():
                    raise self._gone() from error
                # What is unsaved can still be read.
                return False
            raise
        finally:
            self._updating_lock.release()

    def _is_unsaved(self) -> bool:
        collection = self._loaded_collection()
        if collection is None:
            return _core.draft_is_unsaved(self)
        return not collection.committed()

    def _fetch(self) -> tuple[dict, Any]:
        """Return the record, and a new collection object unless there is one already."""
        collection = self._loaded_collection()
        if collection is not None:
            if not collection.committed():
                retry_failed_uploads(collection)
            try:
                collection.update()
            except arvados.errors.KeepWriteError:
                # One that was under way just then failed.
                retry_failed_uploads(collection)
                collection.update()
            return collection.api_response(), None
        collection = self._open_collection()
        # One that is loaded from Keep alone has no record: put together what is needed of it.
        record = self._completed(collection.api_response() or {})
        if "manifest_text" not in record:
            record["manifest_text"] = collection.manifest_text()
        if "storage_classes_desired" not in record:
            record["storage_classes_desired"] = collection.storage_classes_desired()
        return record, collection

    def _open_collection(self) -> Any:
        kind = (
            arvados.collection.Collection
            if self._named_by_uuid()
            else arvados.collection.CollectionReader
        )
        return kind(self.collection_locator, self.api, self.api.keep, num_retries=self.num_retries)

    def _may_stay_native(self) -> bool:
        """Return whether everything that Python would be asked is as it was shipped."""
        keep = getattr(self.api, "keep", None)
        return sdk_hooks.is_as_shipped(self, CollectionDirectory, keep)

    def _update_natively(self) -> bool:
        """Have the core serve the contents; return False where the SDK has to."""
        if self._loaded_collection() is not None or not self._may_stay_native():
            return False
        try:
            return self._look()
        except Exception as error:
            # One that is named by its hash may also be found in Keep alone: the SDK looks.
            if self._named_by_uuid() or not is_not_found(error):
                raise
            return False

    def _look(self) -> bool:
        """Have the core show the newest version; return False where it cannot show that."""
        for _ in range(_LOOKS):
            siblings = self._loaded_together(make=True)
            wanted = siblings.wanted(self.collection_locator, self._following()) if siblings else []
            with self._lock_released():
                since = _core.await_saves(self)
                loaded = siblings.get(self.collection_locator, wanted) if siblings else None
                record = self._get_record(loaded)
            shown = self._show(record, since)
            if loaded is not None:
                # It is looked at again as though it had been asked for alone.
                self._last_update = loaded.asked
            if shown is not None:
                return shown
        # Saved again and again: what it shows is new enough.
        self.fresh()
        return True

    def _loaded_together(self, make: bool) -> SiblingRecords | None:
        """Return what is loaded of the listing that this is in; None where nothing is loaded together."""
        is_new = self._loaded_collection() is None and not _core.shows_tree(self)
        if not (is_new and self._named_by_uuid() and is_ours(self.api)):
            return None
        if self.parent_inode not in self.inodes:
            return None
        above = self.inodes[self.parent_inode]
        return above.sibling_records(make) if isinstance(above, Directory) else None

    def _following(self) -> Iterator[str]:
        """Yield the uuids of those that follow this in the listing, and are not loaded."""
        entries = iter(self.inodes[self.parent_inode]._entries.values())
        for entry in itertools.dropwhile(lambda entry: entry is not self, entries):
            if entry is not self and isinstance(entry, CollectionDirectory):
                is_new = entry._loaded_collection() is None and not _core.shows_tree(entry)
                if is_new and entry._named_by_uuid():
                    yield entry.collection_locator

    @staticmethod
    def _lock_released() -> Any:
        return llfuse.lock_released if _core.holds_lock() else contextlib.nullcontext()

    def _get_record(self, loaded: SiblingRecord | None = None) -> dict:
        record = self._record.take(loaded) if loaded else self._record.get(self.collection_locator)
        fields = {"manifest_text": str}
        return self._completed(listing.record(record, f"{self.collection_locator}", fields))

    def _completed(self, record: dict) -> dict:
        # What is named by its hash alone has no record of its own.
        record.setdefault("uuid", self.collection_locator)
        record.setdefault("portable_data_hash", record["uuid"])
        return record

    def _show(self, record: dict, since: int | None = None) -> bool | None:
        """Have the core show a version, which was asked for after `since` saves. Return False where it
        cannot, and None where the version may be older than what was saved meanwhile."""
        text, mtime = record["manifest_text"], float(convertTime(record.get("modified_at")))
        shown: bool = True
        try:
            if _core.shows_tree(self):
                if not _core.follow_tree(self, text, mtime, since):
                    return None
            else:
                classes = record.get("storage_classes_desired") or []
                shown = _core.show_tree(
                    self,
                    text,
                    mtime,
                    sdk_hooks.reader_for(self.api.keep),
                    sdk_hooks.keep_check(self.api.keep),
                    self.writable(),
                    [RECORD_FILE],
                    record.get("replication_desired") or default_replication(self.api),
                    classes,
                )
        except ValueError as error:
            raise arvados.errors.ArgumentError(str(error)) from error
        if shown:
            self.new_collection_record(record)
        return shown

    def _renew_signatures(self) -> bool:
        self.invalidate()
        try:
            return self.update()
        except llfuse.FUSEError:
            # Told already.
            return False

    def _promote(self) -> None:
        """Serve the contents through the SDK's collection from now on: Python asked for it, or
        something is to be changed. Every entry keeps its number."""
        with sdk_hooks.under_lock():
            self._promote_under_lock()

    @use_counter
    def _promote_under_lock(self) -> None:
        with llfuse.lock_released:
            self._updating_lock.acquire()
        # Populating asks for the entries, which asks for this: once is enough.
        if self._promoting or not _core.shows_tree(self):
            self._updating_lock.release()
            return
        try:
            with llfuse.lock_released:
                unsaved = self._end_saving()
                collection = self._open_collection()
            self._take_over(self._completed(collection.api_response()), collection, unsaved)
        finally:
            _core.freeze_draft(self, False)
            self._updating_lock.release()

    def _end_saving(self) -> tuple[str, str] | None:
        """Save what was changed, for the last time; return what could not be saved."""
        try:
            _core.save_draft(self)
        except llfuse.FUSEError as error:
            _logger.debug(
                "%s is taken over with unsaved changes: %s", self.collection_locator, error
            )
        _core.freeze_draft(self, True)
        return _core.unsaved_manifests(self)

    @use_counter
    @check_update
    def collection_record(self) -> Any:
        if _core.shows_tree(self):
            with llfuse.lock_released:
                _core.save_draft(self)
                since = _core.await_saves(self)
                record = self._get_record()
            if self._show(record, since) is None:
                self.invalidate()
            return record
        self.flush()
        return self.collection.api_response()

    @final_when_fresh
    @use_counter
    @check_update
    def __getitem__(self, item: str) -> Any:
        if item == RECORD_FILE:
            record = self._record_entry()
            # Whoever looks at it wants to know how things stand now.
            self.invalidate()
            return record
        return super().__getitem__(item)

    @final_when_fresh
    def __contains__(self, k: object) -> bool:
        return k == RECORD_FILE or super().__contains__(k)

    def invalidate(self) -> None:
        self._record_changed()
        super().invalidate()
        siblings = self._loaded_together(make=False)
        if siblings is not None:
            siblings.forget(self.collection_locator)

    def persisted(self) -> bool:
        return self.collection_locator is not None

    def objsize(self) -> int:
        # Python objects for a file take about eight times what the manifest says about it.
        return _core.tree_memory(self) or self._manifest_size * 8

    def finalize(self) -> None:
        """Save what is unsaved. A failure is raised: the data stays, to be saved later."""
        collection = self._loaded_collection()
        if collection is None:
            _core.save_draft(self)
            return
        if self.writable() and not collection.committed():
            save(collection)
        collection.stop_threads()

    def clear(self) -> None:
        if _core.shows_tree(self):
            _core.drop_tree(self)
            super().invalidate()
        if self.collection is not None:
            self.collection.stop_threads()
        self._manifest_size = 0
        super().clear()
        self.inodes.inode_cache.update_cache_size(self)
        if self.collection_record_file is not None:
            self.inodes.del_entry(self.collection_record_file)
        self.collection_record_file = None


#: How often a version is asked for that is outdated when it comes.
_LOOKS = 5


def _take_over_unsaved(collection: Any, base: str, ours: str) -> None:
    """Make the changes from one manifest to another in the SDK's collection."""
    reader = arvados.collection.CollectionReader
    options = {"api_client": collection._api_client, "keep_client": collection._keep_client}
    collection.apply(reader(base, **options).diff(reader(ours, **options)))


#: Where `CollectionDirectory` keeps its collection object.
_SLOT: Any = CollectionDirectoryBase.__dict__["collection"]


sdk_hooks.remember_kinds(CollectionDirectory, FuseArvadosFile)
