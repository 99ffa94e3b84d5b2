# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Projects as directories: collections, subprojects and what else is in them."""

import errno
import threading
from collections.abc import Callable
from typing import Any

import llfuse
from arvados.util import (
    collection_uuid_pattern,
    group_uuid_pattern,
    link_uuid_pattern,
    portable_data_hash_pattern,
    user_uuid_pattern,
    uuid_pattern,
)
from googleapiclient import errors as apiclient_errors
from llfuse._core import final_when_fresh

from . import listing
from .api_requests import is_ours, takes
from .apierrors import errno_of_refusal, explain, is_not_found
from .collection_dir import CollectionDirectory
from .directory import Directory
from .fresh import check_update, use_counter
from .fusefile import ObjectFile
from .reports import report

#: Name of the file that shows a project's record.
RECORD_FILE = ".arvados#project"
#: What is needed of a collection's record to list it.
_SHOWN = ["uuid", "name", "modified_at", "current_version_uuid"]


class ProjectDirectory(Directory):
    """A project, filter group or home directory.

    Until somebody lists it, only what was asked for by name is known of it; looking a name up does
    not fetch the whole listing.
    """

    _lists_collections = True

    __slots__ = (
        "api",
        "num_retries",
        "project_object",
        "project_object_file",
        "project_uuid",
        "_updating_lock",
        "_current_user",
        "_full_listing",
        "storage_classes",
        "recursively_contained",
    )

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any,
        project_object: dict,
        poll_time: float = 15,
        storage_classes: Any = None,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.api = api
        self.num_retries = num_retries
        self.project_object = project_object
        self.project_object_file: Any = None
        self.project_uuid = project_object["uuid"]
        self._poll = True
        self._poll_time = poll_time
        self._updating_lock = threading.Lock()
        self._current_user = None
        self._full_listing = False
        self._listing_complete = False
        self.storage_classes = storage_classes
        self.recursively_contained = self._contains_itself()

    def _contains_itself(self) -> bool:
        """Return whether this is a filter group inside itself: walking it would never end, so it
        is shown empty there."""
        if self.project_object.get("group_class") != "filter":
            return False
        inode = self.parent_inode
        while inode != llfuse.ROOT_INODE:
            above = self.inodes[inode]
            if isinstance(above, ProjectDirectory) and above.project_uuid == self.project_uuid:
                return True
            inode = above.parent_inode
        return False

    def want_event_subscribe(self) -> bool:
        return True

    def createDirectory(self, i: dict) -> Any:
        """Return an entry for record `i`, or None for one that is not shown."""
        uuid = i["uuid"]
        common = (
            self.inode,
            self.inodes,
            self.api,
            self.num_retries,
            self._enable_write,
            self._filters,
        )
        if collection_uuid_pattern.match(uuid):
            return CollectionDirectory(*common, i, poll_time=self._poll_time)
        if group_uuid_pattern.match(uuid):
            return ProjectDirectory(
                *common, i, poll_time=self._poll_time, storage_classes=self.storage_classes
            )
        if link_uuid_pattern.match(uuid):
            if i["head_kind"] == "arvados#collection" or portable_data_hash_pattern.match(
                i["head_uuid"]
            ):
                return CollectionDirectory(*common, i["head_uuid"], poll_time=self._poll_time)
            return None
        if uuid_pattern.match(uuid):
            return ObjectFile(self.parent_inode, i)
        return None

    def uuid(self) -> str:
        return self.project_uuid

    def items(self) -> Any:
        self._full_listing = True
        return super().items()

    def namefn(self, i: dict) -> str | None:
        """Return the name under which record `i` is shown, or None for one that is not."""
        name = i.get("name")
        if not name:
            return None
        uuid = i.get("uuid")
        if uuid and (collection_uuid_pattern.match(uuid) or group_uuid_pattern.match(uuid)):
            return name
        if uuid and link_uuid_pattern.match(uuid) and i["head_kind"] == "arvados#collection":
            return name
        kind = i.get("kind", "")
        if kind.startswith("arvados#"):
            return "{}.{}".format(name, kind[len("arvados#") :])
        return None

    def _is_same(self, entry: Any, record: dict) -> bool:
        if isinstance(entry, (CollectionDirectory, ProjectDirectory)):
            return entry.uuid() == record["uuid"]
        if isinstance(entry, ObjectFile):
            return entry.uuid() == record["uuid"] and not entry.stale()
        return False

    @use_counter
    def update(self) -> bool | None:
        if self.project_object_file is None:
            self.project_object_file = ObjectFile(self.inode, self.project_object)
            self.inodes.add_entry(self.project_object_file)
        if self.recursively_contained or not self._full_listing:
            return True
        with llfuse.lock_released:
            self._updating_lock.acquire()
        try:
            if not self.stale():
                return None
            try:
                with llfuse.lock_released:
                    contents = self._fetch()
            except apiclient_errors.Error as error:
                if not is_not_found(error):
                    raise
                report(f"project {self.project_uuid} is not there any more", "warn")
                raise self._gone() from error
            self.merge(contents, self.namefn, self._is_same, self.createDirectory)
            self._listing_complete = True
            return True
        finally:
            self._updating_lock.release()

    def _fetch(self) -> list[dict]:
        """Have the project's own record renewed; return the records of all that is in it."""
        calls: list[Callable[[], Any]]
        calls = [self._fetch_project, self._fetch_projects, self._fetch_collections]
        # Other clients may be for one thread.
        found = listing.together(calls) if is_ours(self.api) else [call() for call in calls]
        _, projects, collections = found
        contents = [*projects, *collections]
        contents.sort(key=self._is_renamed)
        return contents

    def _fetch_project(self) -> None:
        for pattern, resource in (
            (group_uuid_pattern, self.api.groups),
            (user_uuid_pattern, self.api.users),
        ):
            if pattern.match(self.project_uuid):
                self.project_object = listing.record(
                    resource().get(uuid=self.project_uuid).execute(num_retries=self.num_retries),
                    self.project_uuid,
                )

    def _every(self, kind: str, filters: list, fields: listing.Fields, **query: Any) -> list[dict]:
        return listing.every(
            # A client may have another connection for each thread.
            lambda **asked: self.api.groups().contents(**asked),
            f"the {kind} of {self.project_uuid}",
            num_retries=self.num_retries,
            uuid=self.project_uuid,
            filters=filters,
            fields=fields,
            beside=is_ours(self.api),
            **query,
        )

    def _fetch_projects(self) -> list[dict]:
        return self._every(
            "projects",
            [
                ["uuid", "is_a", "arvados#group"],
                ["groups.group_class", "in", ["project", "filter"]],
                *self._filters_for("groups", qualified=True),
            ],
            listing.UUID,
        )

    def _fetch_collections(self) -> list[dict]:
        collections = self._every(
            "collections",
            [
                ["uuid", "is_a", "arvados#collection"],
                *self._filters_for("collections", qualified=True),
            ],
            {"current_version_uuid": str},
            **self._selected(),
        )
        # Older versions of a collection are not shown.
        return [c for c in collections if c["current_version_uuid"] == c["uuid"]]

    def _selected(self) -> dict:
        """Return the parameter of a listing of collections that says which fields it is to have: those that
        are needed here, where nobody else looks at the records."""
        ours = (type(self).createDirectory, type(self).namefn) == _LOOK_AT_RECORDS
        if ours and takes(self.api, "groups", "contents", "select"):
            return {"select": _SHOWN}
        return {}

    def _is_renamed(self, record: dict) -> bool:
        """Return whether a record is shown under another name than its own. Where several would be
        called the same, the first is shown of those that are not; projects come before collections."""
        name = self.namefn(record)
        return isinstance(name, str) and ("/" in name or "\0" in name or name in (".", ".."))

    def _add_entry(self, i: dict, name: str) -> Any:
        self._entries[name] = self.inodes.add_entry(self.createDirectory(i))
        return self._entries[name]

    @final_when_fresh
    @use_counter
    @check_update
    def __getitem__(self, k: str) -> Any:
        if k == RECORD_FILE:
            return self.project_object_file
        if self._full_listing or super().__contains__(k):
            return super().__getitem__(k)
        found = self._find(k)
        if found is None or self.sanitize_filename(self.namefn(found)) != k:
            raise KeyError(k)
        return self._add_entry(found, k)

    def _find(self, name: str) -> dict | None:
        """Ask the API for the record shown under that file name."""
        with llfuse.lock_released:
            original = self.unsanitize_filename(name)
            wanted = ["name", "=", name] if original == name else ["name", "in", [name, original]]
            found = self._list(
                self.api.groups, "groups", wanted, ["group_class", "in", ["project", "filter"]]
            )
            if all(self._is_renamed(record) for record in found):
                found += self._list(self.api.collections, "collections", wanted)
        return min(found, key=self._is_renamed, default=None)

    def _list(self, resource: Any, subtype: str, *filters: list) -> list[dict]:
        query = resource().list(
            filters=[
                ["owner_uuid", "=", self.project_uuid],
                *filters,
                *self._filters_for(subtype, qualified=False),
            ],
            order=["uuid asc"],
            limit=1000,
        )
        answer = query.execute(num_retries=self.num_retries)
        return listing.page(
            answer, f"the {subtype} of {self.project_uuid}", {"uuid": str, "name": str}
        )

    @final_when_fresh
    def __contains__(self, k: object) -> bool:
        if k == RECORD_FILE:
            return True
        try:
            self[k]  # type: ignore[index]
        except KeyError:
            return False
        return True

    @use_counter
    @check_update
    def writable(self) -> bool:
        if not self._enable_write:
            return False
        return self.project_object.get("can_write") is True

    def persisted(self) -> bool:
        return True

    def _unlisted(self) -> list[tuple[str, Any]]:
        record = self.project_object_file
        return [] if record is None else [(RECORD_FILE, record)]

    def clear(self) -> None:
        self._listing_complete = False
        super().clear()
        if self.project_object_file is not None:
            self.inodes.del_entry(self.project_object_file)
        self.project_object_file = None

    def _must_be_writable(self) -> None:
        if not self.writable():
            raise llfuse.FUSEError(errno.EROFS)

    def _change(self, request: Any) -> None:
        """Send a change; a refusal by the API becomes the errno that says why."""
        try:
            with llfuse.lock_released:
                request.execute(num_retries=self.num_retries)
        except apiclient_errors.Error as error:
            report(f"{self.project_uuid} cannot be changed: {explain(error)}")
            raise llfuse.FUSEError(errno_of_refusal(error)) from error

    @use_counter
    @check_update
    def mkdir(self, name: str) -> None:
        """Make a collection."""
        self._must_be_writable()
        record = {"owner_uuid": self.project_uuid, "name": name, "manifest_text": ""}
        if self.storage_classes is not None:
            record["storage_classes_desired"] = self.storage_classes
        self._change(self.api.collections().create(body=record))
        self.invalidate()

    @use_counter
    @check_update
    def rmdir(self, name: str) -> None:
        """Trash an empty collection."""
        self._must_be_writable()
        if name not in self:
            raise llfuse.FUSEError(errno.ENOENT)
        entry = self[name]
        if not isinstance(entry, CollectionDirectory):
            raise llfuse.FUSEError(errno.EPERM)
        if len(entry) > 0:
            raise llfuse.FUSEError(errno.ENOTEMPTY)
        self._change(self.api.collections().delete(uuid=entry.uuid()))
        self._drop(name)
        self.invalidate()

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.inodes.invalidate_entry(self, name)
            self.inodes.del_entry(entry)

    @use_counter
    @check_update
    def rename(self, name_old: str, name_new: str, src: Any) -> None:
        """Rename a collection, or move it here from another project."""
        self._must_be_writable()
        if not isinstance(src, ProjectDirectory):
            raise llfuse.FUSEError(errno.EPERM)
        entry = src[name_old]
        if not isinstance(entry, CollectionDirectory):
            raise llfuse.FUSEError(errno.EPERM)
        if name_new in self:
            # The API cannot replace one collection by another in one step.
            raise llfuse.FUSEError(errno.EPERM)
        self._change(
            self.api.collections().update(
                uuid=entry.uuid(), body={"owner_uuid": self.uuid(), "name": name_new}
            )
        )
        del src._entries[name_old]
        self._entries[name_new] = entry
        entry.parent_inode = self.inode
        self.inodes.invalidate_entry(src, name_old)

    @use_counter
    def child_event(self, ev: dict) -> None:
        """Follow an event about something that came here, left, or changed its name."""
        properties = ev.get("properties") or {}
        old = dict(properties.get("old_attributes") or {}, uuid=ev["object_uuid"])
        new = dict(properties.get("new_attributes") or {}, uuid=ev["object_uuid"])
        old_name = self.sanitize_filename(self.namefn(old))
        new_name = self.sanitize_filename(self.namefn(new))
        if old.get("owner_uuid") != self.project_uuid or old.get("is_trashed"):
            old_name = None
        if ev.get("object_owner_uuid") != self.project_uuid or new.get("is_trashed"):
            new_name = None
        if new_name == old_name:
            return
        entry = self._entries.pop(old_name, None) if old_name else None
        if entry is not None:
            self.inodes.invalidate_entry(self, old_name)
        if new_name:
            if entry is not None:
                self._entries[new_name] = entry
            else:
                self._add_entry(new, new_name)
        elif entry is not None:
            self.inodes.del_entry(entry)


#: What looks at listed records, unless it is overridden.
_LOOK_AT_RECORDS = (ProjectDirectory.createDirectory, ProjectDirectory.namefn)
