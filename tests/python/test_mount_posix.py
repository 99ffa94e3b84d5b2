# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What programs ask of a file system beside reading and writing: renames with flags, further names.

Scratch space has it all; elsewhere it is refused so that programs do without.
"""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados_fuse
import llfuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.tmp_collection_dir import TmpCollectionDirectory
from conftest import poll
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


def test_a_file_has_several_names(scratch: tuple[Path, Path, Any]) -> None:
    path, other, entry = scratch
    (path / "dir").mkdir()
    with open(path / "tmp", "wb", buffering=0) as file:
        file.write(b"first, ")
        os.link(path / "tmp", path / "dir" / "new")
        assert os.fstat(file.fileno()).st_nlink == 2
        file.write(b"then more")
        (path / "tmp").unlink()
        assert os.fstat(file.fileno()).st_nlink == 1
        file.write(b", and more")
        assert (path / "dir" / "new").read_bytes() == b"first, then more, and more"
        assert (path / "dir" / "new").stat().st_ino == os.fstat(file.fileno()).st_ino
    subprocess.run(["ln", path / "dir" / "new", path / "a"], check=True)
    os.link(path / "a", path / "b")
    assert [(path / name).stat().st_nlink for name in ("a", "b", "dir/new")] == [3, 3, 3]
    refused(errno.EEXIST, os.link, path / "a", path / "b")
    refused(errno.EPERM, os.link, path / "dir", path / "c")
    refused(errno.EXDEV, os.link, path / "a", other / "a")
    refused(errno.EPERM, os.link, path / ".arvados#collection", path / "c")
    refused(errno.EPERM, os.symlink, "a", path / "c")
    (path / "b").rename(path / "dir" / "b")
    (path / "dir" / "new").unlink()
    (path / "c").write_text("c")
    (path / "c").rename(path / "a")
    assert ((path / "a").read_text(), (path / "dir" / "b").stat().st_nlink) == ("c", 1)
    os.link(path / "dir" / "b", path / "b")
    text = manifest_of(path)
    assert [":26:b" in stream for stream in text.split("./dir")] == [True, True]
    with open(path / "dir" / "b", "ab") as file:
        file.write(b"!")
    assert (path / "b").stat().st_size == 27
    assert _core.shows_tree(entry)


def test_for_python_each_name_is_a_file(scratch: tuple[Path, Path, Any]) -> None:
    path, _, entry = scratch
    (path / "dir").mkdir()
    (path / "a").write_text("text")
    os.link(path / "a", path / "dir" / "b")
    number = (path / "a").stat().st_ino
    assert (path / "dir" / "b").stat().st_ino == number
    with open(path / "a") as held:
        assert sorted(entry.collection.find("dir")) == ["b"]
        assert not _core.shows_tree(entry)
        assert held.read() == "text"
    assert (path / "a").stat().st_ino == number

    poll("the kernel asks again", lambda: (path / "dir" / "b").stat().st_ino != number)
    (path / "dir" / "b").write_text("other")
    assert ((path / "a").read_text(), (path / "dir" / "b").read_text()) == ("text", "other")
    refused(errno.EPERM, os.link, path / "a", path / "c")


def test_programs_that_link(scratch: tuple[Path, Path, Any]) -> None:
    path, _, entry = scratch

    def run(*words: object, cwd: Path = path) -> str:
        done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    source = Path(arvados_fuse.__file__).parent
    run("git", "init", "-q", "repository")
    repository = path / "repository"
    shutil.copytree(source, repository / "package", ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    run(*git, "add", "-A", cwd=repository)
    run(*git, "commit", "-qm", "all", cwd=repository)
    run("git", "clone", "-q", "repository", "clone")
    linked = [p for p in (path / "clone" / ".git" / "objects").rglob("*") if p.is_file()]
    assert linked and all(p.stat().st_nlink == 2 for p in linked)
    shutil.rmtree(repository)
    run("git", "fsck", "--strict", cwd=path / "clone")
    assert all(p.stat().st_nlink == 1 for p in linked)
    run("cp", "-al", "clone", "linked")
    run("diff", "-r", "clone", "linked")
    run("rm", "-r", "clone")
    run("git", "fsck", "--strict", cwd=path / "linked")
    run("cp", "-r", "linked", "copied")
    run("diff", "-r", "linked", "copied")
    assert _core.shows_tree(entry)


def test_a_collection_refuses_and_programs_do_without(collection: Path) -> None:
    data = os.urandom(100_000)
    (collection / "a").write_bytes(data)
    (collection / "b").write_text("b")
    refused(errno.EEXIST, rename, collection / "a", collection / "b", NOREPLACE)
    refused(errno.EINVAL, rename, collection / "a", collection / "b", EXCHANGE)
    refused(errno.EPERM, os.link, collection / "a", collection / "c")
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
    linked: list[int] = []

    class Operations(arvados_fuse.Operations):
        def write(self, fh: int, off: int, buf: bytes) -> int:
            written.append(len(buf))
            return super().write(fh, off, buf)

        def rename(self, *arguments: Any, **more: Any) -> None:
            super().rename(*arguments, **more)

        def link(self, inode: int, *arguments: Any, **more: Any) -> Any:
            linked.append(inode)
            return super().link(inode, *arguments, **more)

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
        os.link(path / "c", path / "d")
        assert linked == [(path / "c").stat().st_ino] == [(path / "d").stat().st_ino]
        refused(errno.EEXIST, os.link, path / "b", path / "d")
