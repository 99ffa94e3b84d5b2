# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections that the core serves from their tree: no Python until Python asks.

What asks: a look at an entry from Python, a change, a patched class or Keep client. Then the SDK's
collection takes over, and nobody who has a file open or knows its inode number notices.
"""

import ctypes
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import arvados.collection
import arvados_fuse
import llfuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import poll
from inprocess import mounted
from llfuse import _core

TREE = {
    "a": "first",
    "b": "second",
    "sub/c": "third",
    "sub/deep er/ü": "fourth",
    "big": "0123456789" * 100_000,
}


def save(cluster: LocalCluster, tree: dict[str, str], name: str = "c") -> Any:
    collection = arvados.collection.Collection(api_client=cluster.api())
    write(collection, tree)
    collection.save_new(name)
    return collection


def write(collection: Any, tree: dict[str, str]) -> None:
    for path, text in tree.items():
        with collection.open(path, "w") as file:
            file.write(text)


def contents(path: Path) -> dict[str, str]:
    return {
        os.path.relpath(os.path.join(folder, name), path): Path(folder, name).read_text()
        for folder, _, names in os.walk(path)
        for name in names
    }


def inodes(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_ino for p in sorted(path.rglob("*"))}


@contextmanager
def shown(
    tmp_path: Path, cluster: LocalCluster, locator: str, **options: Any
) -> Iterator[tuple[Path, Any, Any]]:
    """Mount a collection; give the mount point, the Operations object and the root directory."""
    api = cluster.api()
    writing = options.setdefault("enable_write", False)

    def root(operations: Any) -> Any:
        return arvados_fuse.CollectionDirectory(
            1, operations.inodes, api, 0, writing, None, locator, poll_time=3600
        )

    path = tmp_path / "mnt"
    with mounted(path, root, api=api, **options) as operations:
        yield path, operations, operations.inodes[1]


def test_a_collection_is_read_without_an_object_for_each_file(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    locator = save(fresh_cluster, TREE).manifest_locator()
    with (
        mock.patch.object(arvados_fuse.FuseArvadosFile, "__new__") as made,
        shown(tmp_path, fresh_cluster, locator) as (path, _, root),
    ):
        # A patched class is one that Python may want to see used.
        assert not made.called and not _core.shows_tree(root)
    with shown(tmp_path, fresh_cluster, locator) as (path, operations, root):
        assert contents(path) == TREE
        assert sorted(os.listdir(path / "sub")) == ["c", "deep er"]
        assert _core.shows_tree(root)
        assert len(inodes(path)) == len(set(inodes(path).values())) == 7
        assert all(number in operations.inodes for number in inodes(path).values())
        assert (path / "big").stat().st_size == 1_000_000
        assert (path / "big").stat().st_mode & 0o7777 == 0o555
        assert (path / "a").stat().st_mtime == root.mtime()
        with pytest.raises(FileNotFoundError):
            (path / "none").stat()
        with pytest.raises(NotADirectoryError):
            (path / "a" / "x").stat()
        assert "portable_data_hash" in (path / ".arvados#collection").read_text()
        assert _core.shows_tree(root), "none of this needed an object"


def test_nothing_waits_for_the_gil(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    locator = save(fresh_cluster, TREE).manifest_locator()
    with shown(tmp_path, fresh_cluster, locator) as (path, operations, _):
        file = os.open(path / "big", os.O_RDONLY)
        assert os.pread(file, 5, 0) == b"01234"
        # PyDLL keeps the GIL during the call: it would never return if the mount needed it.
        holding_the_gil = ctypes.PyDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)
        for name in [b"a", b"sub", b"sub/c", "sub/deep er/ü".encode()]:
            assert holding_the_gil.stat(bytes(path) + b"/" + name, buffer) == 0
        assert holding_the_gil.access(bytes(path) + b"/sub/none", os.R_OK) == -1
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        assert holding_the_gil.pread(file, buffer, 10, 500_000) == 10
        assert buffer.raw[:10] == b"0123456789"
        os.close(file)


def test_closing_what_was_only_read_flushes_nothing(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    uuid = save(fresh_cluster, TREE).manifest_locator()
    with shown(tmp_path, fresh_cluster, uuid, enable_write=True) as (path, operations, _):
        counted = operations.metric_count_func("flush")
        # The metric is of the whole process.
        before = counted()
        assert (path / "a").read_text() == TREE["a"]
        assert counted() == before
        with open(path / "a", "r+") as file:
            file.write("F")
        poll("what may have been written to is flushed", lambda: counted() == before + 1)
        assert (path / "a").read_text() == "F" + TREE["a"][1:]
        assert counted() == before + 1
    with (
        mock.patch.object(arvados_fuse.Operations, "flush", autospec=True) as flush,
        shown(tmp_path, fresh_cluster, uuid) as (path, _, _),
    ):
        assert (path / "b").read_text() == TREE["b"]
        poll("a handler of one's own is called", lambda: flush.called)


def test_reads_that_wait_for_keep_hold_up_nothing_else(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    tree = {f"f{n}": f"{n}" * 100_000 for n in range(10)}
    locator = save(fresh_cluster, {**tree, "small": "at hand"}).manifest_locator()
    found: dict[tuple[str, int], str] = {}
    with shown(tmp_path, fresh_cluster, locator) as (path, _, root):
        assert (path / "small").read_text() == "at hand"
        root.api.keep.block_cache.clear()
        fresh_cluster.faults.add(service="keep", method="GET", action="stall")

        def read(name: str, number: int) -> None:
            found[name, number] = (path / name).read_text()

        # Far more than the mount has workers (4).
        threads = [threading.Thread(target=read, args=(name, n)) for name in tree for n in range(4)]
        for thread in threads:
            thread.start()
        poll("reads that wait", lambda: sum(thread.is_alive() for thread in threads) == 40)
        for _ in range(50):
            assert sorted(os.listdir(path)) == sorted([*tree, "small"])
            assert (path / "f3").stat().st_size == 100_000
            assert (path / "small").read_text() == "at hand"
        assert not found
        fresh_cluster.faults.clear()
        for thread in threads:
            thread.join()
    assert found == {(name, n): text for name, text in tree.items() for n in range(4)}


def test_the_counters_of_the_sdk_are_fed(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    locator = save(fresh_cluster, {"big": "0123456789" * 100_000}).manifest_locator()
    with shown(tmp_path, fresh_cluster, locator) as (path, operations, root):
        keep = root.api.keep
        counters = [keep.get_counter, keep.hits_counter, keep.misses_counter, keep.download_counter]
        before = [counter.get() for counter in counters]
        assert (path / "big").stat().st_size == len((path / "big").read_text())
        gets, hits, misses, received = (c.get() - b for c, b in zip(counters, before))
        assert misses >= 1 and gets == hits + misses and received >= 1_000_000
        assert operations.read_counter.get() >= 1_000_000
        keep.get_counter.add(5)
        assert keep.get_counter.get() == before[0] + gets + 5


def test_python_sees_objects_under_the_same_numbers(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    locator = save(fresh_cluster, TREE).manifest_locator()
    with shown(tmp_path, fresh_cluster, locator) as (path, operations, root):
        before = inodes(path)
        with open(path / "big") as file, os.scandir(path / "sub") as listing:
            assert file.read(5) == "01234"
            entry = root["sub"]["c"]
            assert not _core.shows_tree(root)
            assert type(entry) is arvados_fuse.FuseArvadosFile
            assert type(root["sub"]) is arvados_fuse.CollectionDirectoryBase
            assert entry is operations.inodes[before["sub/c"]] is root["sub"]._entries["c"]
            assert entry.ref_count >= 1, "the kernel's reference came along"
            assert operations.inodes[before["big"]].use_count == 1, "and so did the open file"
            assert root.collection.open("b").read() == "second"
            assert entry.arvfile.size() == 5
            file.seek(999_990)
            assert file.read() == "0123456789"
            assert sorted(e.name for e in listing) == ["c", "deep er"]
        assert inodes(path) == before
        assert contents(path) == TREE
        assert operations.inodes[before["big"]].use_count == 0


def test_a_change_is_made_without_objects(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    uuid = save(fresh_cluster, TREE).manifest_locator()
    with shown(tmp_path, fresh_cluster, uuid, enable_write=True) as (path, _, root):
        before = inodes(path)
        assert (path / "a").stat().st_mode & 0o777 == 0o777
        with open(path / "b") as reading, open(path / "a", "r+") as writing:
            assert reading.read() == "second"
            writing.write("FIRST")
            writing.flush()
            assert (path / "a").read_text() == "FIRST"
            reading.seek(0)
            assert reading.read() == "second"
        (path / "sub" / "new").write_text("made here")
        os.truncate(path / "b", 3)
        now = {**TREE, "a": "FIRST", "b": "sec", "sub/new": "made here"}
        assert contents(path) == now
        after = inodes(path)
        assert {name: after[name] for name in before} == before
        assert _core.shows_tree(root)
    saved = arvados.collection.CollectionReader(uuid, api_client=fresh_cluster.api())
    assert saved.open("a").read() == "FIRST" and saved.open("sub/new").read() == "made here"


def test_a_new_version_keeps_what_stays(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    collection = save(fresh_cluster, TREE)
    uuid = collection.manifest_locator()
    with shown(tmp_path, fresh_cluster, uuid) as (path, operations, root):
        before = inodes(path)
        mtime = (path / "a").stat().st_mtime
        with open(path / "b") as gone, open(path / "a") as changed, open(path / "big") as kept:
            assert gone.read(3) == "sec" and kept.read(1) == "0"
            poll("a later second", lambda: int(time.time()) > mtime)
            collection.remove("b")
            write(collection, {"a": "another first", "sub/more": "fifth"})
            collection.save()
            operations.on_event({"event_type": "update", "object_uuid": uuid})
            now = {**TREE, "a": "another first", "sub/more": "fifth"}
            del now["b"]
            assert contents(path) == now
            assert _core.shows_tree(root)
            after = inodes(path)
            assert {n: after[n] for n in before if n != "b"} == {
                n: i for n, i in before.items() if n != "b"
            }
            assert after["sub/more"] not in before.values()
            assert (path / "a").stat().st_mtime > mtime
            assert (path / "big").stat().st_mtime == mtime, "what did not change kept its time"
            # Who has a file open reads on: in the new version, or what is gone.
            assert changed.read() == "another first"
            gone.seek(0)
            assert gone.read() == "second"
            assert os.fstat(gone.fileno()).st_ino == before["b"]
        operations.inodes.wait_remove_queue_empty()
        poll("the number of what is gone is", lambda: before["b"] not in operations.inodes)


def test_a_collection_that_is_handed_in_takes_over(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    uuid = save(fresh_cluster, TREE).manifest_locator()
    with shown(tmp_path, fresh_cluster, uuid) as (path, _, root):
        before = inodes(path)
        with open(path / "big") as file:
            file.read(1)
            handed = arvados.collection.Collection(uuid, api_client=fresh_cluster.api())
            root.new_collection(handed.api_response(), handed)
            assert root.collection is handed
            assert inodes(path) == before
            file.seek(10)
            assert file.read(3) == "012"
        with handed.open("b", "w") as file:
            file.write("seen through the mount")
        poll("the change", lambda: (path / "b").read_text() == "seen through the mount")


def test_the_cache_counts_what_trees_take_and_evicts_them_whole(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    api = fresh_cluster.api()
    for number in range(8):
        save(fresh_cluster, {f"f{n}": "" for n in range(100)}, f"c{number}")
    user = api.users().current().execute()

    def home(operations: Any) -> Any:
        return arvados_fuse.ProjectDirectory(1, operations.inodes, api, 0, False, None, user)

    with mounted(tmp_path / "mnt", home, api=api) as operations:
        inodes = operations.inodes
        (tmp_path / "mnt" / "c0" / "f7").stat()
        one = inodes.inode_cache.total()
        assert one == sum(_core.tree_memory(entry) for entry in inodes[1]._entries.values())
        assert 100 * 20 < one < 100 * 120, "bytes for a hundred files"
        inodes.inode_cache.cap = 3 * one
        inodes.inode_cache.min_entries = 1
        for number in range(8):
            assert len(os.listdir(tmp_path / "mnt" / f"c{number}")) == 100
        inodes.wait_remove_queue_empty()
        poll("evicted", lambda: inodes.inode_cache.total() <= 3 * one)
        loaded = [name for name, entry in inodes[1]._entries.items() if _core.shows_tree(entry)]
        assert 1 <= len(loaded) <= 3 and "c7" in loaded
        assert len(inodes) < 3 * 110, "numbers of what was evicted are gone"
        assert (tmp_path / "mnt" / "c0" / "f7").stat().st_size == 0


def test_a_malformed_manifest_is_an_error_that_says_where(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    save(fresh_cluster, TREE, "good")
    uuid = save(fresh_cluster, TREE, "bad").manifest_locator()
    empty = "d41d8cd98f00b204e9800998ecf8427e+0"
    text = f". {empty} 0:0:fine\n./s {empty} 0:9:beyond\n"
    record = fresh_cluster.api().collections().get(uuid=uuid).execute()
    fresh_cluster.load_fixtures({"collections": [{**record, "manifest_text": text}]})
    mount = arv_mount("--retries=0")
    for look in (os.listdir, lambda path: (path / "fine").stat()):
        with pytest.raises(OSError) as error:
            look(mount.path / "home" / "bad")
        assert error.value.errno == errno.EIO
    assert f"collection {uuid} has a bad manifest: manifest line 2" in mount.log.read_text()
    assert contents(mount.path / "home" / "good") == TREE


def patch_reading(_cluster: LocalCluster) -> Any:
    return mock.patch("arvados.keep.KeepClient.get", return_value=b"faked!")


def patch_kind(_cluster: LocalCluster) -> Any:
    return mock.patch.object(
        arvados_fuse.FuseArvadosFile, "readfrom", autospec=True, return_value=b"faked!"
    )


@pytest.mark.parametrize("patch", [patch_reading, patch_kind])
def test_what_is_patched_while_it_is_shown_is_called(
    tmp_path: Path, fresh_cluster: LocalCluster, patch: Callable
) -> None:
    uuid = save(fresh_cluster, {"f": "second"}).manifest_locator()
    with shown(tmp_path, fresh_cluster, uuid) as (path, _, root):
        assert (path / "f").stat().st_size == 6
        assert _core.shows_tree(root)
        with patch(fresh_cluster) as called:
            assert (path / "f").read_text() == "faked!"
        assert called.called and not _core.shows_tree(root)


class Named(arvados_fuse.CollectionDirectory):
    """A kind of somebody's own."""

    def new_entry(self, name: str, item: Any, mtime: float) -> None:
        super().new_entry("my-" + name, item, mtime)


