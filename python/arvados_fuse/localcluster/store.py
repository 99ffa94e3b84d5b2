# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Records, in memory and in SQLite.

Every record is a dict that is kept whole; what is asked of it is answered from memory. A change is
in SQLite when the request that made it is answered.
"""

import json
import os
import secrets
import sqlite3
import string
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import ciso8601

from . import clock
from .errors import invalid

Record = dict[str, Any]

#: Tables, with the part of a uuid that says which.
TABLES = {
    "users": "tpzed",
    "groups": "j7d0g",
    "collections": "4zz18",
    "links": "o0j2j",
    "api_client_authorizations": "gj3su",
    "keep_services": "bi6l4",
    "logs": "57u5n",
}

_ALPHABET = string.digits + string.ascii_lowercase


def timestamp(when: float | None = None) -> str:
    """Return a time (now by default) as the API writes it: UTC, nine digits of fraction."""
    when = clock.now() if when is None else when
    whole = int(when)
    fraction = int((when - whole) * 1e6)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{fraction:06d}000Z"


def canonical_time(written: Any, after: float = 0) -> str:
    """Return a time that a client wrote (ISO 8601; UTC where it names no zone), or one so many
    seconds after it, as the API writes it. APIError 422 where it is none."""
    try:
        moment = ciso8601.parse_datetime(written)
    except (ValueError, TypeError) as error:
        raise invalid(f"{written!r} is not a time") from error
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    moment = zoned.astimezone(timezone.utc) + timedelta(seconds=after)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{moment.microsecond:06d}000Z"


class Store:
    """All tables of a cluster."""

    def __init__(self, path: Path, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        # There are tokens in it. SQLite gives the files beside it the mode of the database.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.chmod(f"{path}{suffix}", 0o600)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS records"
            " (kind TEXT NOT NULL, uuid TEXT NOT NULL, data TEXT NOT NULL,"
            " PRIMARY KEY (kind, uuid)) WITHOUT ROWID"
        )
        self._tables: dict[str, dict[str, Record]] = {kind: {} for kind in TABLES}
        self._by_hash: dict[str, set[str]] = defaultdict(set)
        self._by_owner: dict[str, set[tuple[str, str]]] = defaultdict(set)
        #: By table, owner and name.
        self._by_name: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        #: Past versions of collections, by the current one.
        self._past: dict[str, set[str]] = defaultdict(set)
        self.last_log_id = 0
        for kind, uuid, data in self._db.execute("SELECT kind, uuid, data FROM records"):
            self._take(kind, uuid, json.loads(data))

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def new_uuid(self, kind: str) -> str:
        """Return a uuid that no record of that table has."""
        random = "".join(secrets.choice(_ALPHABET) for _ in range(15))
        return f"{self.cluster_id}-{TABLES[kind]}-{random}"

    def _take(self, kind: str, uuid: str, record: Record) -> None:
        old = self._tables[kind].get(uuid)
        if old is not None:
            self._drop(kind, uuid, old)
        self._tables[kind][uuid] = record
        if kind == "collections":
            self._by_hash[record["portable_data_hash"]].add(uuid)
            current = record.get("current_version_uuid", uuid)
            if current != uuid:
                self._past[current].add(uuid)
        if kind == "logs":
            self.last_log_id = max(self.last_log_id, record["id"])
        if record.get("owner_uuid"):
            self._by_owner[record["owner_uuid"]].add((kind, uuid))
            if record.get("name"):
                self._by_name[kind, record["owner_uuid"], record["name"]].add(uuid)

    def _drop(self, kind: str, uuid: str, record: Record) -> None:
        if kind == "collections":
            self._by_hash[record["portable_data_hash"]].discard(uuid)
            if (current := record.get("current_version_uuid")) in self._past:
                self._past[current].discard(uuid)
        if record.get("owner_uuid"):
            self._by_owner[record["owner_uuid"]].discard((kind, uuid))
            if record.get("name"):
                place = (kind, record["owner_uuid"], record["name"])
                self._by_name[place].discard(uuid)
                if not self._by_name[place]:
                    del self._by_name[place]

    def put(self, kind: str, record: Record) -> None:
        """Keep a record, replacing the one of the same uuid."""
        uuid = record["uuid"]
        self._take(kind, uuid, record)
        self._db.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, uuid, json.dumps(record))
        )

    def remove(self, kind: str, uuid: str) -> None:
        """Forget a record."""
        record = self._tables[kind].pop(uuid, None)
        if record is not None:
            self._drop(kind, uuid, record)
            self._db.execute("DELETE FROM records WHERE kind = ? AND uuid = ?", (kind, uuid))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Commit what a `with` block changes as one transaction."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def clear(self) -> None:
        """Forget every record."""
        self._db.execute("DELETE FROM records")
        for table in self._tables.values():
            table.clear()
        self._by_hash.clear()
        self._by_owner.clear()
        self._by_name.clear()
        self._past.clear()

    def get(self, kind: str, uuid: str) -> Record | None:
        """Return the record of that uuid."""
        return self._tables[kind].get(uuid)

    def all(self, kind: str) -> Iterator[Record]:
        """Iterate over a table, in no order."""
        return iter(list(self._tables[kind].values()))

    def by_hash(self, portable_data_hash: str) -> list[Record]:
        """Return the collections that have these contents."""
        uuids = sorted(self._by_hash.get(portable_data_hash, ()))
        return [self._tables["collections"][uuid] for uuid in uuids]

    def named(self, kind: str, owner_uuid: str, name: str) -> list[Record]:
        """Return the records of a table that somebody owns and that have a name."""
        uuids = self._by_name.get((kind, owner_uuid, name), ())
        return [self._tables[kind][uuid] for uuid in uuids]

    def past_versions(self, uuid: str) -> list[Record]:
        """Return the past versions of a collection."""
        return [self._tables["collections"][past] for past in sorted(self._past.get(uuid, ()))]

    def trashed(self, record: Record) -> bool:
        """Return whether a record is in the trash, by itself or with a project that it is in."""
        seen: set[str] = set()
        at: Record | None = record
        while at is not None:
            if at.get("is_trashed"):
                return True
            owner = at.get("owner_uuid") or ""
            # Fixtures may go in a circle.
            at = None if owner in seen else self.get("groups", owner)
            seen.add(owner)
        return False

    def owned(self, owner_uuid: str) -> list[tuple[str, Record]]:
        """Return what somebody owns: pairs of table and record."""
        owned = sorted(self._by_owner.get(owner_uuid, ()))
        return [(kind, self._tables[kind][uuid]) for kind, uuid in owned]
