# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`Inodes` and `InodeCache`, as programs and suites of 3.2.1 and of 2017 use them."""

import gc
import os
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import arvados_fuse
import llfuse
import pytest
from conftest import poll
from inprocess import add, directory, mounted


def entry(size: int, *, in_use: bool = False, ref: bool = False, persisted: bool = True) -> Any:
    made = mock.MagicMock()
    made.in_use.return_value = in_use
    made.has_ref.return_value = ref
    made.persisted.return_value = persisted
    made.objsize.return_value = size
    made.uuid.return_value = None
    return made


@pytest.fixture
def cache() -> Any:
    return arvados_fuse.InodeCache(1000, 4)


@pytest.fixture
def inodes(cache: Any) -> Any:
    made = arvados_fuse.Inodes(cache)
    next(made._counter)  # number 1 is the root, which is never removed
    return made


def test_entries_get_numbers_and_are_counted(inodes: Any, cache: Any) -> None:
    first, unpersisted = entry(500), entry(600, persisted=False)
    assert inodes.add_entry(first) is first
    inodes.add_entry(unpersisted)
    assert (first.inode, unpersisted.inode) == (2, 3)
    assert inodes[2] is first and 3 in inodes and 4 not in inodes
    assert dict(inodes.items()) == {2: first, 3: unpersisted}
    assert sorted(inodes) == [2, 3]
    assert cache.total() == 500
    assert list(cache._cache_entries) == [2]
    with pytest.raises(KeyError):
        inodes[99]


def test_eviction_by_last_use(inodes: Any, cache: Any) -> None:
    cache.min_entries = 1
    old, new = inodes.add_entry(entry(400)), inodes.add_entry(entry(500))
    inodes.touch(old)
    inodes.wait_remove_queue_empty()
    assert not old.clear.called and not new.clear.called
    for each in (old, new):
        each.parent_inode = None
    third = inodes.add_entry(entry(300))
    third.parent_inode = None
    inodes.wait_remove_queue_empty()
    assert new.clear.called and not old.clear.called and not third.clear.called
    assert new.inode is None and cache.total() == 700
    assert old.clear.call_count == 0


def test_what_is_used_or_referenced_stays(inodes: Any, cache: Any) -> None:
    cache.min_entries = 0
    used, referenced = entry(600, in_use=True), entry(600, ref=True)
    inodes.add_entry(used)
    inodes.add_entry(referenced)
    inodes.wait_remove_queue_empty()
    assert not used.clear.called and not referenced.clear.called
    assert referenced.kernel_invalidate.called
    assert cache.total() == 1200


def test_deleting_waits_for_the_last_reference(inodes: Any, cache: Any) -> None:
    doomed = inodes.add_entry(entry(100, ref=True))
    inodes.del_entry(doomed)
    inodes.wait_remove_queue_empty()
    assert doomed.parent_inode is None and doomed.inode == 2
    doomed.has_ref.return_value = False
    inodes.del_entry(doomed)
    inodes.wait_remove_queue_empty()
    assert doomed.finalize.called and doomed.inode is None
    assert 2 not in inodes and cache.total() == 0


def test_update_cache_size_follows_the_contents(inodes: Any, cache: Any) -> None:
    made = inodes.add_entry(entry(100))
    made.objsize.return_value = 250
    cache.update_cache_size(made)
    assert cache.total() == made.cache_size == 250
    made.objsize.return_value = 0
    made.parent_inode = 1
    cache.update_cache_size(made)
    assert cache.total() == 0 and len(cache._cache_entries) == 0
    assert cache.touch(made) is False


def test_evict_candidates_stop_when_it_is_enough(cache: Any, inodes: Any) -> None:
    cache.min_entries = 0
    made = [inodes.add_entry(entry(400)) for _ in range(4)]
    given = []
    for candidate in cache.evict_candidates():
        given.append(candidate)
        cache.unmanage(candidate)
    assert given == made[:2] and cache.total() == 800


def test_finding_by_uuid(inodes: Any) -> None:
    made = entry(0)
    made.uuid.return_value = "zzzzz-4zz18-000000000000000"
    made.cache_uuid = None
    inodes.add_entry(made)
    assert inodes.find_by_uuid("zzzzz-4zz18-000000000000000") == [made]
    made.uuid.return_value = "zzzzz-4zz18-000000000000001"
    inodes.update_uuid(made)
    assert inodes.find_by_uuid("zzzzz-4zz18-000000000000000") == []
    assert inodes.find_by_uuid("zzzzz-4zz18-000000000000001") == [made]
    assert inodes.find_by_uuid(None) == []


