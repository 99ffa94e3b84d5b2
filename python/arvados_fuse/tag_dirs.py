# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`by_tag`: collections by the tags that links put on them."""

from typing import Any

import llfuse
from llfuse._core import final_when_fresh

from . import listing
from .collection_dir import CollectionDirectory
from .directory import Directory
from .fresh import check_update, use_counter


class TagsDirectory(Directory):
    """A directory of all tags that the user can see; one that is not listed yet is looked up."""

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any,
        poll_time: float = 60,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.api = api
        self.num_retries = num_retries
        self._poll = True
        self._poll_time = poll_time

    def want_event_subscribe(self) -> bool:
        return True

    def _filters_of_tags(self, *name_filter: str) -> list:
        return [
            ["link_class", "=", "tag"],
            ["name", *name_filter],
            *self._filters_for("links", qualified=False),
        ]

    @use_counter
    def update(self) -> None:
        with llfuse.lock_released:
            tags = listing.every(
                self.api.links().list,
                "tags",
                num_retries=self.num_retries,
                key="name",
                fields={},
                filters=self._filters_of_tags("!=", ""),
                select=["name"],
                distinct=True,
            )
        self.merge(
            tags,
            lambda i: i["name"],
            lambda a, i: a.tag == i["name"],
            lambda i: TagDirectory(
                self.inode,
                self.inodes,
                self.api,
                self.num_retries,
                self._enable_write,
                self._filters,
                i["name"],
                poll=self._poll,
                poll_time=self._poll_time,
            ),
        )

    def _exists(self, tag: str) -> bool:
        with llfuse.lock_released:
            answer = (
                self.api.links()
                .list(filters=self._filters_of_tags("=", tag), limit=1)
                .execute(num_retries=self.num_retries)
            )
            return bool(listing.page(answer, f"tag {tag!r}"))

    @final_when_fresh
    @use_counter
    @check_update
    def __getitem__(self, item: str) -> Any:
        # One that is new since the listing.
        if not super().__contains__(item) and self._exists(item):
            self.update()
        return super().__getitem__(item)

    @final_when_fresh
    @use_counter
    @check_update
    def __contains__(self, k: object) -> bool:
        if super().__contains__(k):
            return True
        try:
            self[k]  # type: ignore[index]
        except KeyError:
            return False
        return True


class TagDirectory(Directory):
    """A directory of the collections that have a certain tag, by uuid."""

    _lists_collections = True

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any,
        tag: str,
        poll: bool = False,
        poll_time: float = 60,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.api = api
        self.num_retries = num_retries
        self.tag = tag
        self._poll = poll
        self._poll_time = poll_time

    def want_event_subscribe(self) -> bool:
        return True

    @use_counter
    def update(self) -> None:
        with llfuse.lock_released:
            links = listing.every(
                self.api.links().list,
                f"tag {self.tag!r}",
                num_retries=self.num_retries,
                fields={"head_uuid": str},
                filters=[
                    ["link_class", "=", "tag"],
                    ["name", "=", self.tag],
                    ["head_uuid", "is_a", "arvados#collection"],
                    *self._filters_for("links", qualified=False),
                ],
                select=["uuid", "head_uuid"],
            )
        # A collection may have a tag more than once.
        collections = {link["head_uuid"]: link for link in links}
        self.merge(
            collections.values(),
            lambda i: i["head_uuid"],
            lambda a, i: a.collection_locator == i["head_uuid"],
            lambda i: CollectionDirectory(
                self.inode,
                self.inodes,
                self.api,
                self.num_retries,
                self._enable_write,
                self._filters,
                i["head_uuid"],
            ),
        )
