# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`by_id`: every collection and project under its uuid or portable data hash."""

import time
from typing import Any

import llfuse
from arvados.util import group_uuid_pattern, portable_data_hash_pattern, uuid_pattern
from llfuse._core import final_when_fresh

from . import listing
from .apierrors import is_not_found
from .collection_dir import CollectionDirectory
from .directory import Directory
from .fusefile import StringFile
from .project_dir import ProjectDirectory


class MagicDirectory(Directory):
    """A directory of everything, in which only what was asked for before is listed.

    A name that is a uuid or a portable data hash is looked up in the cluster; with `pdh_only`, only
    hashes are.
    """

    README_TEXT = """
Here every collection that you may read can be opened by its uuid (which looks
like 'zzzzz-4zz18-1234567890abcde') or by its portable data hash (which looks
like '1234567890abcdef0123456789abcdef+123'), and every project by its uuid
(which looks like 'zzzzz-j7d0g-1234567890abcde').

A listing of this directory shows only what was opened before, so it looks empty
at first. Change into a collection or project, or open a file in it, by name: it
is looked up in the cluster then, and is listed here from then on.

""".lstrip()

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any,
        pdh_only: bool = False,
        storage_classes: Any = None,
        poll_time: float = 15,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.api = api
        self.num_retries = num_retries
        self.pdh_only = pdh_only
        self.storage_classes = storage_classes
        self._poll = False
        self._poll_time = poll_time

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "inode" and value is not None and not self._entries:
            self._add_fixed_entries()

    def _add_fixed_entries(self) -> None:
        """Add what is there without looking up: possible once the directory has a number."""
        self._entries["README"] = self.inodes.add_entry(
            StringFile(self.inode, self.README_TEXT, time.time())
        )
        if self.inode == llfuse.ROOT_INODE:
            # The same paths work whether this is the whole mount or a part of it.
            self._entries["by_id"] = self.inodes.add_entry(
                MagicDirectory(
                    self.inode,
                    self.inodes,
                    self.api,
                    self.num_retries,
                    self._enable_write,
                    self._filters,
                    pdh_only=self.pdh_only,
                    storage_classes=self.storage_classes,
                    poll_time=self._poll_time,
                )
            )

    def _may_exist(self, name: str) -> bool:
        if portable_data_hash_pattern.match(name):
            return True
        return not self.pdh_only and uuid_pattern.match(name) is not None

    @final_when_fresh
    def __contains__(self, k: object) -> bool:
        if k in self._entries:
            return True
        if not isinstance(k, str) or not self._may_exist(k):
            return False
        entry = self._look_up(k)
        if entry is None:
            return False
        self.inodes.add_entry(entry)
        try:
            found = entry.update()
        except Exception as error:
            self.inodes.del_entry(entry)
            if is_not_found(error):
                return False
            raise
        if not found:
            self.inodes.invalidate_entry(self, k)
            self.inodes.del_entry(entry)
            return False
        if k in self._entries:
            # Somebody else looked it up meanwhile.
            self.inodes.del_entry(entry)
        else:
            self._entries[k] = entry
        return True

    def _look_up(self, name: str) -> Any:
        if not group_uuid_pattern.match(name):
            return CollectionDirectory(
                self.inode,
                self.inodes,
                self.api,
                self.num_retries,
                self._enable_write,
                self._filters,
                name,
                poll_time=self._poll_time,
            )
        with llfuse.lock_released:
            answer = (
                self.api.groups()
                .list(
                    filters=[
                        ["group_class", "in", ["project", "filter"]],
                        ["uuid", "=", name],
                        *self._filters_for("groups", qualified=False),
                    ],
                )
                .execute(num_retries=self.num_retries)
            )
        projects = listing.page(answer, f"project {name}")
        if not projects:
            return None
        return ProjectDirectory(
            self.inode,
            self.inodes,
            self.api,
            self.num_retries,
            self._enable_write,
            self._filters,
            projects[0],
            storage_classes=self.storage_classes,
            poll_time=self._poll_time,
        )

    @final_when_fresh
    def __getitem__(self, item: str) -> Any:
        if item in self:
            return self._entries[item]
        raise KeyError("No collection with id " + item)

    def _child_is_gone(self, entry: Any) -> None:
        name = entry.uuid()
        if self._entries.get(name) is entry:
            del self._entries[name]
            self.inodes.invalidate_entry(self, name)
            self.inodes.del_entry(entry)

    def clear(self) -> None:
        # What was opened stays listed.
        pass

    def want_event_subscribe(self) -> bool:
        return not self.pdh_only
