# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Names that move from one collection of a mount to another."""

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados.collection
import llfuse
import pytest
from arvados_fuse.fusedir import MagicDirectory
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection
from inprocess import mounted
from llfuse import _core
from test_mount_saving import contents


@pytest.fixture
def uuids(fresh_cluster: LocalCluster) -> tuple[str, str]:
    return save_collection(fresh_cluster, "A"), save_collection(fresh_cluster, "B", "other")


@pytest.fixture
def two(arv_mount: Callable, uuids: tuple[str, str]) -> tuple[Path, Path]:
    """Both collections in one mount."""
    path = arv_mount("--read-write", "--mount-by-id", "by_id").path / "by_id"
    first, second = (path / uuid for uuid in uuids)
    assert os.listdir(first) == os.listdir(second) == ["f"]
    return first, second


@pytest.fixture
def in_process(
    fresh_cluster: LocalCluster, uuids: tuple[str, str], tmp_path: Path
) -> Iterator[tuple[Path, Any]]:
    """Both collections in a mount in this process, and its root."""
    api = fresh_cluster.api()

    def root(operations: Any) -> Any:
        return MagicDirectory(llfuse.ROOT_INODE, operations.inodes, api, 2, True, None)

    with mounted(tmp_path / "mnt", root, api=api, enable_write=True) as operations:
        yield tmp_path / "mnt", operations.inodes[llfuse.ROOT_INODE]


