# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections of one listing: whoever walks it does not wait for a request for each."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arvados.collection
import httplib2
import pytest
from arvados_fuse import sibling_records
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.sibling_records import SiblingRecords
from conftest import poll, save_collection
from googleapiclient.errors import HttpError

Uuids = dict[str, str]


def make_collections(cluster: LocalCluster, project: str, count: int) -> Uuids:
    """Make so many collections in a project; return their uuids by name. Each has its name as text."""
    names = [f"c{number:03}" for number in range(count)]
    return {name: save_collection(cluster, name, name, owner_uuid=project) for name in names}


@pytest.fixture
def project(fresh_cluster: LocalCluster) -> str:
    body = {"name": "walked", "group_class": "project"}
    return fresh_cluster.api().groups().create(body=body).execute()["uuid"]


def asked(cluster: LocalCluster) -> tuple[int, int]:
    """Return how many requests there were for one collection, and for several."""
    paths = [r["path"] for r in cluster.requests() if r["service"] == "api"]
    several = paths.count("/arvados/v1/collections")
    return sum("/collections/" in path for path in paths), several


def listed(path: Path) -> list[str]:
    """Return the names of collections, in the order in which they are listed."""
    return [entry.name for entry in os.scandir(path) if entry.name.startswith("c")]


def walked(path: Path) -> dict[str, str]:
    """Return the texts of the files below, as they are found."""
    return {
        str((Path(above) / name).relative_to(path)): (Path(above) / name).read_text()
        for above, _, files in os.walk(path)
        for name in files
    }


def test_a_start_is_three_requests(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str
) -> None:
    fresh_cluster.record_requests()
    arv_mount("--project", project)
    paths = [r["path"] for r in fresh_cluster.requests() if r["service"] == "api"]
    # The discovery document is cached by the SDK; Keep's services are asked for with the first block.
    asked_for = [path for path in paths if not path.startswith(("/discovery", "/arvados/v1/keep"))]
    expected = ["/arvados/v1/config", "/arvados/v1/users/current", f"/arvados/v1/groups/{project}"]
    assert sorted(asked_for) == sorted(expected)


def test_a_walk_is_a_few_requests(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str
) -> None:
    uuids = make_collections(fresh_cluster, project, 100)
    mount = arv_mount("--project", project)
    fresh_cluster.record_requests()
    assert walked(mount.path) == {f"{name}/f": name for name in uuids}
    # Beside those of the start, and for Keep's services.
    about = ("/arvados/v1/groups/", "/arvados/v1/collections")
    requests = [r for r in fresh_cluster.requests() if r["path"].startswith(about)]
    assert len(requests) <= 8, requests
    # What is known is not asked for again.
    fresh_cluster.record_requests()
    assert walked(mount.path) == {f"{name}/f": name for name in uuids}
    assert asked(fresh_cluster) == (0, 0)


def test_a_tag_is_walked_in_a_few_requests(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str
) -> None:
    uuids = make_collections(fresh_cluster, project, 20)
    for uuid in uuids.values():
        link = {"link_class": "tag", "name": "red", "head_uuid": uuid}
        fresh_cluster.api().links().create(body=link).execute()
    mount = arv_mount("--by-tag")
    fresh_cluster.record_requests()
    found = walked(mount.path)
    assert found == {f"red/{uuid}/f": name for name, uuid in uuids.items()}
    assert asked(fresh_cluster) <= (1, 2)


def test_who_enters_one_is_sent_no_other(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str
) -> None:
    make_collections(fresh_cluster, project, 5)
    mount = arv_mount("--project", project)
    os.listdir(mount.path)
    fresh_cluster.record_requests()
    assert (mount.path / "c002" / "f").read_text() == "c002"
    assert asked(fresh_cluster) == (1, 0)


@pytest.mark.parametrize("how", ["events", "polling"])
def test_what_changed_since_is_seen(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str, how: str
) -> None:
    uuids = make_collections(fresh_cluster, project, 8)
    more = {
        "polling": ["--disable-event-listening", "--refresh-time=1"],
        "events": ["--refresh-time=600"],
    }
    mount = arv_mount("--project", project, *more[how])
    first, second, _, rewritten, gone, *_, last = listed(mount.path)
    assert (mount.path / first / "f").read_text() == first
    fresh_cluster.record_requests()
    assert (mount.path / second / "f").read_text() == second
    assert asked(fresh_cluster) == (0, 1)
    changed = arvados.collection.Collection(uuids[rewritten], api_client=fresh_cluster.api())
    with changed.open("f", "w") as file:
        file.write("changed")
    changed.save()
    fresh_cluster.api().collections().trash(uuid=uuids[gone]).execute()

    def is_seen() -> bool:
        with contextlib.suppress(OSError):
            return (mount.path / rewritten / "f").read_text() == "changed"
        return False

    poll("it is seen", is_seen)
    poll("it is gone", lambda: not (mount.path / gone).exists())
    assert (mount.path / last / "f").read_text() == last


