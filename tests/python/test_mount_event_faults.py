# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""An event bus that misbehaves: the mount listens on, and ends with no other status."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import change_by, poll, save_collection

UUID = "xlocl-4zz18-000000000000000"


def listening(cluster: LocalCluster) -> int:
    """How many connections to the event bus were taken since recording began."""
    return sum(r["service"] == "ws" for r in cluster.hook("requests", {}))


def change(cluster: LocalCluster, uuid: str, text: str) -> None:
    change_by(cluster.api(), uuid, text)


def follows(cluster: LocalCluster, uuid: str, file: Path, text: str, timeout: float = 20) -> None:
    """A change is seen long before the refresh time is over."""
    change(cluster, uuid, text)
    poll(f"{text!r} by an event", lambda: file.read_text() == text, timeout)


def event(**more: object) -> str:
    return json.dumps({"id": 1, "event_type": "update", "object_uuid": UUID, **more})


FRAMES = [
    "[]",
    "null",
    "17",
    '"text"',
    "{",
    "",
    "[" * 100_000,
    "{}",
    '{"status": "no"}',
    '{"id": [], "event_type": []}',
    '{"id": "x", "event_type": "update"}',
    event(object_uuid=None),
    event(object_uuid=[1]),
    event(object_uuid={"a": "b"}),
    event(object_uuid="\ud800"),
    event(object_owner_uuid=5),
    event(properties=[]),
    event(properties="text"),
    event(properties={"old_attributes": []}),
    event(properties={"old_attributes": "text"}),
    event(properties={"old_attributes": 5, "new_attributes": None}),
    event(properties={"old_attributes": {"owner_uuid": {}}}),
    event(properties={"old_attributes": {"owner_uuid": "\ud800"}}),
]


@pytest.mark.parametrize("daemon", [False, True], ids=["foreground", "daemon"])
def test_odd_frames_are_skipped(
    fresh_cluster: LocalCluster, arv_mount: Callable, daemon: bool
) -> None:
    uuid = save_collection(fresh_cluster, "c", "one")
    fresh_cluster.faults.add(service="ws", action="frames", value=FRAMES)
    mount = arv_mount("--refresh-time=600", "--home", daemon=daemon)
    file = mount.path / "c" / "f"
    assert file.read_text() == "one"
    follows(fresh_cluster, uuid, file, "two")
    follows(fresh_cluster, uuid, file, "three")
    log = mount.log.read_text()
    assert "Traceback" not in log and "a message that is no event was skipped" in log
    assert fresh_cluster.token() not in log
    assert len(log.splitlines()) < 40
    assert mount.unmount() in (0, None)


def test_a_message_that_is_too_long(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    """It breaks the connection, and is not asked for over and over."""
    uuid = save_collection(fresh_cluster, "c", "one")
    big = event(properties={"new_attributes": {"name": "n" * (2 << 20)}})
    fresh_cluster.faults.add(service="ws", action="frames", value=[big], count=2)
    mount = arv_mount("--refresh-time=600", "--home")
    file = mount.path / "c" / "f"
    assert file.read_text() == "one"
    poll("a line", lambda: "event bus at wss://" in mount.log.read_text())
    change(fresh_cluster, uuid, "two")
    poll("the change", lambda: file.read_text() == "two", 60)
    follows(fresh_cluster, uuid, file, "three")
    assert mount.unmount() == 0


def test_connections_that_are_taken_and_closed(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    uuid = save_collection(fresh_cluster, "c", "one")
    mount = arv_mount("--refresh-time=600", "--home")
    file = mount.path / "c" / "f"
    assert file.read_text() == "one"
    follows(fresh_cluster, uuid, file, "two")
    # Every connection is closed at once: more often than the SDK's client bore, if it did not pause.
    fresh_cluster.hook("requests/record", {"on": True})
    fresh_cluster.faults.add(service="ws", action="close", count=400)
    fresh_cluster.hook("ws/close", {})
    poll("connected again some times", lambda: listening(fresh_cluster) >= 5)
    start, before = time.monotonic(), listening(fresh_cluster)
    poll("and again", lambda: listening(fresh_cluster) >= before + 1, 40)
    assert (listening(fresh_cluster) - before) / (time.monotonic() - start) < 10, "it pauses"
    # What changed meanwhile is looked at again once there are events.
    change(fresh_cluster, uuid, "three")
    assert file.read_text() == "two"
    fresh_cluster.faults.clear()
    poll("the change in the gap", lambda: file.read_text() == "three", 60)
    follows(fresh_cluster, uuid, file, "four")
    assert mount.process.poll() is None
    assert "Traceback" not in mount.log.read_text()
    assert mount.unmount() == 0


@pytest.mark.parametrize("action", ["status", "hangup"])
def test_an_event_bus_that_is_away(
    fresh_cluster: LocalCluster, arv_mount: Callable, action: str
) -> None:
    uuid = save_collection(fresh_cluster, "c", "one")
    mount = arv_mount("--refresh-time=600", "--home")
    file = mount.path / "c" / "f"
    assert file.read_text() == "one"
    follows(fresh_cluster, uuid, file, "two")
    fresh_cluster.hook("requests/record", {"on": True})
    fresh_cluster.faults.add(service="ws", action=action, value=503)
    fresh_cluster.hook("ws/close", {})
    poll("tries to connect", lambda: listening(fresh_cluster) >= 3)
    change(fresh_cluster, uuid, "three")
    fresh_cluster.faults.clear()
    poll("the change in the gap", lambda: file.read_text() == "three", 60)
    follows(fresh_cluster, uuid, file, "four")
    assert "event bus at wss://" in mount.log.read_text()
    assert fresh_cluster.token() not in mount.log.read_text()
    assert mount.unmount() == 0


def test_polling_goes_on_after_failures(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    """Where there was no event bus at the start, the log of the API is polled."""
    uuid = save_collection(fresh_cluster, "c", "one")
    fresh_cluster.faults.add(service="ws", action="status", value=404)
    mount = arv_mount("--refresh-time=600", "--home", "--retries=0")
    file = mount.path / "c" / "f"
    assert file.read_text() == "one"
    follows(fresh_cluster, uuid, file, "two", 60)
    for rule in (
        {"action": "status", "value": 500},
        {"action": "body", "value": '{"items": [1]}'},
        {"action": "body", "value": "<html>"},
    ):
        fresh_cluster.faults.add(service="api", path="/logs", count=1, **rule)
    change(fresh_cluster, uuid, "three")
    poll("the change, by polling", lambda: file.read_text() == "three", 120)
    assert "events cannot be polled" in mount.log.read_text()
    assert "Traceback" not in mount.log.read_text()
    assert os.listdir(mount.path) == ["c"]
    assert mount.unmount() == 0
