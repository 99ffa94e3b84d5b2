# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Scratch space (`--mount-tmp`): made, written, renamed and read without Python."""

import errno
import hashlib
import json
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import arvados.collection
import arvados.keep
import llfuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.tmp_collection_dir import TmpCollectionDirectory
from conftest import SOURCES, make_repository, poll, run_in, save_collection
from inprocess import mounted
from llfuse import _core


@pytest.fixture
def scratch(arv_mount: Callable, fresh_cluster: LocalCluster) -> Path:
    return arv_mount("--read-write", "--mount-tmp", "tmp").path / "tmp"


@pytest.fixture(params=["scratch", "collection"])
def place(request: pytest.FixtureRequest, arv_mount: Callable, fresh_cluster: LocalCluster) -> Path:
    """Scratch space, and a collection, in which all is the same."""
    mount = arv_mount("--read-write", "--mount-tmp", "tmp", "--mount-by-id", "by_id")
    if request.param == "scratch":
        return mount.path / "tmp"
    return mount.path / "by_id" / save_collection(fresh_cluster, "c", "")


def manifest_of(place: Path) -> dict:
    return json.loads((place / ".arvados#collection").read_text())


@pytest.fixture
def operations(fresh_cluster: LocalCluster, tmp_path: Path) -> Iterator[Any]:
    """What serves `in_process`."""
    api = fresh_cluster.api()

    def root(operations: Any) -> Any:
        return TmpCollectionDirectory(llfuse.ROOT_INODE, operations.inodes, api, 2, True)

    with mounted(tmp_path / "mnt", root, api=api, enable_write=True) as serving:
        yield serving


@pytest.fixture
def in_process(operations: Any, tmp_path: Path) -> tuple[Path, Any]:
    """A mount in this process whose root is scratch space, and the directory."""
    return tmp_path / "mnt", operations.inodes[llfuse.ROOT_INODE]


def test_nothing_of_it_is_an_object(in_process: tuple[Path, Any]) -> None:
    path, directory = in_process
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "file").write_text("text")
    (path / "a" / "file").rename(path / "a" / "b" / "moved")
    with open(path / "a" / "b" / "moved", "r+") as file:
        file.seek(2)
        file.write("st")
        file.truncate()
    assert (path / "a" / "b" / "moved").read_text() == "test"
    assert sorted(os.listdir(path / "a")) == ["b"]
    assert manifest_of(path)["manifest_text"].endswith(" 0:4:moved\n")
    (path / "a" / "b" / "moved").unlink()
    (path / "a" / "b").rmdir()
    assert _core.shows_tree(directory)


def test_closing_is_no_request(operations: Any, in_process: tuple[Path, Any]) -> None:
    path, _ = in_process
    flushed = operations.metric_count_func("flush")
    # The metric is of the whole process.
    before = flushed()
    (path / "made").write_text("text")
    with open(path / "made", "a") as file:
        file.write(", more")
    assert flushed() == before
    with mock.patch.object(operations, "flush", wraps=operations.flush) as patched:
        (path / "made").write_text("once more")
        poll("whoever has a handler is told", lambda: patched.called)


def test_a_mapping_outlives_its_descriptor(place: Path, fresh_cluster: LocalCluster) -> None:
    (place / "file").write_bytes(bytes(8192))
    descriptor = os.open(place / "file", os.O_RDWR)
    mapping = mmap.mmap(descriptor, 8192)
    os.close(descriptor)
    mapping[4096:4100] = b"text"
    mapping.close()
    text = manifest_of(place)["manifest_text"]
    read = arvados.collection.CollectionReader(text, api_client=fresh_cluster.api())
    with read.open("file", "rb") as file:
        assert file.read() == bytes(4096) + b"text" + bytes(4092)