def test_where_several_cannot_be_had_one_by_one_can(
    arv_mount: Callable, fresh_cluster: LocalCluster, project: str
) -> None:
    uuids = make_collections(fresh_cluster, project, 12)
    mount = arv_mount("--project", project, "--retries=0")
    os.listdir(mount.path)
    fault = {"action": "status", "value": 400}
    fresh_cluster.faults.add(service="api", path="/arvados/v1/collections$", **fault)
    assert walked(mount.path) == {f"{name}/f": name for name in uuids}


class Api:
    """An API that has collections, and takes its time."""

    def __init__(self, has: dict[str, dict]) -> None:
        self.has = has
        self.queries: list[list[str]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.error: Exception | None = None

    def collections(self) -> "Api":
        return self

    def list(self, *, filters: list, select: list[str], limit: int, count: str) -> "Api":
        [[field, operator, uuids]] = filters
        assert (field, operator, limit, count) == ("uuid", "in", len(uuids), "none")
        assert "manifest_text" in select
        self.queries.append(uuids)
        return self

    def execute(self, num_retries: int) -> dict:
        uuids = self.queries[-1]
        assert self.goes_on.wait(20)
        if self.error is not None:
            raise self.error
        return {"items": [self.has[uuid] for uuid in uuids if uuid in self.has]}


def records(count: int, text: str = "") -> dict[str, dict]:
    names = [f"u{number:03}" for number in range(count)]
    return {
        name: {"uuid": name, "portable_data_hash": "h", "manifest_text": text} for name in names
    }


def load(siblings: SiblingRecords, has: dict[str, dict], uuid: str) -> Any:
    following = [other for other in has if other > uuid]
    found = siblings.get(uuid, siblings.wanted(uuid, following))
    return found and found.record


def test_more_are_asked_for_each_time() -> None:
    has = records(200)
    api = Api(has)
    siblings = SiblingRecords(api, 2)
    # The first one is asked for alone.
    assert [load(siblings, has, uuid) for uuid in has] == [None, *list(has.values())[1:]]
    assert [len(uuids) for uuids in api.queries] == [12, 96, 91]
    assert sum(api.queries, []) == list(has)[1:]


def test_long_manifests_are_asked_for_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sibling_records, "_MOST_TEXT", 10_000)
    has = records(40, "x" * 3000)
    api = Api(has)
    siblings = SiblingRecords(api, 2)
    for uuid in has:
        load(siblings, has, uuid)
    assert max(len(uuids) for uuids in api.queries[1:]) == 3
    assert len(siblings._ahead) <= 3


def test_what_is_outdated_while_it_comes_is_not_used() -> None:
    has = records(8)
    api = Api(has)
    siblings = SiblingRecords(api, 2)
    load(siblings, has, "u000")
    api.goes_on.clear()
    loading = threading.Thread(target=load, args=(siblings, has, "u001"))
    loading.start()
    poll("it is asked for", lambda: api.queries)
    siblings.forget("u003")
    answers: list[Any] = []
    waiting = [
        threading.Thread(target=lambda uuid=uuid: answers.append(load(siblings, has, uuid)))
        for uuid in ("u002", "u004")
    ]
    for thread in waiting:
        thread.start()
    # That one is not waited for, but asked for anew.
    assert siblings.wanted("u003", []) == ["u003"]
    api.goes_on.set()
    for thread in [loading, *waiting]:
        thread.join(20)
    assert sorted(answer["uuid"] for answer in answers) == ["u002", "u004"]
    assert set(siblings._ahead) == {"u005", "u006", "u007"}


@pytest.mark.parametrize("fails", ["refused", "unreachable"])
def test_who_waits_for_what_fails_asks_alone(fails: str) -> None:
    has = records(8)
    api = Api(has)
    siblings = SiblingRecords(api, 2)
    load(siblings, has, "u000")
    refused = HttpError(httplib2.Response({"status": 422}), b"{}")
    api.error = refused if fails == "refused" else OSError("unreachable")
    with contextlib.suppress(OSError):
        assert load(siblings, has, "u001") is None
    assert siblings.wanted("u002", []) == ["u002"]
    assert not siblings._ahead and not siblings._under_way


def test_what_nobody_wanted_soon_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    has = records(100)
    api = Api(has)
    siblings = SiblingRecords(api, 2)
    for uuid in ("u000", "u001"):
        load(siblings, has, uuid)
    later = time.time() + 11
    monkeypatch.setattr(time, "time", lambda: later)
    assert load(siblings, has, "u002") == has["u002"]
    assert [len(uuids) for uuids in api.queries] == [12, 12]
