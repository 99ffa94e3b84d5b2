# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The records of a listing's collections, loaded several at a time.

Whoever walks a project would wait for a request for each collection in it. So from the second one on that
is entered, a request asks for some of those along that follow it in the listing, and for more each time.
"""

import itertools
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from googleapiclient import errors as apiclient_errors

from . import event_clients, listing
from .apierrors import explain

_logger = logging.getLogger("arvados.arvados_fuse")

#: What is needed of a record to show the collection.
_FIELDS = (
    "uuid",
    "portable_data_hash",
    "manifest_text",
    "modified_at",
    "replication_desired",
    "storage_classes_desired",
)
#: How many are asked for at first; by how much that grows; and to what.
_FIRST, _GROWTH, _MOST = 12, 8, 512
#: How many characters of manifests are asked for at a time, about, and kept at most.
_MOST_TEXT = 16 << 20
#: For how long a record is as good as one that is asked for now, in seconds.
_LIFETIME = 10.0


class SiblingRecord(NamedTuple):
    """A record, as it was at a time (seconds since the epoch), and the subscriptions to events that were
    under way then."""

    record: dict
    asked: float
    told_by: frozenset[int]


class SiblingRecords:
    """The records of one directory's collections that were loaded and not asked for yet.

    Methods may be called in any thread, with or without `llfuse.lock`; `get` waits for the API, and is to
    be called without.
    """

    __slots__ = ("_ahead", "_api", "_asked_for", "_changed", "_count", "_num_retries", "_under_way")

    def __init__(self, api: Any, num_retries: int) -> None:
        self._api = api
        self._num_retries = num_retries
        self._changed = threading.Condition()
        self._ahead: dict[str, SiblingRecord] = {}
        #: Those that are being loaded for whoever will ask, and False once they are outdated by an event.
        self._under_way: dict[str, bool] = {}
        #: Whether any was asked for before, and how many to ask for next.
        self._asked_for = False
        self._count = _FIRST

    def wanted(self, uuid: str, following: Iterable[str]) -> list[str]:
        """Return which records are to be asked for so that this one is there, for `get`: none where it is
        there or on its way. `following` are those that may be wanted next, in order."""
        with self._changed:
            self._drop_old()
            if uuid in self._ahead or self._under_way.get(uuid):
                return []
            if not self._asked_for:
                self._asked_for = True
                return [uuid]
            unknown = (u for u in following if u not in self._ahead and u not in self._under_way)
            batch = [uuid, *itertools.islice(unknown, self._count - 1)]
            self._under_way.update(dict.fromkeys(batch[1:], True))
            return batch

    def get(self, uuid: str, batch: list[str]) -> SiblingRecord | None:
        """Return the record, asking for those that are `wanted`; None where it has to be asked for alone.

        Raises what the API client does.
        """
        if len(batch) == 1:
            return None
        if batch:
            return self._load(batch)
        with self._changed:
            while self._under_way.get(uuid):
                self._changed.wait()
            self._drop_old()
            return self._ahead.pop(uuid, None)

    def forget(self, uuid: str) -> None:
        """A record may be another by now."""
        with self._changed:
            self._ahead.pop(uuid, None)
            if uuid in self._under_way:
                self._under_way[uuid] = False

    def _load(self, batch: list[str]) -> SiblingRecord | None:
        asked, told_by = time.time(), event_clients.subscriptions()
        records: list[dict] = []
        try:
            query = self._api.collections().list(
                filters=[["uuid", "in", batch]],
                select=list(_FIELDS),
                limit=len(batch),
                count="none",
            )
            answer = query.execute(num_retries=self._num_retries)
            fields = {"uuid": str, "portable_data_hash": str, "manifest_text": str}
            records = listing.page(answer, f"{len(batch)} collections", fields)
        except apiclient_errors.HttpError as error:
            # What is wrong with one of them is told when that is asked for.
            _logger.debug("%d collections are asked for one by one: %s", len(batch), explain(error))
        finally:
            found = {record["uuid"]: SiblingRecord(record, asked, told_by) for record in records}
            with self._changed:
                of_batch = {other: self._under_way.pop(other, False) for other in batch[1:]}
                self._keep(
                    [found[other] for other in batch[1:] if of_batch[other] and other in found]
                )
                self._grow(records)
                self._changed.notify_all()
        return found.get(batch[0])

    def _keep(self, records: list[SiblingRecord]) -> None:
        room = _MOST_TEXT - sum(
            len(known.record["manifest_text"]) for known in self._ahead.values()
        )
        for known in records:
            room -= len(known.record["manifest_text"])
            if room < 0:
                return
            self._ahead[known.record["uuid"]] = known

    def _grow(self, records: list[dict]) -> None:
        """Decide how many to ask for next: more, as long as they are not too long together."""
        text = sum(len(record["manifest_text"]) for record in records)
        fitting = _MOST_TEXT * len(records) // max(text, 1)
        self._count = max(2, min(self._count * _GROWTH, _MOST, fitting))

    def _drop_old(self) -> None:
        oldest = time.time() - _LIFETIME
        old = [uuid for uuid, known in self._ahead.items() if known.asked < oldest]
        for uuid in old:
            del self._ahead[uuid]
        if old:
            # They were not wanted, or not so soon.
            self._count = max(2, self._count // _GROWTH)