def test_what_is_asked_for_in_python_takes_everything_along(in_process: tuple[Path, Any]) -> None:
    path, directory = in_process
    (path / "dir").mkdir()
    (path / "dir" / "file").write_text("stored")
    numbers = [(path / name).stat().st_ino for name in ("dir", "dir/file")]
    gone = open(path / "gone", "w+")
    gone.write("of no name")
    gone.flush()
    (path / "gone").unlink()
    unsaved = open(path / "dir" / "unsaved", "w+")
    unsaved.write("unsaved, ")
    unsaved.flush()
    read = os.open(path / "dir" / "file", os.O_RDONLY)
    assert _core.shows_tree(directory)
    assert sorted(directory.collection.find("dir")) == ["file", "unsaved"]
    assert not _core.shows_tree(directory)
    assert numbers == [(path / name).stat().st_ino for name in ("dir", "dir/file")]
    unsaved.write("then more")
    unsaved.flush()
    assert (path / "dir" / "unsaved").read_text() == "unsaved, then more"
    assert os.pread(read, 100, 0) == b"stored"
    gone.write(" at all")
    gone.flush()
    assert os.pread(gone.fileno(), 100, 0) == b"of no name at all"
    gone.truncate(2)
    assert os.fstat(gone.fileno()).st_size == 2
    for file in (gone, unsaved):
        file.close()
    os.close(read)
    with directory.collection.open("dir/unsaved") as file:
        assert file.read() == "unsaved, then more"


@pytest.mark.parametrize("name", ["dir", "dir/file"])
def test_what_is_asked_for_by_its_number_takes_everything_along(
    operations: Any, in_process: tuple[Path, Any], name: str
) -> None:
    path, directory = in_process
    (path / "dir").mkdir()
    file = open(path / "dir" / "file", "w+")
    file.write("unsaved, ")
    file.flush()
    number = (path / name).stat().st_ino
    assert _core.shows_tree(directory)
    entry = operations.inodes[number]
    assert entry.inode == number and not _core.shows_tree(directory)
    in_it = entry["file"] if name == "dir" else entry
    with llfuse.lock:
        assert in_it.size() == 9 and in_it.readfrom(0, 100) == b"unsaved, "
    file.write("then more")
    file.close()
    with llfuse.lock:
        assert in_it.readfrom(0, 100) == b"unsaved, then more"
    assert in_it.arvfile.name == "file"
    assert (path / name).stat().st_ino == number


def test_python_asks_while_others_write(in_process: tuple[Path, Any]) -> None:
    path, directory = in_process
    stop = threading.Event()
    written = {}

    def write(number: int) -> None:
        text = ""
        with open(path / f"file{number}", "w") as file:
            while not stop.is_set():
                text += f"{len(text)}\n"
                file.write(text[-10:].rpartition("\n")[0][-1:] + "x")
                file.flush()
                written[number] = written.get(number, 0) + 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert directory.collection is not None
    before = dict(written)
    for number in range(4):
        deadline = time.monotonic() + 20
        while written[number] == before[number]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(20)
    for number in range(4):
        assert (path / f"file{number}").read_text().count("x") == written[number]


def test_the_record_shows_what_is_written_at_once(
    fresh_cluster: LocalCluster, scratch: Path
) -> None:
    (scratch / "sub").mkdir()
    (scratch / "empty").mkdir()
    with open(scratch / "sub" / "file", "w") as file:
        for number in range(5):
            file.write(f"{number}\n")
            file.flush()
            record = manifest_of(scratch)
            saved = arvados.collection.Collection(
                record["manifest_text"], api_client=fresh_cluster.api()
            )
            assert saved.portable_data_hash() == record["portable_data_hash"]
            assert sorted(saved) == ["empty", "sub"]
            with saved.open("sub/file") as read:
                assert read.read() == "".join(f"{done}\n" for done in range(number + 1))
    with open(scratch / "sparse", "wb") as sparse:
        sparse.seek(3 << 20)
        sparse.write(b"end")
    saved = arvados.collection.Collection(
        manifest_of(scratch)["manifest_text"], api_client=fresh_cluster.api()
    )
    with saved.open("sparse", "rb") as read:
        assert read.read() == bytes(3 << 20) + b"end"


