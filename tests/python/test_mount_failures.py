# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""An API or Keep that fails is EIO, never an empty listing or a missing file; then it recovers."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import errno_of, poll, save_collection

FAULTS = [
    {"action": "status", "value": 500},
    {"action": "status", "value": 401},
    {"action": "status", "value": 503},
    {"action": "hangup"},
]


def assert_eio(do: Callable[[], object]) -> None:
    with pytest.raises(OSError) as error:
        print("no error, but", do())
    assert error.value.errno == errno.EIO


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: f"{fault['action']}{fault.get('value', '')}"
)
def test_a_failing_api_is_eio(
    fresh_cluster: LocalCluster, arv_mount: Callable, fault: dict
) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--retries=0", "--refresh-time=1", "--disable-event-listening")
    top = mount.path
    assert (top / "README").read_text()
    fresh_cluster.faults.add(service="api", **fault)
    for do in (
        lambda: os.listdir(top / "home"),
        lambda: os.stat(top / "home" / "c"),
        lambda: os.stat(top / "home" / "nothing"),
        lambda: os.listdir(top / "shared"),
        lambda: os.listdir(top / "by_tag"),
        lambda: os.stat(top / "by_tag" / "t"),
        lambda: os.stat(top / "by_id" / uuid),
        lambda: os.listdir(top / "by_id" / uuid),
        lambda: os.stat(top / "by_id" / "xlocl-j7d0g-000000000000000"),
    ):
        assert_eio(do)
    assert (top / "README").read_text(), "the mount lives on"
    fresh_cluster.faults.clear()
    assert os.listdir(top / "home") == ["c"]
    assert (top / "by_id" / uuid / "f").read_text() == "text"
    assert os.listdir(top / "shared") == [] and os.listdir(top / "by_tag") == []
    with pytest.raises(FileNotFoundError):
        os.stat(top / "home" / "nothing")
    with pytest.raises(FileNotFoundError):
        os.stat(top / "by_id" / "xlocl-4zz18-000000000000000")
    # What was loaded before goes stale and cannot be refreshed: that is an error, too.
    fresh_cluster.faults.add(service="api", **fault)
    poll("staleness", lambda: errno_of(lambda: os.listdir(top / "home")) == errno.EIO)
    fresh_cluster.faults.clear()
    assert os.listdir(top / "home") == ["c"]
    assert mount.unmount() == 0


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if fault.get("value") != 503],
    ids=lambda fault: f"{fault['action']}{fault.get('value', '')}",
)
def test_every_kind_of_directory_answers_eio(
    fresh_cluster: LocalCluster, arv_mount: Callable, fault: dict
) -> None:
    """First while it was never loaded, then when it is stale; and then it recovers."""
    api = fresh_cluster.api()
    me = api.users().current().execute()["uuid"]
    _, token = fresh_cluster.create_user("Ada Lovelace")
    hers = fresh_cluster.api(token=token)

    def group(api: Any, name: str, kind: str, **more: object) -> str:
        record = {"name": name, "group_class": kind, **more}
        return api.groups().create(body={"group": record}).execute()["uuid"]

    project = group(api, "p", "project")
    uuid = save_collection(fresh_cluster, "c", owner_uuid=project)
    pdh = api.collections().get(uuid=uuid).execute()["portable_data_hash"]
    wanted = [["collections.name", "=", "c"], ["uuid", "is_a", "arvados#collection"]]
    group(api, "flt", "filter", properties={"filters": wanted})
    api.links().create(
        body={"link": {"link_class": "tag", "name": "t", "head_uuid": uuid}}
    ).execute()
    link = {"link_class": "permission", "name": "can_read", "tail_uuid": me}
    link["head_uuid"] = group(hers, "sp", "project")
    hers.links().create(body={"link": link}).execute()

    common = ("--retries=0", "--refresh-time=1", "--disable-event-listening")
    everything = arv_mount(*common).path
    listed: dict[Path, list[str]] = {
        everything / "home": ["flt", "p"],
        everything / "home" / "p": ["c"],
        everything / "home" / "p" / "c": ["f"],
        everything / "home" / "flt": ["c"],
        everything / "shared": ["Ada Lovelace"],
        everything / "shared" / "Ada Lovelace": ["sp"],
        everything / "by_tag": ["t"],
        everything / "by_tag" / "t": [uuid],
        everything / "by_id" / project: ["c"],
        everything / "by_id" / uuid: ["f"],
        arv_mount(*common, f"--project={project}").path: ["c"],
        arv_mount(*common, f"--collection={uuid}").path: ["f"],
    }
    by_pdh = arv_mount(*common, "--by-pdh").path / pdh

    fresh_cluster.faults.add(service="api", **fault)
    for path in [*listed, by_pdh]:
        assert_eio(lambda path=path: os.listdir(path))
    fresh_cluster.faults.clear()
    for path, names in listed.items():
        assert sorted(os.listdir(path)) == names
    assert os.listdir(by_pdh) == ["f"]
    fresh_cluster.faults.add(service="api", **fault)
    for path in listed:
        poll(f"EIO of {path}", lambda path=path: errno_of(lambda: os.listdir(path)) == errno.EIO)
    assert os.listdir(by_pdh) == ["f"], "this never changes"
    fresh_cluster.faults.clear()
    for path, names in listed.items():
        assert sorted(os.listdir(path)) == names