def test_a_subclass_is_asked(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    locator = save(fresh_cluster, {"f": "text"}).manifest_locator()

    def root(operations: Any) -> Any:
        return Named(1, operations.inodes, api, 0, False, None, locator)

    with mounted(tmp_path / "mnt", root, api=api):
        assert (tmp_path / "mnt" / "my-f").read_text() == "text"


def test_eviction_and_events_and_promotion_at_once(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    collection = save(fresh_cluster, TREE)
    uuid = collection.manifest_locator()
    failures: list[BaseException] = []
    stop = threading.Event()
    rounds = [0] * 4

    def reader(path: Path, number: int) -> None:
        try:
            while not stop.is_set():
                assert contents(path) == TREE
                rounds[number] += 1
        except BaseException as error:
            failures.append(error)

    with shown(tmp_path, fresh_cluster, uuid) as (path, operations, root):
        threads = [threading.Thread(target=reader, args=(path, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(30):
            before = sum(rounds)
            operations.on_event({"event_type": "update", "object_uuid": uuid})
            if turn % 3 == 1:
                with llfuse.lock:
                    assert root["a"] is root._entries["a"]
            if turn % 3 == 2:
                os.listdir(path)
            poll("the readers go on", lambda n=before: failures or sum(rounds) > n)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[0]


def refused(cluster: LocalCluster, locator: str) -> bool:
    """Return whether the Keep services refuse a block with that signature."""
    try:
        cluster.api().keep.head(locator, num_retries=0)
    except arvados.errors.KeepRequestError:
        return True
    return False


def test_signatures_that_expired_are_renewed_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = random.Random(429).randbytes(200_000).hex()
    with LocalCluster(tmp_path / "cluster", test_hooks=True, blob_signing_ttl=2) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        uuid = save(cluster, {f"f{n}": f"{n}{text}" for n in range(4)}).manifest_locator()
        expected = {f"f{n}": hashlib.md5(f"{n}{text}".encode()).hexdigest() for n in range(4)}
        with shown(tmp_path, cluster, uuid) as (path, _, root):
            files = {name: open(path / name, "rb") for name in expected}
            signed = cluster.api().collections().get(uuid=uuid).execute()["manifest_text"].split()
            # Signed later than what the mount has.
            poll("the signatures' end", lambda: refused(cluster, signed[1]))
            cluster.record_requests()
            found: dict[str, str] = {}

            def read(name: str) -> None:
                found[name] = hashlib.md5(files[name].read()).hexdigest()

            threads = [threading.Thread(target=read, args=(name,)) for name in files]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == expected
            assert _core.shows_tree(root)
            asked = [r for r in cluster.requests() if uuid in r["path"]]
            assert 1 <= len(asked) <= 2, asked
            for file in files.values():
                file.close()
