# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The core's client of the event bus, and whom it calls."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arvados.util
import llfuse
import pytest
from arvados_fuse import Operations, event_clients
from arvados_fuse.collection_dir import CollectionDirectory
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection
from inprocess import mounted
from llfuse import _core


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[bool] = []
        self.ends = 0
        self.told_of: list[Any] = []

    def subscribed(self, after_gap: bool) -> None:
        self.begun.append(after_gap)

    def ended(self) -> None:
        self.ends += 1

    def told(self, text: str) -> None:
        self.told_of.append(json.loads(text).get("object_uuid"))


def listen(cluster: LocalCluster, listener: Any, inodes: Any = None, **options: Any) -> Any:
    url = cluster.api()._rootDesc["websocketUrl"]
    given = {
        "filters": json.dumps([["event_type", "in", ["create", "update", "delete"]]]),
        "insecure": False,
        "ca_file": cluster.env()["SSL_CERT_FILE"],
        **options,
    }
    return _core.EventBus(f"{url}?api_token={cluster.token()}", listener, inodes=inodes, **given)


def rename(cluster: LocalCluster, uuid: str, name: str) -> None:
    cluster.api().collections().update(uuid=uuid, body={"collection": {"name": name}}).execute()


def test_it_tells_what_happens_until_it_is_closed(fresh_cluster: LocalCluster) -> None:
    listener = Listener()
    bus = listen(fresh_cluster, listener)
    poll("a subscription", lambda: listener.begun == [False])
    uuid = save_collection(fresh_cluster, "made")
    poll("the event", lambda: uuid in listener.told_of)
    bus.close()
    assert listener.ends == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "events"]
    told = len(listener.told_of)
    rename(fresh_cluster, uuid, "unheard")
    bus.close()
    assert len(listener.told_of) == told


def test_after_a_gap_it_goes_on_where_it_was(fresh_cluster: LocalCluster) -> None:
    listener = Listener()
    bus = listen(fresh_cluster, listener)
    poll("a subscription", lambda: listener.begun == [False])
    uuid = save_collection(fresh_cluster, "made")
    poll("the event", lambda: uuid in listener.told_of)
    fresh_cluster.faults.add(service="ws", action="status", value=503)
    fresh_cluster.hook("ws/close", {})
    poll("the end", lambda: listener.ends == 1)
    rename(fresh_cluster, uuid, "unheard so far")
    told = listener.told_of.count(uuid)
    fresh_cluster.faults.clear()
    poll("it is back", lambda: listener.begun == [False, True])
    poll("what it missed", lambda: listener.told_of.count(uuid) == told + 1)
    bus.close()


@pytest.fixture
def operations(fresh_cluster: LocalCluster, tmp_path: Path) -> Iterator[Operations]:
    """A mount of a collection in this process."""
    uuid, api = save_collection(fresh_cluster, "mounted"), fresh_cluster.api()

    def root(operations: Any) -> Any:
        record = {"uuid": uuid, "modified_at": None}
        return CollectionDirectory(
            llfuse.ROOT_INODE, operations.inodes, api, 2, False, collection_record=record
        )

    with mounted(tmp_path / "mnt", root, api=api) as operations:
        assert (tmp_path / "mnt" / "f").read_text() == "text"
        yield operations


def test_python_is_called_for_what_is_mounted_alone(
    fresh_cluster: LocalCluster, operations: Operations
) -> None:
    listener = Listener()
    bus = listen(fresh_cluster, listener, operations.inodes)
    poll("a subscription", lambda: listener.begun == [False])
    known = operations.inodes[llfuse.ROOT_INODE].uuid()
    others = [save_collection(fresh_cluster, f"{n}") for n in range(3)]
    for uuid in (*others, known):
        rename(fresh_cluster, uuid, f"renamed {uuid}")
    poll("the one", lambda: listener.told_of == [known])
    bus.close()


def test_what_cannot_be_had_is_told(fresh_cluster: LocalCluster) -> None:
    for fault, said in (
        ({"action": "status", "value": 403}, "the server answered 403"),
        ({"action": "status", "value": 200}, "the server answered 200"),
    ):
        fresh_cluster.faults.add(service="ws", **fault)
        with pytest.raises(ConnectionError, match=said):
            listen(fresh_cluster, Listener())
        fresh_cluster.faults.clear()
    with pytest.raises(ConnectionError, match="/no/such/file"):
        listen(fresh_cluster, Listener(), ca_file="/no/such/file")
    with pytest.raises(ConnectionError, match="filters"):
        listen(fresh_cluster, Listener(), filters="no JSON")


def test_a_program_that_subscribes_otherwise_is_asked(
    fresh_cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("arvados.events.subscribe", lambda *args: asked.append(args) or "theirs")
    found = event_clients.subscribe("an API", [], print)
    assert found == "theirs" and asked == [("an API", [], print)]
    assert arvados.util.ca_certs_path()
