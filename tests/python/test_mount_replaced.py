# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Names that get another file while the one before is still open."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arvados.collection
import arvados_fuse
import llfuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection
from inprocess import add, mounted


@pytest.fixture(params=["collection", "subdirectory", "scratch"])
def place(request: pytest.FixtureRequest, fresh_cluster: LocalCluster, arv_mount: Callable) -> Path:
    """A directory of a mount in which files can be made."""
    save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--mount-home", "home", "--mount-tmp", "tmp").path
    if request.param == "scratch":
        return mount / "tmp"
    if request.param == "subdirectory":
        (mount / "home" / "c" / "sub").mkdir()
        return mount / "home" / "c" / "sub"
    return mount / "home" / "c"


def saved(cluster: LocalCluster, place: Path) -> dict[str, str] | None:
    """What the API server has of the directory; None for one that is never saved."""
    if place.name == "tmp":
        return None
    collection = arvados.collection.Collection(
        cluster.api().collections().list(limit=1).execute()["items"][0]["uuid"],
        api_client=cluster.api(),
    )
    shown = collection.find("sub") if place.name == "sub" else collection
    return {
        name: item.readfrom(0, 1000, 0, exact=True).decode()
        for name, item in shown.items()
        if isinstance(item, arvados.arvfile.ArvadosFile)
    }


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def test_a_new_file_under_the_name_of_a_deleted_one(
    fresh_cluster: LocalCluster, place: Path
) -> None:
    name = place / "x"
    old = os.open(name, os.O_RDWR | os.O_CREAT)
    os.write(old, b"the old one")
    name.unlink()
    os.write(old, b", open")
    new = os.open(name, os.O_RDWR | os.O_CREAT)
    os.fsync(old)
    os.write(new, b"new")
    os.fsync(old)
    os.close(new)
    assert name.read_text() == "new" and name.stat().st_size == 3
    append(name, "er")
    os.write(old, b" goes on")
    os.fsync(old)
    assert name.read_text() == "newer" and name.stat().st_size == 5
    assert os.pread(old, 100, 0) == b"the old one, open goes on"
    os.close(old)
    assert name.read_text() == "newer"
    assert (saved(fresh_cluster, place) or {"x": "newer"})["x"] == "newer"


def test_a_file_renamed_over_one_that_is_open(fresh_cluster: LocalCluster, place: Path) -> None:
    x, y = place / "x", place / "y"
    over = os.open(x, os.O_RDWR | os.O_CREAT)
    os.write(over, b"what was there before")
    moved = os.open(y, os.O_RDWR | os.O_CREAT)
    os.write(moved, b"moved")
    y.rename(x)
    os.fsync(over)
    os.fsync(moved)
    assert x.read_text() == "moved" and x.stat().st_size == 5
    assert not y.exists()
    os.write(moved, b" here")
    os.write(over, b", gone")
    os.fsync(over)
    os.close(over)
    os.close(moved)
    append(x, "!")
    assert x.read_text() == "moved here!"
    assert (saved(fresh_cluster, place) or {"x": "moved here!"})["x"] == "moved here!"
    assert sorted(p.name for p in place.iterdir() if p.is_file() and p.name in "xy") == ["x"]


def test_a_file_moved_to_another_directory_over_one_that_is_open(
    fresh_cluster: LocalCluster, place: Path
) -> None:
    other = place / "other"
    other.mkdir()
    over = os.open(other / "x", os.O_RDWR | os.O_CREAT)
    os.write(over, b"what was there before")
    moved = os.open(place / "x", os.O_RDWR | os.O_CREAT)
    os.write(moved, b"moved")
    (place / "x").rename(other / "x")
    # Another one takes the name that it left.
    append(place / "x", "third")
    os.fsync(over)
    os.fsync(moved)
    os.write(moved, b" here")
    os.fsync(moved)
    assert (place / "x").read_text() == "third"
    assert (other / "x").read_text() == "moved here"
    append(place / "x", "!")
    append(other / "x", "!")
    os.close(over)
    os.close(moved)
    assert (place / "x").read_text() == "third!"
    assert (other / "x").read_text() == "moved here!"
    assert (saved(fresh_cluster, place) or {"x": "third!"})["x"] == "third!"


class Moves(arvados_fuse.Directory):
    """A directory that renames as the release's do: it deletes the entry of the old name, and goes on
    listing what was there under the new one."""

    def writable(self) -> bool:
        return True

    def rename(self, name_old: str, name_new: str, src: arvados_fuse.Directory) -> None:
        self.inodes.invalidate_entry(self, name_old)
        self.inodes.del_entry(self._entries.pop(name_old))


def test_the_kernel_keeps_the_file_that_it_renamed(tmp_path: Path) -> None:
    def root(operations: Any) -> Any:
        return Moves(llfuse.ROOT_INODE, operations.inodes, True, None)

    with mounted(tmp_path / "mnt", root, enable_write=True) as operations:
        top = operations.inodes[llfuse.ROOT_INODE]
        for number in range(20):
            for name, text in (("old", "renamed"), ("new", "replaced")):
                add(operations, top, name, arvados_fuse.StringFile(top.inode, text, 0))
            lock, target = tmp_path / "mnt" / "old", tmp_path / "mnt" / "new"
            inode = lock.stat().st_ino
            target.stat()
            lock.rename(target)
            operations.inodes.wait_remove_queue_empty()
            assert target.stat().st_ino == inode, number
            assert target.read_text() == "renamed"


def test_what_was_changed_is_read_before_the_kernel_was_told(tmp_path: Path) -> None:
    def root(operations: Any) -> Any:
        return arvados_fuse.Directory(llfuse.ROOT_INODE, operations.inodes, False, None)

    with mounted(tmp_path / "mnt", root) as operations:
        inodes, top = operations.inodes, operations.inodes[llfuse.ROOT_INODE]
        file = add(operations, top, "file", arvados_fuse.StringFile(top.inode, "", 0))
        file.fresh()
        for text in ("blub", "plnp", "drei"):
            # What the kernel is told comes after all this.
            for number in range(20_000):
                inodes.invalidate_entry(top, f"nothing {number}")
            file.contents = text
            inodes.invalidate_inode(file)
            assert (tmp_path / "mnt" / "file").read_text() == text
            assert (tmp_path / "mnt" / "file").read_text() == text
