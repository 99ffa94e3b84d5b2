# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A collection's record, as far as this mount knows it, and how it is changed from here.

The API makes an update whatever the record was changed to meanwhile. So a save first makes sure that it is
for the newest version, and finds out afterwards whether another came between.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from llfuse import _core

from . import event_clients, listing
from .api_requests import IF_HASH, is_ours, takes
from .apierrors import explain, http_status
from .event_clients import Change
from .fresh import convertTime
from .reports import report
from .sibling_records import SiblingRecord

_logger = logging.getLogger("arvados.arvados_fuse")

#: What the API answers to an update that is for another version; 412 is of our client.
_OUTDATED = (400, 404, 409, 412, 422)

#: Held where an event is kept for later, and where a save ends.
_hearing = threading.Lock()


class Update(NamedTuple):
    """How a record is to become what a mount shows: the paths that changed and where what they lead to
    comes from; the manifest of what is new; which segments others take the place of; what makes the
    manifest of everything; and whether all that happens is that names of files are gone."""

    replace: dict[str, str]
    files: str
    segments: dict[str, str]
    whole: Callable[[], str]
    only_removes_files: bool


class Saved(NamedTuple):
    """The portable data hash that a record has after a save, and since when; when somebody else changed
    it at the same moment, if they did; and whether that, if it was so, is told. Times are by the API's
    clock, in whole Unix seconds."""

    hash: str
    at: int
    contested: int | None
    told: bool


class KnownRecord:
    """What is known of a collection's record: the portable data hash of its newest version, and who told.

    `hash` is None until a version was loaded.
    """

    __slots__ = ("_api", "_heard", "_num_retries", "_own", "_saving", "_told_by", "hash", "uuid")

    def __init__(self, api: Any, num_retries: int) -> None:
        self._api = api
        self._num_retries = num_retries
        self.uuid = ""
        self.hash: str | None = None
        #: The subscriptions to events that were under way when the newest version was asked for.
        self._told_by: frozenset[int] = frozenset()
        #: A save is under way; the changes that events told of meanwhile.
        self._saving = False
        self._heard: list[Change] = []
        #: The hashes before and after those that were saved from here.
        self._own: deque[tuple[str | None, str]] | tuple[()] = ()

    def get(self, locator: str) -> Any:
        """Return what the API answers when it is asked for the record, by uuid or hash."""
        told_by = event_clients.subscriptions()
        answer = self._api.collections().get(uuid=locator).execute(num_retries=self._num_retries)
        self._told_by = told_by
        return answer

    def take(self, loaded: SiblingRecord) -> dict:
        """Return a record that was asked for together with others."""
        self._told_by = loaded.told_by
        return loaded.record

    def update(self, update: Update) -> Saved | None:
        """Have the record become what a mount shows; return None where it is for another version."""
        by_path = replaces_files(self._api)
        # A name that is removed is, whatever it leads to by now.
        if not (by_path and update.only_removes_files) and self._may_be_outdated(by_path):
            return None
        if by_path:
            contents = {"manifest_text": update.files} if update.files else {}
            body: dict[str, Any] = {"collection": contents, "replace_files": update.replace}
            if update.segments:
                body["replace_segments"] = update.segments
        else:
            body = {"collection": {"manifest_text": update.whole()}}
        body["select"] = ["uuid", "portable_data_hash", "modified_at"]
        before, told_by = self.hash, event_clients.subscriptions()
        self._heard, self._saving = [], True
        try:
            saved = self._send(body, update.whole)
            if saved is not None:
                self._own = self._own or deque(maxlen=64)
                self._own.append((before, saved.hash))
                self.hash = saved.hash
        finally:
            with _hearing:
                self._saving = False
        if saved is None:
            return None
        # All are asked for: each may tell that what somebody else saved is lost.
        others = [heard for heard in self._heard if not self.is_known(heard)]
        if others:
            times = [saved.at if other.at is None else other.at for other in others]
            return saved._replace(contested=min(times), told=True)
        if told_by:
            return saved._replace(told=True)
        contested = self._was_contested(saved.hash)
        return saved._replace(contested=saved.at if contested else None, told=contested is not None)

    def is_known(self, change: Change) -> bool:
        """Return whether an event of that change tells nothing new of the contents."""
        with _hearing:
            if self._saving:
                # Whether it is that of the save will be known when that has an answer.
                self._heard.append(change)
                return True
        old, new, _ = change
        if new is None:
            return False
        if (old, new) in self._own:
            return True
        if new == self.hash and any(new == saved for _, saved in self._own):
            # Ours, but what it followed was another version than it was made for.
            report(
                f"collection {self.uuid} was changed elsewhere in the moment in which it was saved: "
                "of what both changed, the version saved from here is there",
                "warn",
            )
        return new == self.hash

    def _may_be_outdated(self, by_path: bool) -> bool:
        """Return whether somebody may have made another version than is known. A save that goes
        `by_path` leaves alone what others changed elsewhere in it."""
        told_by = event_clients.subscriptions()
        if self._told_by & told_by and by_path:
            # It would be told of that.
            return False
        if self._newest_hash() != self.hash:
            return True
        self._told_by = told_by
        return False

    def _was_contested(self, saved: str) -> bool | None:
        """Return whether somebody else changed it after it was looked at, and before it was `saved`, as the
        cluster's log has it: no event tells of that. None where the log has nothing of it."""
        filters = [["object_uuid", "=", self.uuid], ["event_type", "=", "update"]]
        try:
            logs = self._api.logs().list(filters=filters, order="id desc", limit=10, count="none")
            for log in listing.page(logs.execute(num_retries=0), "events", {"properties": dict}):
                change = event_clients.change_in(log["properties"])
                if change.new == saved:
                    return not self.is_known(change)
        except Exception as error:
            _logger.debug("no log of %s: %s", self.uuid, explain(error))
        return None

    def _newest_hash(self) -> str:
        return self._newest().hash

    def _newest(self) -> Saved:
        select = ["uuid", "portable_data_hash", "modified_at"]
        get = self._api.collections().get(uuid=self.uuid, select=select)
        return self._saved_in(get.execute(num_retries=self._num_retries))

    def _saved_in(self, record: Any) -> Saved:
        record = listing.record(record, self.uuid, {"portable_data_hash": str})
        at = convertTime(record.get("modified_at")) or int(time.time())
        return Saved(record["portable_data_hash"], at, None, False)

    def _send(self, body: dict, whole: Callable[[], str]) -> Saved | None:
        try:
            update = self._api.collections().update(uuid=self.uuid, body=body)
            if self.hash and is_ours(self._api):
                # Made twice, an update that moves files would move others.
                update.headers[IF_HASH] = self.hash
            record = update.execute(num_retries=self._num_retries)
        except Exception as error:
            if http_status(error) not in _OUTDATED:
                raise
            newest = self._newest()
            if newest.hash == self.hash:
                raise
            if newest.hash == _core.ManifestTree(whole()).portable_data_hash():
                # It was made, and the answer to that lost.
                return newest
            report(f"collection {self.uuid} is saved anew: {explain(error)}", "info")
            return None
        return self._saved_in(record)


def replaces_files(api: Any) -> bool:
    """Return whether the cluster can replace files in a collection by others of that collection.

    Its discovery document says so by the side: Arvados has `replace_files` since 2.4, but takes sources
    from the collection itself only since 3.0. `replace_segments` came with 3.1.
    """
    return takes(api, "collections", "update", "replace_files", "replace_segments")