def test_nothing_of_it_is_an_object(
    in_process: tuple[Path, Any], fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    path, root = in_process
    first, second = (path / uuid for uuid in uuids)
    (first / "d" / "e").mkdir(parents=True)
    (first / "d" / "g").write_text("moved")
    with open(first / "d" / "g", "r+") as file:
        inode = os.fstat(file.fileno()).st_ino
        (first / "d").rename(second / "d")
        assert contents(fresh_cluster, uuids[0]) == {"f": "text"}
        assert contents(fresh_cluster, uuids[1]) == {"f": "other", "d/g": "moved", "d/e": None}
        assert (second / "d" / "g").stat().st_ino == inode
        file.write("MOVED")
    assert contents(fresh_cluster, uuids[1])["d/g"] == "MOVED"
    (second / "d" / "g").rename(first / "f")
    assert contents(fresh_cluster, uuids[0]) == {"f": "MOVED"}
    assert contents(fresh_cluster, uuids[1]) == {"f": "other", "d/e": None}
    assert all(_core.shows_tree(root[uuid]) for uuid in uuids)
    # And where Python asks, it is found where it is.
    assert root[uuids[0]]["f"].inode == inode
    assert (first / "f").read_text() == "MOVED"


def test_what_was_moved_in_goes_on_from_there(
    two: tuple[Path, Path], fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    first, second = two
    for name in ("d", "e"):
        (second / name).mkdir()
        (second / name / "old").write_text(name)
    (second / "d").rename(first / "d")
    (second / "e").rename(first / "d" / "e")
    (first / "d" / "old").unlink()
    (first / "d" / "new").write_text("new")
    assert contents(fresh_cluster, uuids[0]) == {"f": "text", "d/e/old": "e", "d/new": "new"}
    assert contents(fresh_cluster, uuids[1]) == {"f": "other"}


def test_one_writes_what_another_moves_to_and_fro(
    two: tuple[Path, Path], fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    first, second = two
    (first / "d").mkdir()
    until = time.monotonic() + 3
    written: list[str] = []
    with open(first / "d" / "log", "a") as log, open(second / "log", "a") as other:

        def write() -> None:
            while time.monotonic() < until:
                for file in (log, other):
                    file.write(f"{len(written)}\n")
                    file.flush()
                    os.fsync(file.fileno())
                written.append(f"{len(written)}\n")

        writer = threading.Thread(target=write)
        writer.start()
        moves = 0
        while time.monotonic() < until or moves % 2:
            here, there = two if moves % 2 == 0 else two[::-1]
            (here / "d").rename(there / "d")
            moves += 1
        writer.join(20)
        assert not writer.is_alive()
    assert moves > 2 and len(written) > 2
    text = "".join(written)
    assert contents(fresh_cluster, uuids[0]) == {"f": "text", "d/log": text}
    assert contents(fresh_cluster, uuids[1]) == {"f": "other", "log": text}


def test_where_it_cannot_be_saved_it_stays(
    two: tuple[Path, Path], fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    first, second = two
    with open(second / "f") as replaced:
        fresh_cluster.faults.add(service="api", method="PUT", action="status", value=403)
        with pytest.raises(OSError) as caught:
            (first / "f").rename(second / "f")
        fresh_cluster.faults.clear()
        assert caught.value.errno == errno.EIO
        assert (first / "f").read_text() == "text"
        assert replaced.read() == (second / "f").read_text() == "other"
        assert contents(fresh_cluster, uuids[1]) == {"f": "other"}
        (first / "f").rename(second / "f")
        replaced.seek(0)
        assert replaced.read() == "other"
    assert contents(fresh_cluster, uuids[0]) == {}
    assert contents(fresh_cluster, uuids[1]) == {"f": "text"}


def test_scratch_is_moved_into_a_collection(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    options = ("--read-write", "--mount-by-id", "by_id", "--mount-tmp", "tmp")
    path = arv_mount(*options).path
    scratch, collection = path / "tmp", path / "by_id" / uuids[0]
    (scratch / "out").mkdir()
    for number in range(20):
        (scratch / "out" / f"{number}").write_text(f"{number}")
    with open(scratch / "out" / "0", "a") as file:
        file.write(" unsaved")
        file.flush()
        subprocess.run(["mv", scratch / "out", collection / "out"], check=True)
        file.write(" and more")
    expected = {f"out/{number}": f"{number}" for number in range(20)}
    expected["out/0"] = "0 unsaved and more"
    assert contents(fresh_cluster, uuids[0]) == {"f": "text", **expected}
    assert os.listdir(scratch) == [".arvados#collection"] or os.listdir(scratch) == []
    # Out of a collection, too.
    (collection / "out").rename(scratch / "back")
    assert (scratch / "back" / "0").read_text() == "0 unsaved and more"
    assert contents(fresh_cluster, uuids[0]) == {"f": "text"}


def test_what_is_written_after_leaving_scratch_is_saved_when_it_is_closed(
    arv_mount: Callable, fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    options = ("--read-write", "--mount-by-id", "by_id", "--mount-tmp", "tmp")
    path = arv_mount(*options).path
    collection = path / "by_id" / uuids[0]
    with open(path / "tmp" / "log", "w", buffering=1) as file:
        file.write("made in scratch\n")
        (path / "tmp" / "log").rename(collection / "log")
        fresh_cluster.faults.add(service="api", method="PUT", action="delay", value=1)
        file.write("written here\n")
    # Closing it waits for that.
    expected = {"f": "text", "log": "made in scratch\nwritten here\n"}
    assert contents(fresh_cluster, uuids[0]) == expected


def test_no_byte_is_stored_again(
    two: tuple[Path, Path], fresh_cluster: LocalCluster, uuids: tuple[str, str]
) -> None:
    first, second = two
    (first / "d").mkdir()
    for number in range(10):
        (first / "d" / f"{number}").write_text("text" * number)
    fresh_cluster.record_requests()
    shutil.move(first / "d", second)
    requests = fresh_cluster.requests()
    changing = [(r["service"], r["method"]) for r in requests if r["method"] != "GET"]
    # Each of the collections is saved once.
    assert changing == [("api", "PUT")] * 2, requests
    assert len(contents(fresh_cluster, uuids[1])) == 11
    reader = arvados.collection.CollectionReader(uuids[0], api_client=fresh_cluster.api())
    assert list(reader) == ["f"]
