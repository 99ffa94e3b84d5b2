# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`by_tag`: collections by the tags that links put on them."""

from typing import Any

import llfuse
from llfuse._core import final_when_fresh

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
        # Tags that were asked for by name; the listing is limited and may lack them.
        self._extra: set[str] = set()

    def want_event_subscribe(self) -> bool:
        return True

    def _tag_links(self, name_filter: list, **options: Any) -> Any:
        with llfuse.lock_released:
            return (
                self.api.links()
                .list(
                    filters=[
                        ["link_class", "=", "tag"],
                        name_filter,
                        *self._filters_for("links", qualified=False),
                    ],
                    **options,
                )
                .execute(num_retries=self.num_retries)
            )

    @use_counter
    def update(self) -> None:
        tags = self._tag_links(["name", "!=", ""], select=["name"], distinct=True, limit=1000)
        if "items" not in tags:
            return
        self.merge(
            tags["items"] + [{"name": name} for name in self._extra],
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

    @final_when_fresh
    @use_counter
    @check_update
    def __getitem__(self, item: str) -> Any:
        listed = super().__contains__(item)
        if not listed and self._tag_links(["name", "=", item], limit=1)["items"]:
            self._extra.add(item)
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
            links = (
                self.api.links()
                .list(
                    filters=[
                        ["link_class", "=", "tag"],
                        ["name", "=", self.tag],
                        ["head_uuid", "is_a", "arvados#collection"],
                        *self._filters_for("links", qualified=False),
                    ],
                    select=["head_uuid"],
                )
                .execute(num_retries=self.num_retries)
            )
        self.merge(
            links["items"],
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
