# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Saving while Keep, the API or the disk fail: that call's errno and a line in the log, and nothing lost.

What was written stays as it was, is saved once that is possible, and named where it never is.
"""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, poll, save_collection
from raw_syscalls import RENAME_EXCHANGE, renameat2
from test_mount_saving import contents, rewrite, shown
from test_mount_server_faults import KEEP_WRITE, UNHANDLED, assert_eio, lines_of

#: More than a program, the kernel or a connection has in a buffer.
TEXT = "what is written\n" * 20_000


@pytest.fixture
def uuid(fresh_cluster: LocalCluster) -> str:
    return save_collection(fresh_cluster, "saved")


def mount_of(arv_mount: Callable, uuid: str, *options: str) -> Mounted:
    """Mount a collection, and look at it."""
    mount = arv_mount("--read-write", "--collection", uuid, *options)
    assert "f" in os.listdir(mount.path)
    return mount


def updates(cluster: LocalCluster) -> int:
    """How often the record was to be changed since `record_requests()`."""
    return len([r for r in cluster.requests() if (r["service"], r["method"]) == ("api", "PUT")])


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def assert_stays_and_is_saved_later(
    cluster: LocalCluster, mount: Mounted, uuid: str, unsaved: dict[str, str]
) -> None:
    """Of a collection with `f`: what could not be saved can be read, and is saved after the fault."""
    assert {name: (mount.path / name).read_text() for name in unsaved} == unsaved
    assert contents(cluster, uuid) == {"f": "text"}
    cluster.faults.clear()
    with contextlib.suppress(OSError):
        # On a slow machine a save that comes unasked, after 5 s, may be under way, and fail.
        fsync(mount.path / next(iter(unsaved)))
    fsync(mount.path / next(iter(unsaved)))
    assert contents(cluster, uuid) == {"f": "text", **unsaved} == shown(mount.path)
    assert mount.unmount() == 0


#: What services do with a block, and what the log says of it.
KEEP = {
    "refused": ({"action": "status", "value": 403}, "403"),
    "too large": ({"action": "status", "value": 413}, "413"),
    "busy": ({"action": "status", "value": 503}, "503"),
    "closed": ({"action": "hangup"}, "0 of 2 copies stored"),
    "closed in mid block": ({"action": "cut"}, "0 of 2 copies stored"),
    "not told of": ({"action": "lost"}, "0 of 2 copies stored"),
    "one copy": ({"action": "status", "value": 503, "host": "ONE"}, "1 of 2 copies stored"),
    "another class": ({"action": "classes", "value": "cold=2"}, "too few of storage class default"),
    "another block": ({"action": "wrong"}, "0 of 2 copies stored"),
}


@pytest.mark.parametrize("what", KEEP)
def test_what_keep_does_not_store(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, what: str
) -> None:
    fault, said = KEEP[what]
    if "host" in fault:
        one = fresh_cluster.api().keep_services().accessible().execute()["items"][0]
        fault = {**fault, "host": f"{one['service_host']}:{one['service_port']}"}
    mount = mount_of(arv_mount, uuid, "--retries=0")
    file = open(mount.path / "new", "w")
    file.write(TEXT)
    file.flush()
    fresh_cluster.faults.add(service="keep", method="PUT", **fault)
    assert_eio(file.close)
    (line,) = lines_of(mount)
    assert f": {KEEP_WRITE}: " in line and said in line, line
    assert_stays_and_is_saved_later(fresh_cluster, mount, uuid, {"new": TEXT})


def test_what_keep_stalls_is_saved_when_it_goes_on(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = mount_of(arv_mount, uuid)
    fresh_cluster.faults.add(service="keep", method="PUT", action="stall")
    writing = threading.Thread(target=(mount.path / "new").write_text, args=(TEXT,))
    writing.start()
    try:
        poll("it waits", fresh_cluster.faults.stalled)
        assert (mount.path / "new").read_text() == TEXT
        assert contents(fresh_cluster, uuid) == {"f": "text"}
    finally:
        fresh_cluster.faults.clear()
        writing.join(60)
    assert contents(fresh_cluster, uuid) == {"f": "text", "new": TEXT}
    assert lines_of(mount) == [] and mount.unmount() == 0


#: What the API does with an update, and what the log says of it.
API = {
    **{
        f"{status}": ({"action": "status", "value": status}, f"answered {status}")
        for status in (400, 403, 404, 409, 422, 500, 502, 503)
    },
    "401": ({"action": "status", "value": 401}, "does not accept the token"),
    "hangup": ({"action": "hangup"}, "cannot be reached"),
    "stall": ({"action": "stall"}, "cannot be reached: no answer within 2 s"),
    "cut": ({"action": "cut"}, "the answer was cut short"),
    "body": ({"action": "body", "value": "<html>busy</html>"}, "is no record"),
}


@pytest.mark.parametrize("what", API)
def test_what_the_api_does_not_save(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, what: str
) -> None:
    fault, said = API[what]
    mount = mount_of(arv_mount, uuid, "--retries=0", "--api-timeout=2")
    began = time.monotonic()
    (mount.path / "d").mkdir()
    file = open(mount.path / "d" / "new", "w")
    file.write(TEXT)
    file.flush()
    fresh_cluster.faults.add(service="api", method="PUT", **fault)
    fresh_cluster.record_requests()
    assert_eio(file.close)
    # On a slow machine it is saved unasked, too: every 5 seconds.
    saves = 1 + int((time.monotonic() - began) / 5)
    # Once more, where the connection might have been an old one.
    assert updates(fresh_cluster) <= 2 * saves
    assert_eio(lambda: (mount.path / "d" / "new").rename(mount.path / "d" / "renamed"))
    (line,) = lines_of(mount)
    assert f": {UNHANDLED}: " in line and said in line, line
    assert fresh_cluster.api_host in line, line
    assert_stays_and_is_saved_later(fresh_cluster, mount, uuid, {"d/renamed": TEXT})


def test_what_fails_for_a_while_is_saved_by_that_call(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = mount_of(arv_mount, uuid, "--retries=3")
    for service in ("keep", "api"):
        fresh_cluster.faults.add(service=service, method="PUT", action="status", value=503, count=2)
    (mount.path / "new").write_text(TEXT)
    assert contents(fresh_cluster, uuid) == {"f": "text", "new": TEXT}
    assert lines_of(mount) == [] and mount.unmount() == 0


def test_what_could_not_be_saved_is_tried_again_unasked(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    mount = mount_of(arv_mount, uuid, "--retries=0")
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)

    def append() -> None:
        with open(mount.path / "f", "a") as file:
            file.write(", more")

    began = time.monotonic()
    assert_eio(append)
    fresh_cluster.record_requests()
    time.sleep(1)
    # Nor does the kernel's release of what could not be saved try it at once.
    assert not updates(fresh_cluster) or time.monotonic() - began > 5
    fresh_cluster.faults.clear()
    poll("it is saved", lambda: contents(fresh_cluster, uuid) == {"f": "text, more"})
    # Where that fails, too, what is changed meanwhile waits no longer than ever.
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
    assert_eio(append)
    # One save is under way at a time: those of the close have ended then.
    assert_eio(lambda: fsync(mount.path / "f"))
    fresh_cluster.record_requests()
    poll("it is tried again", lambda: updates(fresh_cluster))
    assert_eio(lambda: fsync(mount.path / "f"))
    fresh_cluster.faults.clear()
    (mount.path / "d").mkdir()
    poll("it is saved", lambda: "d" in contents(fresh_cluster, uuid), timeout=15)
    assert contents(fresh_cluster, uuid) == {"f": "text, more, more", "d": None}


#: What is changed in a collection with `f` and `g`, and what comes of it.
CHANGES: dict[str, tuple[Callable[[Path], object], dict[str, str]]] = {
    "exchange": (
        lambda path: renameat2(path / "f", path / "g", RENAME_EXCHANGE),
        {"f": "other", "g": "text"},
    ),
    "replace": (lambda path: (path / "g").rename(path / "f"), {"f": "other"}),
    "remove": (lambda path: (path / "g").unlink(), {"f": "text"}),
    "write": (lambda path: (path / "f").write_text("new"), {"f": "new", "g": "other"}),
}
LOST = {"hangup": {}, "504": {"value": 504}}


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("change", CHANGES)
def test_an_update_whose_answer_is_lost_is_made_once(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, change: str, lost: str
) -> None:
    do, expected = CHANGES[change]
    rewrite(fresh_cluster, uuid, g="other")
    mount = mount_of(arv_mount, uuid, "--retries=3")
    fresh_cluster.record_requests()
    fresh_cluster.faults.add(service="api", method="PUT", action="lost", count=1, **LOST[lost])
    do(mount.path)
    assert updates(fresh_cluster) == 1
    assert contents(fresh_cluster, uuid) == expected == shown(mount.path)
    (mount.path / "next").write_text("saved")
    assert contents(fresh_cluster, uuid) == {**expected, "next": "saved"} == shown(mount.path)
    assert lines_of(mount) == [] and mount.unmount() == 0


@pytest.mark.parametrize("events", [True, False], ids=["events", "no events"])
def test_an_update_that_was_made_and_told_as_failed_is_not_made_again(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, events: bool
) -> None:
    rewrite(fresh_cluster, uuid, g="other")
    options = () if events else ("--disable-event-listening",)
    mount = mount_of(arv_mount, uuid, "--retries=1", *options)
    # Whether it was made cannot be found out in time; the event of it comes before that is clear.
    fresh_cluster.faults.add(service="api", method="PUT", action="lost", value=504, count=1)
    fresh_cluster.faults.add(service="api", method="GET", action="status", value=504)
    assert_eio(lambda: renameat2(mount.path / "f", mount.path / "g", RENAME_EXCHANGE))
    fresh_cluster.faults.clear()
    (mount.path / "next").write_text("saved")
    expected = {"f": "other", "g": "text", "next": "saved"}
    assert contents(fresh_cluster, uuid) == expected == shown(mount.path)
    assert mount.unmount() == 0


def test_who_saves_while_an_answer_is_lost_replaces_nothing(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    """The update is made, somebody else makes a file of a name that it moved away, and only then it would
    be made once more."""
    mount = mount_of(arv_mount, uuid, "--retries=3")
    fresh_cluster.faults.add(service="api", method="PUT", action="lost", value=504, count=1)
    renaming = threading.Thread(target=(mount.path / "f").rename, args=(mount.path / "g",))
    renaming.start()
    poll("it is made", lambda: contents(fresh_cluster, uuid) == {"g": "text"})
    rewrite(fresh_cluster, uuid, f="theirs")
    renaming.join(60)
    poll("the mount shows it", lambda: shown(mount.path) == contents(fresh_cluster, uuid))
    assert sorted(shown(mount.path).values()) == ["text", "theirs"]


def test_a_token_that_has_expired(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str
) -> None:
    other = save_collection(fresh_cluster, "other")
    untouched = save_collection(fresh_cluster, "untouched")
    mount = arv_mount("--read-write", "--retries=0", "--mount-by-id", "by_id")
    places = [mount.path / "by_id" / name for name in (uuid, other, untouched)]
    for place in places:
        assert os.listdir(place) == ["f"]
    for service in ("api", "keep"):
        fresh_cluster.faults.add(service=service, action="status", value=401)
    for place in places[:2]:
        assert_eio(lambda place=place: (place / "new").write_text("new"))
        assert (place / "new").read_text() == "new"
        # Its directory is open to whoever has looked at it before.
        assert sorted(os.listdir(place)) == ["f", "new"]
    assert mount.unmount() == 1
    named = [line for line in lines_of(mount) if "could not save" in line]
    assert sorted(line.split("could not save ")[1][:27] for line in named) == sorted([uuid, other])
    assert fresh_cluster.token().split("/")[-1] not in mount.log.read_text()
    fresh_cluster.faults.clear()
    for which in (uuid, other, untouched):
        assert contents(fresh_cluster, which) == {"f": "text"}


def test_a_full_disk_costs_nothing_that_is_written(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuid: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", cache], check=True)
    try:
        mount = mount_of(arv_mount, uuid, "--disk-cache", f"--disk-cache-dir={cache}")
        written = {f"{number}": os.urandom(2 << 20) for number in range(4)}
        for name, data in written.items():
            (mount.path / name).write_bytes(data)
        assert len(list(cache.rglob("*.keepcacheblock"))) < len(written)
        saved = arvados.collection.CollectionReader(uuid, api_client=fresh_cluster.api())
        for name, data in written.items():
            with saved.open(name, "rb") as file:
                assert file.read() == data
            descriptor = os.open(mount.path / name, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            assert (mount.path / name).read_bytes() == data
        assert lines_of(mount) == [] and mount.unmount() == 0
    finally:
        subprocess.run(["umount", "-l", cache], check=True)


def test_what_is_unsaved_stays_where_memory_is_short(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    uuids = [save_collection(fresh_cluster, f"c{number}") for number in range(40)]
    options = ("--retries=0", "--directory-cache=1", "--refresh-time=600")
    mount = arv_mount("--read-write", "--mount-by-id", "by_id", *options)
    places = [mount.path / "by_id" / uuid for uuid in uuids]
    fresh_cluster.faults.add(service="api", method="PUT", action="status", value=500)
    for place in places[:10]:
        assert_eio(lambda place=place: (place / "new").write_text(place.name))
    fresh_cluster.record_requests()

    def all_others() -> bool:
        """Read all others; return whether one was loaded twice."""
        for place in places[10:]:
            assert (place / "f").read_text() == "text"
        requests = str(fresh_cluster.requests())
        return any(requests.count(uuid) > 1 for uuid in uuids[10:])

    poll("others are evicted", all_others)
    for place in places[:10]:
        assert sorted(os.listdir(place)) == ["f", "new"]
        assert (place / "new").read_text() == place.name
    fresh_cluster.faults.clear()
    for place in places[:5]:
        fsync(place / "new")
    assert mount.unmount() == 0
    for uuid in uuids[:10]:
        assert contents(fresh_cluster, uuid) == {"f": "text", "new": uuid}


def test_what_scratch_space_cannot_store_stays(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    """It is never saved, but asked for by its manifest."""
    mount = arv_mount("--read-write", "--retries=0", "--mount-tmp=tmp")
    scratch = mount.path / "tmp"
    (scratch / "new").write_text(TEXT)
    fresh_cluster.faults.add(service="keep", method="PUT", action="wrong")
    assert_eio((scratch / ".arvados#collection").read_text)
    assert KEEP_WRITE in lines_of(mount)[0]
    assert (scratch / "new").read_text() == TEXT
    fresh_cluster.faults.clear()
    assert ":new" in (scratch / ".arvados#collection").read_text()
    assert mount.unmount() == 0
