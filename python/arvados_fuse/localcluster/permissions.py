# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Who may read, write and manage what.

Everybody manages what they own, directly or through projects. A permission link gives the user (or
every member of the role group) in its tail a right to the user or group in its head, and with that
to all that it owns.
"""

from collections import defaultdict
from typing import Any

from .store import Record, Store

READ, WRITE, MANAGE = 1, 2, 3
_LEVELS = {"can_read": READ, "can_write": WRITE, "can_manage": MANAGE}


class Permissions:
    """Answers for a store. What follows from its links is computed when it is asked for and kept
    until `changed()`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reach: dict[str, dict[str, int]] = {}

    def changed(self) -> None:
        """Some link, group or owner changed."""
        self._reach.clear()

    def _reachable(self, user_uuid: str) -> dict[str, int]:
        """Return the users, groups and single objects that a user has rights to, and which."""
        if user_uuid in self._reach:
            return self._reach[user_uuid]
        grants: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for link in self._store.all("links"):
            if link["link_class"] == "permission" and link["name"] in _LEVELS:
                grants[link["tail_uuid"]].append((link["head_uuid"], _LEVELS[link["name"]]))
        for group in self._store.all("groups"):
            grants[group["owner_uuid"]].append((group["uuid"], MANAGE))
        reach = {user_uuid: MANAGE}
        pending = [user_uuid]
        while pending:
            at = pending.pop()
            for head, level in grants[at]:
                level = min(level, reach[at])
                # A right to a user is one to what the user owns, not to what others gave it.
                if reach.get(head, 0) < level:
                    reach[head] = level
                    pending.append(head)
        self._reach[user_uuid] = reach
        return reach

    def level(self, user: Record, record: Record) -> int:
        """Return the right of a user to a record: 0 for none."""
        if user["is_admin"]:
            return MANAGE
        reach = self._reachable(user["uuid"])
        return max(reach.get(record["uuid"], 0), reach.get(record.get("owner_uuid") or "", 0))

    def can(self, user: Record, record: Record, level: int) -> bool:
        """Return whether a user has at least that right to a record."""
        return self.level(user, record) >= level

    def may_see_user(self, user: Record, other: Record) -> bool:
        """Return whether a user may see another: itself, those it has a right to, and those who
        gave it one."""
        if user["is_admin"] or user["uuid"] == other["uuid"]:
            return True
        reach = self._reachable(user["uuid"])
        if reach.get(other["uuid"], 0):
            return True
        groups = (self._store.get("groups", uuid) for uuid in reach)
        return any(group is not None and group["owner_uuid"] == other["uuid"] for group in groups)

    def describe(self, user: Record, record: Record) -> dict[str, Any]:
        """Return the attributes that tell a client what it may do."""
        level = self.level(user, record)
        return {"can_write": level >= WRITE, "can_manage": level >= MANAGE}
