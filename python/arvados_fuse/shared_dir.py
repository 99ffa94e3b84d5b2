# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`shared`: projects that others share with the user, by who they are."""

import threading
from typing import Any

import llfuse

from . import listing
from .directory import Directory
from .fresh import use_counter
from .project_dir import ProjectDirectory

_PROJECT: listing.Fields = {"uuid": str, "owner_uuid": str}


class SharedDirectory(Directory):
    """A directory of the users and groups that share projects with the user."""

    def __init__(
        self,
        parent_inode: int,
        inodes: Any,
        api: Any,
        num_retries: int,
        enable_write: bool,
        filters: Any,
        exclude: Any,
        poll_time: float = 60,
        storage_classes: Any = None,
    ) -> None:
        super().__init__(parent_inode, inodes, enable_write, filters)
        self.api = api
        self.num_retries = num_retries
        self.current_user = listing.record(
            api.users().current().execute(num_retries=num_retries), "the user"
        )
        self._poll = True
        self._poll_time = poll_time
        self._updating_lock = threading.Lock()
        self.storage_classes = storage_classes

    @use_counter
    def update(self) -> None:
        with llfuse.lock_released:
            self._updating_lock.acquire()
        try:
            if not self.stale():
                return
            with llfuse.lock_released:
                contents = self._contents()
            self.merge(
                contents,
                lambda i: i[0],
                lambda a, i: a.uuid() == i[1]["uuid"],
                lambda i: ProjectDirectory(
                    self.inode,
                    self.inodes,
                    self.api,
                    self.num_retries,
                    self._enable_write,
                    self._filters,
                    i[1],
                    poll_time=self._poll_time,
                    storage_classes=self.storage_classes,
                ),
            )
        finally:
            self._updating_lock.release()

    def _contents(self) -> list[tuple[Any, dict]]:
        """Return what to list: names and records of projects and users, the first of a name being the
        one that is shown."""
        methods = self.api._rootDesc.get("resources")["groups"]["methods"]
        if "httpMethod" in methods.get("shared", {}):
            objects, roots, owners = self._shared()
        else:
            objects, roots, owners = self._shared_as_computed_here()
        contents = []
        for uuid in roots:
            project = objects.get(uuid)
            if project is not None and project["owner_uuid"] not in objects:
                contents.append((project.get("name"), project))
        for uuid in sorted(owners):
            owner = objects.get(uuid)
            if owner is None:
                continue
            if owner.get("name"):
                contents.append((owner["name"], owner))
            elif "first_name" in owner:
                contents.append(
                    ("{} {}".format(owner["first_name"], owner.get("last_name")), owner)
                )
        return contents

    def _shared(self) -> tuple[dict[str, dict], list[str], set[str]]:
        objects: dict[str, dict] = {}
        roots: list[str] = []
        owners: set[str] = set()
        for projects, answer in listing.pages(
            self.api.groups().shared,
            "shared projects",
            num_retries=self.num_retries,
            fields=_PROJECT,
            filters=[
                ["group_class", "in", ["project", "filter"]],
                *self._filters_for("groups", qualified=False),
            ],
            include="owner_uuid",
        ):
            for project in projects:
                objects[project["uuid"]] = project
                roots.append(project["uuid"])
            for owner in listing.page(answer, "shared projects", part="included"):
                objects[owner["uuid"]] = owner
                owners.add(owner["uuid"])
        return objects, roots, owners

    def _shared_as_computed_here(self) -> tuple[dict[str, dict], list[str], set[str]]:
        """For clusters whose API cannot tell what is shared."""

        def every(method: Any, **query: Any) -> list[dict]:
            return listing.every(method, "shared projects", num_retries=self.num_retries, **query)

        projects = every(
            self.api.groups().list,
            filters=[
                ["group_class", "in", ["project", "filter"]],
                *self._filters_for("groups", qualified=False),
            ],
            select=["uuid", "owner_uuid"],
            fields=_PROJECT,
        )
        objects = {project["uuid"]: project for project in projects}
        roots = [
            project["uuid"]
            for project in projects
            if project["owner_uuid"] != self.current_user["uuid"]
            and project["owner_uuid"] not in objects
        ]
        owners = {objects[uuid]["owner_uuid"] for uuid in roots}
        users = every(
            self.api.users().list,
            filters=[
                ["uuid", "in", list(owners)],
                *self._filters_for("users", qualified=False),
            ],
        )
        groups = every(
            self.api.groups().list,
            filters=[
                ["uuid", "in", list(owners) + roots],
                *self._filters_for("groups", qualified=False),
            ],
        )
        for found in (users, groups):
            objects.update((record["uuid"], record) for record in found)
        return objects, roots, owners

    def want_event_subscribe(self) -> bool:
        return True
