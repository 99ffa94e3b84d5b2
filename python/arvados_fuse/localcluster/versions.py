# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Versions of collections: the past ones are records of their own, which name the current one.

An update makes a past version of what was there where `preserve_version` asks for it; without, a
version lasts (as in a cluster whose PreserveVersionIfIdle is negative). Past versions cannot be
changed, and go where the current one goes: to its owner, into the trash.
"""

from .errors import invalid
from .store import Record, Store

#: Attributes whose change makes a new version.
_VERSIONED = ("manifest_text", "name", "description", "properties")
#: Attributes that past versions share with the current one.
_SHARED = (
    "owner_uuid", "trash_at", "delete_at", "is_trashed", "replication_desired",
    "storage_classes_desired",
)  # fmt: skip


def is_past(record: Record) -> bool:
    """Return whether a record is a past version of a collection."""
    return record.get("current_version_uuid", record["uuid"]) != record["uuid"]


def supersede(store: Store, old: Record, new: Record) -> None:
    """Prepare that `new` takes the place of `old`: make a past version of it where one is asked for,
    number `new`, and have past versions follow. APIError 422 where `old` is past itself."""
    if is_past(old):
        raise invalid("past versions cannot be updated")
    changed = any(old[name] != new[name] for name in _VERSIONED)
    asked = old["preserve_version"] or new["preserve_version"]
    past = store.past_versions(old["uuid"])
    if changed and asked and not new["is_trashed"]:
        new["version"] = old["version"] + 1
        past.append(dict(old, uuid=store.new_uuid("collections")))
    else:
        # Once asked for, it is kept until there is a new version.
        new["preserve_version"] = asked
    for record in past:
        store.put("collections", {**record, **{name: new[name] for name in _SHARED}})
