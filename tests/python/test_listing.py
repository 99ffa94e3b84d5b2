# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Listings of several pages: in what order they are asked for, and that they are complete."""

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from arvados_fuse import listing
from arvados_fuse.apierrors import ServerError
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Api:
    """Lists records, and notes what it was asked for."""

    def __init__(self, uuids: list[str]) -> None:
        self.uuids = sorted(uuids)
        self.asked: list[list] = []
        #: Called with the filters of each page.
        self.before: Callable[[list], Any] = lambda filters: None
        self._lock = threading.Lock()

    def list(self, *, filters: list, order: list, limit: int, count: str) -> "Api.Query":
        assert (order, count) == (["uuid asc"], "none")
        return Api.Query(self, filters, limit)

    class Query:
        def __init__(self, api: "Api", filters: list, limit: int) -> None:
            self.api, self.filters, self.limit = api, filters, limit

        def execute(self, num_retries: int) -> dict:
            with self.api._lock:
                self.api.asked.append(self.filters)
            self.api.before(self.filters)
            found = self.api.uuids
            for key, operator, value in self.filters:
                assert key == "uuid" and operator in (">", "<=")
                found = [uuid for uuid in found if (uuid > value) == (operator == ">")]
            return {"items": [{"uuid": uuid} for uuid in found[: self.limit]]}


def every(api: Api, **how: Any) -> list[str]:
    return [item["uuid"] for item in listing.every(api.list, "things", num_retries=0, **how)]


def uuids(chance: random.Random, count: int) -> list[str]:
    return [f"xlocl-4zz18-{''.join(chance.choices(LETTERS, k=15))}" for _ in range(count)]


def test_a_long_listing_is_asked_for_side_by_side(chance: random.Random) -> None:
    api = Api(uuids(chance, 6_000))
    first = threading.Barrier(4, timeout=20)
    begun: set[str] = set()

    def together(filters: list) -> None:
        """All parts have to have begun before one goes on."""
        thread = threading.current_thread().name + str(threading.get_ident())
        if filters and thread not in begun:
            begun.add(thread)
            first.wait()

    api.before = together
    assert every(api, beside=True) == api.uuids
    # A page, and parts of some 1,250 with two pages and an end each.
    assert len(api.asked) <= 1 + 4 * 4, api.asked


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 1999, 2000, 2500, 10_000])
@pytest.mark.parametrize("kind", ["random", "in a row", "odd"])
def test_it_is_the_same_in_parts(chance: random.Random, count: int, kind: str) -> None:
    api = Api(
        {
            "random": lambda: uuids(chance, count),
            "in a row": lambda: [f"xlocl-4zz18-{number:015d}" for number in range(count)],
            "odd": lambda: [f"other-4zz18-{chance.random()}" for _ in range(count)],
        }[kind]()
    )
    assert every(api) == api.uuids
    asked = len(api.asked)
    api.asked.clear()
    assert every(api, beside=True) == api.uuids
    # Some more ends; none where it is short.
    assert len(api.asked) <= asked + (6 if count > 1000 else 3 if count == 1000 else 0)


def test_where_a_part_fails_all_does(chance: random.Random) -> None:
    api = Api(uuids(chance, 6_000))

    def fail(filters: list) -> None:
        if filters and not [f for f in filters if f[1] == "<="]:
            raise ServerError("the last part")

    api.before = fail
    with pytest.raises(ServerError, match="the last part"):
        every(api, beside=True)


def test_a_server_that_has_no_idea_of_parts_gives_nothing_twice(chance: random.Random) -> None:
    api = Api(uuids(chance, 6_000))
    query = api.list
    api.list = lambda **asked: query(  # type: ignore[method-assign]
        **{**asked, "filters": [f for f in asked["filters"] if f[1] != "<="]}
    )
    assert sorted(every(api, beside=True)) == api.uuids


def test_a_project_is_listed_as_a_whole(
    arv_mount: Callable, fresh_cluster: LocalCluster, chance: random.Random
) -> None:
    first = (
        fresh_cluster.api().collections().get(uuid=save_collection(fresh_cluster, "c")).execute()
    )
    kept = ("owner_uuid", "manifest_text", "portable_data_hash", "created_at", "modified_at")
    made = uuids(chance, 5_000)
    records = [
        {name: first[name] for name in kept} | {"uuid": uuid, "name": f"c{number}"}
        for number, uuid in enumerate(made)
    ]
    fresh_cluster.load_fixtures({"collections": records})
    mount = arv_mount("--home", "--disable-event-listening")
    fresh_cluster.record_requests()
    assert {entry.name for entry in mount.path.iterdir()} == {"c", *(f"c{n}" for n in range(5_000))}
    asked = [r for r in fresh_cluster.requests() if r["path"].endswith("/contents")]
    # One page in a row would be 8.
    assert len(asked) > 8, asked


def test_a_project_and_what_is_in_it_are_asked_for_at_once(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    body = {"name": "p", "group_class": "project"}
    project = fresh_cluster.api().groups().create(body=body).execute()["uuid"]
    save_collection(fresh_cluster, "c", owner_uuid=project)
    mount = arv_mount("--project", project, "--disable-event-listening")
    found: list[str] = []
    looking = threading.Thread(target=lambda: found.extend(os.listdir(mount.path)))
    fresh_cluster.faults.add(service="api", path="/groups/", action="stall")
    looking.start()
    try:
        # Its record, the projects in it, and the collections.
        poll("all are asked for", lambda: fresh_cluster.faults.stalled() == 3)
    finally:
        fresh_cluster.faults.clear()
        looking.join(60)
    assert found == ["c"]