def test_writes_that_overlap_and_mapped_ones_are_what_is_read(place: Path) -> None:
    # What fsx found in the SDK's own file code.
    path, right = place / "file", bytearray(133_557)
    with open(path, "w+b") as file:
        for offset, length, letter in ((24_406, 109_151, b"a"), (9_515, 49_159, b"b")):
            file.seek(offset)
            file.write(letter * length)
            file.flush()
            right[offset : offset + length] = letter * length
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[14_279 : 14_279 + 25_260] = b"c" * 25_260
            right[14_279 : 14_279 + 25_260] = b"c" * 25_260
            mapped.flush()
        assert path.read_bytes() == right
        file.truncate(92_737)
        file.seek(32_359)
        assert file.read() == right[32_359:92_737]


def test_a_file_written_again_and_again_takes_no_more_room(place: Path) -> None:
    data = os.urandom(1 << 20)
    with open(place / "file", "wb", buffering=0) as file:
        for _ in range(200):
            file.seek(0)
            assert file.write(data) == len(data)
        file.truncate(0)
        file.seek(0)
        file.write(b"1234")
    assert (place / "file").read_bytes() == b"1234"
    assert manifest_of(place)["manifest_text"].endswith(" 0:4:file\n")


def test_times_are_those_of_the_last_write_until_somebody_sets_them(place: Path) -> None:
    path = place / "file"
    path.write_text("a")
    os.utime(path, (1, 1_000_000_000))
    assert path.stat().st_mtime == 1_000_000_000
    with open(path) as file:
        assert file.read() == "a"
    assert path.stat().st_mtime == 1_000_000_000
    with open(path, "a") as file:
        file.write("b")
    assert abs(path.stat().st_mtime - time.time()) < 60


def test_programs_do_their_work(place: Path, tmp_path: Path) -> None:
    run = run_in(place)
    repository = place / "repository"
    make_repository(repository)
    run("git", "clone", "-q", "--no-hardlinks", repository, "clone")
    run("git", "fsck", "--strict", cwd=place / "clone")
    assert run("git", "status", "--short", cwd=place / "clone") == ""

    run("rsync", "-a", f"{SOURCES}/", "copy/")
    assert "package" not in run("rsync", "-ai", f"{SOURCES}/", "copy/")
    assert run("rsync", "-ai", "--no-perms", "--omit-dir-times", f"{SOURCES}/", "copy/") == ""
    run("diff", "-r", SOURCES, "copy")

    (place / "Makefile").write_text("out: in\n\tcp in out\n")
    (place / "in").write_text("1")
    run("make")
    time.sleep(0.02)
    (place / "in").write_text("2")
    run("make")
    assert (place / "out").read_text() == "2"

    base = sqlite3.connect(place / "base.db")
    base.execute("create table t(a)")
    for number in range(50):
        with base:
            base.execute("insert into t values(?)", (number,))
    assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    base.close()


