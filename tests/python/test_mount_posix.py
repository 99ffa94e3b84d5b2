# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What programs ask of a file system beside reading and writing: renames with flags, holes, copies of
ranges, further names. Scratch space has it all; elsewhere it is refused so that programs do without."""

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
from conftest import make_repository, poll, run_in
from inprocess import directory, mounted
from llfuse import _core

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
MAX_LEN = (1 << 63) - 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename(old: Path, new: Path, flags: int) -> None:
    _check(_libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def allocate(file: Any, mode: int, offset: int, length: int) -> None:
    call = _libc.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    _check(call(file.fileno(), mode, offset, length))


def refused(number: int, call: Callable, *arguments: Any) -> None:
    with pytest.raises(OSError) as error:
        call(*arguments)
    assert error.value.errno == number, error.value


def manifest_of(place: Path) -> str:
    return (place / ".arvados#collection").read_text()


def asked(operation: str) -> int:
    return _core.operation_time(operation)[0]


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


def test_room_is_reserved_and_holes_are_made(scratch: tuple[Path, Path, Any]) -> None:
    path, _, entry = scratch
    data = bytes(range(1, 251)) * 400
    with open(path / "file", "w+b", buffering=0) as file:
        file.write(data)
        right = bytearray(data)
        os.utime(path / "file", (1, 1))
        for mode, offset, length in (
            (KEEP_SIZE, 50_000, 100_000),
            (PUNCH_HOLE | KEEP_SIZE, 10_000, 20_001),
            (PUNCH_HOLE | KEEP_SIZE, 99_999, 50_000),
            (ZERO_RANGE | KEEP_SIZE, 80_000, 50_000),
            (ZERO_RANGE, 90_000, 20_000),
            (0, 0, 110_000),
            (0, 100_000, 50_000),
        ):
            allocate(file, mode, offset, length)
            if mode & (PUNCH_HOLE | ZERO_RANGE):
                zeros = max(0, min(length, len(right) - offset))
                right[offset : offset + zeros] = bytes(zeros)
            if not mode & KEEP_SIZE:
                right.extend(bytes(max(0, offset + length - len(right))))
            assert os.fstat(file.fileno()).st_size == len(right), (mode, offset)
            assert os.pread(file.fileno(), 1 << 20, 0) == right, (mode, offset)
        assert os.fstat(file.fileno()).st_mtime > 1
        for mode in (PUNCH_HOLE, COLLAPSE_RANGE, INSERT_RANGE, 0x40):
            refused(errno.EOPNOTSUPP, allocate, file, mode, 0, 4096)
        refused(errno.EFBIG, allocate, file, 0, MAX_LEN - 10, 20)
    os.fsync(os.open(path / "file", os.O_RDONLY))
    assert (path / "file").read_bytes() == right
    for words in (("-l", "1MiB"), ("-p", "-o", "4096", "-l", "4096"), ("-z", "-l", "2MiB")):
        subprocess.run(["fallocate", *words, path / "program"], check=True)
    assert (path / "program").stat().st_size == 2 << 20
    with open(path / "posix", "wb") as file:
        os.posix_fallocate(file.fileno(), 100, 10)
        assert os.fstat(file.fileno()).st_size == 110
    assert ":2097152:program" in manifest_of(path)
    assert _core.shows_tree(entry)


def test_holes_are_found(scratch: tuple[Path, Path, Any], tmp_path: Path) -> None:
    path, _, _ = scratch
    with open(path / "file", "w+b", buffering=0) as file:
        number = file.fileno()
        refused(errno.ENXIO, os.lseek, number, 0, os.SEEK_DATA)
        file.truncate(1_000_000)
        assert os.lseek(number, 5, os.SEEK_HOLE) == 5
        refused(errno.ENXIO, os.lseek, number, 0, os.SEEK_DATA)
        os.pwrite(number, b"x" * 10_000, 100_000)
        os.pwrite(number, b"y", 999_999)
        manifest_of(path)
        allocate(file, PUNCH_HOLE | KEEP_SIZE, 105_000, 1000)
        found = []
        at = 0
        while at < 1_000_000:
            begin = os.lseek(number, at, os.SEEK_DATA)
            at = os.lseek(number, begin, os.SEEK_HOLE)
            found.append((begin, at))
        assert found == [(100_000, 105_000), (106_000, 110_000), (999_999, 1_000_000)]
        refused(errno.ENXIO, os.lseek, number, 1_000_000, os.SEEK_HOLE)
        refused(errno.ENXIO, os.lseek, number, -1, os.SEEK_DATA)
    sparse = tmp_path / "sparse"
    subprocess.run(["cp", "--sparse=always", path / "file", sparse], check=True)
    assert sparse.read_bytes() == (path / "file").read_bytes()
    subprocess.run(["cp", "--reflink=never", "--sparse=always", sparse, path / "copy"], check=True)
    subprocess.run(["cmp", sparse, path / "copy"], check=True)
    with open(path / "copy", "rb") as copy:
        assert os.lseek(copy.fileno(), 0, os.SEEK_DATA) > 0


def test_what_is_copied_is_shared(scratch: tuple[Path, Path, Any]) -> None:
    path, other, entry = scratch
    keep = entry._api.keep
    data = os.urandom(1 << 20)
    (path / "file").write_bytes(data)
    with open(path / "file", "rb") as source, open(path / "copy", "w+b", buffering=0) as target:
        # Pages of what is there are not what is read afterwards.
        target.write(b"z" * 300_000)
        assert os.pread(target.fileno(), 300_000, 0) == b"z" * 300_000
        right = bytearray(b"z" * 300_000)
        before, puts = asked("copy_file_range"), keep.put_counter.get()
        for offset, at, length in ((0, 0, 1 << 20), (5, 700_001, 200_000), (1 << 19, 10, 1 << 20)):
            copied = os.copy_file_range(source.fileno(), target.fileno(), length, offset, at)
            assert copied == min(length, (1 << 20) - offset)
            right.extend(bytes(max(0, at + copied - len(right))))
            right[at : at + copied] = data[offset : offset + copied]
            assert os.fstat(target.fileno()).st_size == len(right)
            assert os.pread(target.fileno(), 2 << 20, 0) == right
        assert os.copy_file_range(source.fileno(), target.fileno(), 10, 1 << 20, 0) == 0
        number = target.fileno()
        refused(errno.EINVAL, os.copy_file_range, number, number, 100, 0, 50)
        assert os.copy_file_range(number, number, 100, 0, 1 << 20) == 100
        assert os.pread(number, 100, 1 << 20) == right[:100]
        assert asked("copy_file_range") > before
    for name in range(10):
        subprocess.run(["cp", path / "file", path / f"cp{name}"], check=True)
        assert (path / f"cp{name}").read_bytes() == data
    sent = keep.upload_counter.get()
    text = manifest_of(path)
    assert "copy" in text and "cp9" in text
    # One block, however many files show it.
    assert keep.put_counter.get() - puts == 1
    assert keep.upload_counter.get() - sent <= 2 * (len(data) + 300_000)
    assert (path / "copy").read_bytes()[:10] == right[:10]
    # Stored, it is shared as well.
    subprocess.run(["cp", path / "cp1", path / "stored"], check=True)
    assert (path / "stored").read_bytes() == data
    manifest_of(path)
    assert keep.put_counter.get() - puts == 1


def test_what_cannot_be_shared_is_read_and_written(
    scratch: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    path, other, entry = scratch
    data = os.urandom(300_000)
    (path / "file").write_bytes(data)

    def copy(source: Path, target: Path) -> None:
        with open(source, "rb") as one, open(target, "wb") as two:
            while os.copy_file_range(one.fileno(), two.fileno(), 1 << 20):
                pass
        assert target.read_bytes() == data

    copy(path / "file", other / "file")
    subprocess.run(["cp", path / "file", other / "cp"], check=True)
    assert (other / "cp").read_bytes() == data
    # The kernel asks again: that was no answer for the whole mount.
    before = asked("write")
    copy(path / "file", path / "copy")
    assert asked("write") == before
    assert entry.collection is not None
    copy(path / "file", path / "copied by Python")
    with open(path / "file", "r+b") as file:
        refused(errno.EOPNOTSUPP, allocate, file, PUNCH_HOLE | KEEP_SIZE, 0, 10)
        assert os.lseek(file.fileno(), 10, os.SEEK_DATA) == 10
        assert os.lseek(file.fileno(), 10, os.SEEK_HOLE) == len(data)
        refused(errno.ENXIO, os.lseek, file.fileno(), len(data), os.SEEK_HOLE)
    # Nor was that.
    with open(other / "file", "r+b") as file:
        allocate(file, PUNCH_HOLE | KEEP_SIZE, 0, 10)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 10


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
    run = run_in(path)
    repository = path / "repository"
    make_repository(repository)
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
    run("dd", "if=/dev/urandom", "of=data", "bs=64K", "count=20", "status=none")
    run("dd", "if=data", "of=part", "bs=4K", "skip=3", "seek=5", "count=9", "status=none")
    run("truncate", "-s", "3M", "part")
    run("fallocate", "--dig-holes", "part")
    run("tar", "-cSf", "all.tar", "data", "part", "linked")
    run("mkdir", "out")
    run("tar", "-xSf", "all.tar", "-C", "out")
    run("diff", "-r", "linked", "out/linked")
    run("cmp", "part", "out/part")
    assert _core.shows_tree(entry)


def test_a_collection_does_the_same(collection: Path) -> None:
    data = os.urandom(100_000)
    (collection / "a").write_bytes(data)
    (collection / "b").write_text("b")
    refused(errno.EEXIST, rename, collection / "a", collection / "b", NOREPLACE)
    rename(collection / "a", collection / "b", EXCHANGE)
    assert (collection / "a").read_text() == "b"
    os.link(collection / "b", collection / "c")
    (collection / "b").unlink()
    with open(collection / "c", "r+b") as file:
        allocate(file, 0, 0, 200_000)
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == len(data)
    assert (collection / "c").read_bytes() == data + bytes(100_000)
    for words in (["mv", "-n", "c", "a"], ["cp", "c", "d"], ["mv", "d", "e"]):
        subprocess.run(words, cwd=collection, check=words[0] != "mv" or words[1] != "-n")
    assert (collection / "e").read_bytes() == data + bytes(100_000)
    assert sorted(os.listdir(collection)) == ["a", "c", "e"]


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
        with open(path / "a", "r+b") as file:
            refused(errno.EOPNOTSUPP, allocate, file, PUNCH_HOLE | KEEP_SIZE, 0, 2)
            assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 5
        refused(errno.EINVAL, rename, path / "a", path / "c", NOREPLACE)
        refused(errno.EINVAL, rename, path / "a", path / "b", EXCHANGE)
        subprocess.run(["mv", path / "a", path / "c"], check=True)
        os.link(path / "c", path / "d")
        assert linked == [(path / "c").stat().st_ino] == [(path / "d").stat().st_ino]
        refused(errno.EEXIST, os.link, path / "b", path / "d")
