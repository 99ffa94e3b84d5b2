# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What programs ask of a file system beside reading and writing: renames with flags.

Scratch space has it all; elsewhere it is refused so that programs do without.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados_fuse
import llfuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.tmp_collection_dir import TmpCollectionDirectory
from inprocess import directory, mounted
from llfuse import _core

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(old: Path, new: Path, flags: int) -> None:
    _check(_libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def refused(number: int, call: Callable, *arguments: Any) -> None:
    with pytest.raises(OSError) as error:
        call(*arguments)
    assert error.value.errno == number, error.value


def manifest_of(place: Path) -> str:
    return (place / ".arvados#collection").read_text()


@pytest.fixture
def scratch(fresh_cluster: LocalCluster, tmp_path: Path) -> Iterator[tuple[Path, Path, Any]]:
    """A mount in this process with two scratch spaces: where they are, and the first one's directory."""
    api = fresh_cluster.api()

    def root(operations: Any) -> Any:
        return directory(operations)

    with mounted(tmp_path / "mnt", root, api=api, enable_write=True) as operations:
        top = operations.inodes[llfuse.ROOT_INODE]
        for name in ("one", "two"):
            entry = TmpCollectionDirectory(llfuse.ROOT_INODE, operations.inodes, api, 2, True)
            top._entries[name] = operations.inodes.add_entry(entry)
        yield tmp_path / "mnt" / "one", tmp_path / "mnt" / "two", top._entries["one"]
        assert not operations.unsaved


@pytest.fixture
def collection(fresh_cluster: LocalCluster, arv_mount: Callable) -> Path:
    mount = arv_mount("--read-write", "--mount-by-id", "by_id", "--mount-tmp", "tmp")
    uuid = fresh_cluster.api().collections().create(body={"collection": {}}).execute()["uuid"]
    return mount.path / "by_id" / uuid


def test_a_name_that_is_there_is_not_replaced(scratch: tuple[Path, Path, Any]) -> None:
    path, other, entry = scratch
    (path / "dir").mkdir()
    (path / "a").write_text("a")
    (path / "b").write_text("b")
    refused(errno.EEXIST, rename, path / "a", path / "b", NOREPLACE)
    refused(errno.EEXIST, rename, path / "a", path / "dir", NOREPLACE)
    refused(errno.EEXIST, rename, path / "dir", path / "a", NOREPLACE)
    refused(errno.ENOENT, rename, path / "none", path / "c", NOREPLACE)
    rename(path / "a", path / "dir" / "a", NOREPLACE)
    assert sorted(os.listdir(path)) == ["b", "dir"]
    assert ((path / "dir" / "a").read_text(), (path / "b").read_text()) == ("a", "b")
    refused(errno.EINVAL, rename, path / "b", path / "c", WHITEOUT)
    refused(errno.EINVAL, rename, path / "b", path / "c", NOREPLACE | EXCHANGE)
    subprocess.run(["mv", "-n", path / "b", path / "dir" / "a"], check=True)
    assert (path / "b").exists()
    subprocess.run(["mv", path / "b", path / "dir" / "a"], check=True)
    assert (path / "dir" / "a").read_text() == "b"
    assert _core.shows_tree(entry)


def test_two_names_change_places(scratch: tuple[Path, Path, Any]) -> None:
    path, other, entry = scratch
    (path / "dir" / "sub").mkdir(parents=True)
    (path / "file").write_text("file")
    (path / "dir" / "a").write_text("a")
    before = {name: (path / name).stat().st_ino for name in ("file", "dir", "dir/a", "dir/sub")}
    with open(path / "file") as held:
        rename(path / "file", path / "dir" / "a", EXCHANGE)
        assert held.read() == "file"
    assert ((path / "file").read_text(), (path / "dir" / "a").read_text()) == ("a", "file")
    assert (path / "file").stat().st_ino == before["dir/a"]
    # A file and a directory.
    rename(path / "file", path / "dir" / "sub", EXCHANGE)
    assert ((path / "file").is_dir(), (path / "dir" / "sub").read_text()) == (True, "a")
    assert (path / "file").stat().st_ino == before["dir/sub"]
    (path / "file" / "new").write_text("in it")
    # Two directories.
    rename(path / "file", path / "dir", EXCHANGE)
    assert sorted(os.listdir(path / "file")) == ["a", "sub"]
    assert (path / "dir" / "new").read_text() == "in it"
    text = manifest_of(path)
    assert "./dir" in text and ":5:new" in text and "./file" in text
    (path / "dir" / "below").mkdir()
    refused(errno.EINVAL, rename, path / "dir", path / "dir" / "below", EXCHANGE)
    refused(errno.EINVAL, rename, path / "dir" / "below", path / "dir", EXCHANGE)
    refused(errno.ENOENT, rename, path / "dir", path / "none", EXCHANGE)
    refused(errno.ENOENT, rename, path / "none", path / "dir", EXCHANGE)
    (other / "file").write_text("other")
    refused(errno.EINVAL, rename, path / "dir" / "new", other / "file", EXCHANGE)
    assert _core.shows_tree(entry)


def test_what_python_renames_replaces_nothing_where_that_is_asked(
    scratch: tuple[Path, Path, Any],
) -> None:
    path, other, entry = scratch
    (path / "a").write_text("a")
    (path / "dir").mkdir()
    (path / "dir" / "b").write_text("b")
    assert len(entry.collection) == 2
    assert not _core.shows_tree(entry)
    refused(errno.EEXIST, rename, path / "a", path / "dir" / "b", NOREPLACE)
    refused(errno.EEXIST, rename, path / "dir" / "b", path / "a", NOREPLACE)
    refused(errno.EINVAL, rename, path / "a", path / "dir" / "b", EXCHANGE)
    rename(path / "a", path / "dir" / "a", NOREPLACE)
    rename(path / "dir" / "b", path / "b", NOREPLACE)
    assert ((path / "dir" / "a").read_text(), (path / "b").read_text()) == ("a", "b")
    (other / "a").write_text("other")
    refused(errno.EEXIST, rename, other / "a", path / "b", NOREPLACE)


def test_a_collection_refuses_and_programs_do_without(collection: Path) -> None:
    data = os.urandom(100_000)
    (collection / "a").write_bytes(data)
    (collection / "b").write_text("b")
    refused(errno.EEXIST, rename, collection / "a", collection / "b", NOREPLACE)
    refused(errno.EINVAL, rename, collection / "a", collection / "b", EXCHANGE)
    rename(collection / "b", collection / "c", NOREPLACE)
    for words in (["mv", "-n", "c", "a"], ["cp", "a", "d"], ["mv", "c", "e"]):
        subprocess.run(words, cwd=collection, check=True)
    assert (collection / "d").read_bytes() == data
    assert sorted(os.listdir(collection)) == ["a", "d", "e"]


def test_a_handler_that_was_overridden_is_not_passed_by(
    fresh_cluster: LocalCluster, tmp_path: Path
) -> None:
    api = fresh_cluster.api()
    written: list[int] = []

    class Operations(arvados_fuse.Operations):
        def write(self, fh: int, off: int, buf: bytes) -> int:
            written.append(len(buf))
            return super().write(fh, off, buf)

        def rename(self, *arguments: Any, **more: Any) -> None:
            super().rename(*arguments, **more)

    def root(operations: Any) -> Any:
        return TmpCollectionDirectory(llfuse.ROOT_INODE, operations.inodes, api, 2, True)

    path = tmp_path / "mnt"
    with mounted(path, root, api=api, enable_write=True, kind=Operations):
        (path / "a").write_bytes(b"12345")
        subprocess.run(["cp", path / "a", path / "b"], check=True)
        assert ((path / "b").read_bytes(), sum(written)) == (b"12345", 10)
        refused(errno.EINVAL, rename, path / "a", path / "c", NOREPLACE)
        refused(errno.EINVAL, rename, path / "a", path / "b", EXCHANGE)
        subprocess.run(["mv", path / "a", path / "c"], check=True)