def test_what_keep_refuses_is_told_kept_and_stored_later(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    options = ("--retries=0", "--write-buffer=8M", "--mount-tmp=tmp")
    mount = arv_mount("--read-write", *options)
    scratch, data = mount.path / "tmp", os.urandom(1 << 20)
    (scratch / "before").write_text("stored in time")
    manifest_of(scratch)
    fresh_cluster.faults.add(service="keep", method="PUT", action="status", value=503)
    with open(scratch / "file", "wb", buffering=0) as file, pytest.raises(OSError) as refused:
        for _ in range(64):
            file.write(data)
    assert refused.value.errno == errno.EIO
    size = (scratch / "file").stat().st_size
    assert 0 < size <= 9 << 20
    assert (scratch / "file").read_bytes() == data * (size >> 20)
    assert (scratch / "before").read_text() == "stored in time"
    with pytest.raises(OSError):
        manifest_of(scratch)
    assert "Keep write error" in mount.log.read_text()
    fresh_cluster.faults.clear()
    deadline = time.monotonic() + 20
    while True:
        try:
            with open(scratch / "file", "ab", buffering=0) as file:
                for _ in range(32):
                    assert file.write(data) == len(data)
                    size += len(data)
            break
        except OSError:
            assert time.monotonic() < deadline
    assert (scratch / "file").read_bytes() == data * (size >> 20)
    saved = arvados.collection.Collection(
        manifest_of(scratch)["manifest_text"], api_client=fresh_cluster.api()
    )
    with saved.open("file", "rb") as read:
        assert read.read() == data * (size >> 20)


def test_a_mount_whose_keep_is_silent_ends_when_it_is_told_to(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    mount = arv_mount("--read-write", "--write-buffer=1M", "--mount-tmp=tmp")
    fresh_cluster.faults.add(service="keep", method="PUT", action="stall")

    def write() -> None:
        try:
            with open(mount.path / "tmp" / "file", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)
    began = time.monotonic()
    mount.process.terminate()
    assert mount.process.wait(20) == 0
    assert time.monotonic() - began < 6
    writer.join(20)
    assert not writer.is_alive()
    fresh_cluster.faults.clear()


def test_the_counters_of_the_sdk_are_fed(in_process: tuple[Path, Any]) -> None:
    path, directory = in_process
    keep = directory._api.keep
    before = keep.put_counter.get(), keep.upload_counter.get()
    (path / "file").write_bytes(b"1234567")
    assert manifest_of(path)["manifest_text"].endswith(" 0:7:file\n")
    assert keep.put_counter.get() - before[0] == 1
    # One for each copy.
    assert keep.upload_counter.get() - before[1] in (7, 14)


def test_the_kernel_keeps_what_it_was_told(in_process: tuple[Path, Any]) -> None:
    path, _ = in_process
    (path / "dir").mkdir()
    (path / "dir" / "file").write_text("text")
    (path / "dir" / "file").stat()
    before = _core.operation_time("lookup")[0], _core.operation_time("getattr")[0]
    for _ in range(10):
        assert (path / "dir" / "file").stat().st_size == 4
    assert (_core.operation_time("lookup")[0], _core.operation_time("getattr")[0]) == before


def test_what_was_written_through_a_mapping_is_stored_when_it_is_closed(place: Path) -> None:
    with open(place / "file", "w+b") as file:
        file.truncate(5)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:] = b"mmap!"
    digest = hashlib.md5(b"mmap!").hexdigest()
    assert f" {digest}+5" in manifest_of(place)["manifest_text"]


def test_a_put_that_somebody_replaced_is_called(in_process: tuple[Path, Any]) -> None:
    path, directory = in_process
    with open(path / "file", "w") as file:
        file.write("before, ")
        file.flush()
        put = arvados.keep.KeepClient.put
        with mock.patch.object(
            arvados.keep.KeepClient, "put", autospec=True, side_effect=put
        ) as replaced:
            file.write("after")
            file.flush()
            assert not _core.shows_tree(directory)
            assert manifest_of(path)["manifest_text"].endswith(" 0:13:file\n")
            assert replaced.called
    assert (path / "file").read_text() == "before, after"


def test_what_is_under_way_when_the_mount_ends_is_no_failure(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    mount = arv_mount("--read-write", "--mount-tmp=tmp")
    fresh_cluster.faults.add(service="keep", method="PUT", action="delay", value=2)
    with open(mount.path / "tmp" / "file", "wb") as file:
        file.write(bytes(70 << 20))
    mount.process.terminate()
    assert mount.process.wait(20) == 0
    fresh_cluster.faults.clear()
    assert "Keep write error" not in mount.log.read_text()