@pytest.mark.parametrize("by", ["entry", "number"])
def test_invalidation_takes_entries_and_numbers(tmp_path: Path, by: str) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        root = operations.inodes[llfuse.ROOT_INODE]
        file = add(operations, root, "f", arvados_fuse.StringFile(root.inode, "text", 0))
        file._poll_time = 60  # seconds for which the kernel may keep its attributes

        def asked(handler: str) -> int:
            """Look at the file; return how often the kernel has called a handler."""
            os.stat(tmp_path / "mnt" / "f")
            return operations.metric_count_func(handler)()

        # Entries are what 3.2.1 gives, numbers what 2017 gave.
        calls = {
            "getattr": lambda: operations.inodes.invalidate_inode(
                file if by == "entry" else file.inode
            ),
            "lookup": lambda: operations.inodes.invalidate_entry(
                root if by == "entry" else root.inode, "f"
            ),
        }
        for handler, invalidate in calls.items():
            asked(handler)
            before = asked(handler)
            assert asked(handler) == before, "the kernel knows it"
            with llfuse.lock:
                invalidate()
            poll(f"another {handler}", lambda h=handler, n=before: asked(h) > n)


def test_clear_finalizes_every_entry(inodes: Any, cache: Any) -> None:
    made = [inodes.add_entry(entry(10)) for _ in range(3)]
    made[1].finalize.side_effect = ValueError("cannot be saved")
    with llfuse.lock:
        inodes.clear()
    assert all(each.finalize.called for each in made)
    assert not list(inodes) and cache.total() == 0


def test_the_interface_of_2017() -> None:
    cache = arvados_fuse.InodeCache(1000, 2)
    first, second, third = (entry(500) for _ in range(3))
    for number, made in enumerate((first, second, third), 1):
        made.inode = number
        made.uuid.return_value = f"uuid-{number}"
        made.cache_uuid = None
    cache.manage(first)
    cache.manage(second)
    assert cache.total() == 1000 and len(cache._entries) == 2
    assert cache.find_by_uuid("uuid-1") == [first]
    third.in_use.return_value = True
    second.has_ref.return_value = True
    cache.manage(third)  # evicts at once, in this thread
    assert first.clear.called and cache.total() == 1000
    assert cache.find_by_uuid("uuid-1") == []
    cache.cap = 100
    cache.min_entries = 0
    cache.cap_cache()
    assert second.kernel_invalidate.called and not second.clear.called
    assert not third.clear.called
    cache.unmanage(second)
    assert cache.total() == 500
    unpersisted = entry(5, persisted=False)
    cache.manage(unpersisted)
    assert cache.total() == 500
    cache.clear()
    assert cache.total() == 0


def test_entries_tables_behave_as_dicts(inodes: Any) -> None:
    directory = arvados_fuse.Directory(1, inodes, False, None)
    inodes.add_entry(directory)
    table = directory._entries
    file = arvados_fuse.StringFile(directory.inode, "x", 0)
    table["f"] = file
    assert table["f"] is file and "f" in table and len(table) == 1
    assert list(table) == ["f"] and table.get("g") is None and table == {"f": file}
    assert directory["f"] is file and directory.items() == [("f", file)] and len(directory) == 1
    directory._entries = {}
    assert len(directory) == 0 and table["f"] is file, "the old table is left alone"
    assert table.pop("f") is file and table.pop("f", None) is None
    with pytest.raises(KeyError):
        directory["f"]
    with pytest.raises(Exception, match="int"):
        arvados_fuse.Directory("1", inodes, False, None)


def test_names_that_no_file_can_have(cache: Any) -> None:
    for fsns, expected in ((None, "a_b"), ("[SLASH]", "a[SLASH]b")):
        inodes = arvados_fuse.Inodes(cache, fsns=fsns)
        directory = arvados_fuse.Directory(1, inodes, False, None)
        assert directory.sanitize_filename("a/b") == expected
        assert [directory.sanitize_filename(n) for n in ("", ".", "..", None, "x\0y")] == [
            "_", "_", "__", None, "x_y",
        ]  # fmt: skip
    assert directory.unsanitize_filename("a[SLASH]b") == "a/b"


def test_cycles_are_collected() -> None:
    def make() -> weakref.ref:
        cache = arvados_fuse.InodeCache(1000)
        inodes = arvados_fuse.Inodes(cache)
        root = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
        root._entries["d"] = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
        return weakref.ref(root)

    made = make()
    gc.collect()
    gc.collect()
    assert made() is None


def test_a_table_without_a_cache_makes_its_own() -> None:
    inodes = arvados_fuse.Inodes(None)
    added = inodes.add_entry(entry(500))
    assert inodes.inode_cache.total() == 500
    assert list(inodes.inode_cache._cache_entries) == [added.inode]


def test_an_entry_that_was_removed_can_be_counted_again(inodes: Any, cache: Any) -> None:
    cache.min_entries = 0
    removed = inodes.add_entry(entry(600))
    with llfuse.lock:
        inodes.del_entry(removed)
    inodes.wait_remove_queue_empty()
    assert removed.inode is None and cache.total() == 0
    cache.update_cache_size(removed)
    assert cache.total() == 600
    assert cache.touch(removed)
    cache.unmanage(removed)
    assert cache.total() == 0 and not cache.touch(removed)