def test_the_configured_retries_are_made(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    save_collection(fresh_cluster, "c")
    mount = arv_mount("--retries=3", "--disable-event-listening")
    fresh_cluster.faults.add(service="api", action="status", value=503, count=2)
    assert os.listdir(mount.path / "home") == ["c"]


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "status", "value": 500},
        {"action": "status", "value": 404},
        {"action": "hangup"},
        {"action": "wrong"},
        {"action": "short"},
        {"action": "long"},
    ],
    ids=lambda fault: f"{fault['action']}{fault.get('value', '')}",
)
def test_failing_keep_is_eio(fresh_cluster: LocalCluster, arv_mount: Callable, fault: dict) -> None:
    text = f"contents for {fault}"
    save_collection(fresh_cluster, "c", text)
    mount = arv_mount("--retries=0", "--ram-cache", "--disable-event-listening")
    file = mount.path / "home" / "c" / "f"
    assert os.stat(file).st_size == len(text)
    fresh_cluster.faults.add(service="keep", method="GET", **fault)
    assert_eio(lambda: file.read_bytes())
    fresh_cluster.faults.clear()
    assert file.read_text() == text
    # One service fails, the other has the block.
    save_collection(fresh_cluster, "d", text + " more")
    fresh_cluster.faults.add(service="keep", method="GET", count=1, **fault)
    assert (mount.path / "home" / "d" / "f").read_text() == text + " more"


def test_a_failed_save_is_reported_and_can_be_repeated(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--retries=0", "--disable-event-listening")
    path = mount.path / "home" / "c" / "new"
    fresh_cluster.faults.add(service="api", method="PUT|PATCH", action="status", value=500)
    file = open(path, "wb", buffering=0)
    file.write(b"first")
    assert_eio(lambda: os.fsync(file.fileno()))
    assert path.read_bytes() == b"first", "the mount lives on and nothing is lost"
    fresh_cluster.faults.clear()
    os.fsync(file.fileno())
    fresh_cluster.faults.add(service="keep", method="PUT", action="status", value=500)
    file.write(b" second")
    assert_eio(file.close)
    assert path.read_bytes() == b"first second"
    fresh_cluster.faults.clear()
    with open(path, "ab") as again:
        again.write(b" third")
    assert mount.unmount() == 0
    read = arv_mount("--home").path / "c" / "new"
    assert read.read_bytes() == b"first second third"


def test_what_could_not_be_saved_is_named_and_the_exit_status_tells(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    uuid = save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--retries=0", "--disable-event-listening")
    fresh_cluster.faults.add(service="api", method="PUT|PATCH", action="status", value=500)
    with pytest.raises(OSError), open(mount.path / "home" / "c" / "lost", "w") as file:
        file.write("never saved")
    assert mount.unmount() == 1
    log = mount.log.read_text()
    assert f"could not save {uuid}" in log
    assert fresh_cluster.token() not in log


def test_a_name_that_is_taken_is_eexist(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--read-write", "--home", "--disable-event-listening")
    assert os.listdir(mount.path) == []
    save_collection(fresh_cluster, "taken")
    with pytest.raises(FileExistsError):
        os.mkdir(mount.path / "taken")
