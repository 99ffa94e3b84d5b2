# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API of 2017: every public call of `InodeCache`, `Inodes` and `Operations` as its callers made it.

Where 3.2.1 gives a call another meaning, that of 3.2.1 is tested here, and docs/compat.md says so.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import arvados_fuse
import llfuse
import pytest
from conftest import poll
from entries_2017 import Entry, numbered
from inprocess import add, directory, mounted

UUID = "zzzzz-4zz18-00000000000000"


@pytest.fixture
def cache() -> Any:
    return arvados_fuse.InodeCache(1000, min_entries=0)


# InodeCache


def test_manage_counts_and_lists(cache: Any) -> None:
    first, second = numbered(1, 300, UUID + "1"), numbered(2, 400, UUID + "1")
    cache.manage(first)
    cache.manage(second)
    assert cache.total() == 700 and (first.cache_size, first.cache_uuid) == (300, UUID + "1")
    assert list(cache._entries) == [1, 2] and cache._entries[2] is second
    assert cache.find_by_uuid(UUID + "1") == [first, second]
    assert cache.find_by_uuid(UUID + "2") == cache.find_by_uuid(None) == []
    unpersisted = numbered(3, 100)
    unpersisted.persisted = lambda: False  # type: ignore[method-assign]
    cache.manage(unpersisted)
    assert cache.total() == 700 and 3 not in cache._entries


def test_manage_evicts_the_longest_unused_at_once_in_the_calling_thread(cache: Any) -> None:
    made = [numbered(n, 400, UUID + str(n)) for n in range(1, 4)]
    cache.manage(made[0])
    cache.manage(made[1])
    assert cache.touch(made[0])
    cache.manage(made[2])
    assert made[1].cleared_by == [threading.get_ident()]
    assert made[0].cleared_by == made[2].cleared_by == []
    assert list(cache._entries) == [1, 3] and cache.total() == 800
    assert cache.find_by_uuid(UUID + "2") == [] and made[1].cache_uuid is None
    # Cleared, it keeps its number, and may be managed again.
    assert made[1].inode == 2


def test_cap_cache_keeps_what_has_to_stay(cache: Any) -> None:
    used, above, itself, idle = (numbered(n, 500) for n in range(1, 5))
    cache.cap = 10_000
    for each in (used, above, itself, idle):
        cache.manage(each)
    used.use_count = above.referenced_children = itself.ref_count = 1
    cache.cap = 10
    cache.cap_cache()
    assert used.cleared_by == above.cleared_by == []
    assert (used.invalidations, above.invalidations) == (0, 1)
    # What the kernel refers to keeps its number, but not its contents, unless it refers to those.
    assert len(itself.cleared_by) == len(idle.cleared_by) == 1
    assert list(cache._entries) == [1, 2] and cache.total() == 1000
    above.referenced_children = False
    cache.min_entries = 3
    cache.cap_cache()
    assert above.cleared_by == []
    cache.min_entries = 1
    cache.cap_cache()
    assert len(above.cleared_by) == 1


def test_touch_of_an_unmanaged_entry(cache: Any) -> None:
    # 2017 managed it; 3.2.1 tells that it is not managed, and leaves it so.
    entry = numbered(1, 300)
    assert cache.touch(entry) is False
    assert cache.total() == 0 and len(cache._entries) == 0
    cache.manage(entry)
    assert cache.touch(entry) is True and cache.total() == 300


def test_unmanage_stops_counting(cache: Any) -> None:
    # 2017 cleared the entry, too; 3.2.1 leaves that to whoever removes it.
    entry = numbered(1, 300, UUID + "1")
    cache.manage(entry)
    cache.unmanage(entry)
    assert cache.total() == 0 and len(cache._entries) == 0 and entry.cleared_by == []
    cache.unmanage(entry)
    assert cache.total() == 0


def test_clear_forgets_everything(cache: Any) -> None:
    cache.manage(numbered(1, 300, UUID + "1"))
    cache.clear()
    assert cache.total() == 0 and len(cache._entries) == 0
    assert cache.find_by_uuid(UUID + "1") == []


# Inodes


@pytest.fixture
def inodes(cache: Any) -> Any:
    return arvados_fuse.Inodes(cache, encoding="utf-8")


def test_the_table_is_a_mapping(inodes: Any) -> None:
    root, entry, other = Entry(0), Entry(0), Entry(0)
    assert inodes.add_entry(root) is root and inodes.add_entry(entry) is entry
    assert (root.inode, entry.inode) == (llfuse.ROOT_INODE, 2)
    assert (root.ref_count, entry.ref_count) == (1, 0)
    assert inodes[2] is entry and 2 in inodes and 3 not in inodes
    assert sorted(inodes) == [1, 2] and dict(inodes.items()) == {1: root, 2: entry}
    inodes[7] = other
    assert inodes[7] is other
    assert next(inodes._counter) == 3
    assert len(inodes.deferred_invalidations) == 0


def test_touch_notes_the_time(inodes: Any) -> None:
    entry = inodes.add_entry(Entry(10))
    before = time.time()
    inodes.touch(entry)
    assert before <= entry._atime <= time.time()


def test_deleting_an_unreferenced_entry(inodes: Any, cache: Any) -> None:
    inodes.add_entry(Entry(0))
    entry = inodes.add_entry(Entry(10, UUID + "1"))
    assert cache.total() == 10 and inodes.find_by_uuid(UUID + "1") == [entry]
    with llfuse.lock:
        inodes.del_entry(entry)
    # In the calling thread in 2017; as in 3.2.1, by the table's own, which may be waited for.
    inodes.wait_remove_queue_empty()
    assert 2 not in inodes and entry.inode is None and entry.finalized == 1
    assert cache.total() == 0 and inodes.find_by_uuid(UUID + "1") == []


def test_an_entry_without_a_parent_is_not_a_deleted_one(inodes: Any) -> None:
    inodes.add_entry(Entry(0))
    entry = inodes.add_entry(Entry(10))
    assert not hasattr(entry, "parent_inode")
    inodes.touch(entry)
    inodes.inode_cache.cap = 1
    inodes.cap_cache()
    inodes.wait_remove_queue_empty()
    assert len(entry.cleared_by) == 1, "evicted"
    assert entry.inode == 2 and 2 in inodes, "and still there"


def test_a_base_class_of_2017_does_not_say_where_it_is(inodes: Any) -> None:
    class Plain(arvados_fuse.FreshBase):
        pass

    plain = Plain()
    assert plain.dead is False
    with pytest.raises(AttributeError):
        plain.parent_inode  # noqa: B018
    plain.kernel_invalidate()
    nowhere = arvados_fuse.Directory.__new__(arvados_fuse.Directory)
    nowhere.inodes = inodes
    nowhere.kernel_invalidate()


def test_clear_finalizes_and_empties(inodes: Any, cache: Any) -> None:
    first, second = inodes.add_entry(Entry(10)), inodes.add_entry(Entry(20))
    first.finalize = mock.Mock(side_effect=OSError("cannot be saved"))  # type: ignore[method-assign]
    with llfuse.lock:
        inodes.clear()
    assert first.finalize.called and second.finalized == 1
    assert list(inodes) == [] and cache.total() == 0


def test_invalidation_by_number_reaches_the_kernel(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        root = operations.inodes[1]
        add(operations, root, "f", arvados_fuse.StringFile(1, "old", 0))._poll_time = 60
        assert (tmp_path / "mnt" / "f").read_text() == "old"
        # Opening it for the first time had the kernel look at it again.
        operations.inodes.wait_remove_queue_empty()
        file, found = root._entries["f"], os.stat(tmp_path / "mnt" / "f")
        file.contents = "newer"
        assert os.stat(tmp_path / "mnt" / "f").st_size == found.st_size == 3
        operations.inodes.invalidate_inode(file.inode)
        poll("the new size", lambda: os.stat(tmp_path / "mnt" / "f").st_size == 5)
        add(operations, root, "g", arvados_fuse.StringFile(1, "another", 0))
        root._entries["f"] = root._entries["g"]
        assert os.stat(tmp_path / "mnt" / "f").st_ino == file.inode
        operations.inodes.invalidate_entry(llfuse.ROOT_INODE, "f")
        other = root._entries["g"].inode
        poll("the new file", lambda: os.stat(tmp_path / "mnt" / "f").st_ino == other)


# References


def test_has_ref_with_and_without_an_argument(inodes: Any) -> None:
    root = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
    inner = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
    file = inodes.add_entry(arvados_fuse.StringFile(inner.inode, "x", 0))
    root._entries["inner"], inner._entries["file"] = inner, file

    def answers(entry: Any) -> list[bool]:
        return [entry.has_ref(), entry.has_ref(False), entry.has_ref(True)]

    assert answers(root) == [True, True, False]
    assert answers(inner) == answers(file) == [False, False, False]
    file.inc_ref()
    assert answers(file) == [True, True, False]
    assert answers(inner) == [False, True, True]
    assert answers(root) == [True, True, True]
    foreign = inodes.add_entry(Entry(0))
    inner._entries = {"foreign": foreign}
    assert answers(inner) == [False, False, False]
    foreign.ref_count = 1
    assert answers(inner) == [False, True, True]


class Project(arvados_fuse.Directory):
    """A directory that the cache counts, whose contents come back when somebody looks."""

    def __init__(self, operations: Any) -> None:
        super().__init__(llfuse.ROOT_INODE, operations.inodes, False, None)
        self.updates = 0

    def persisted(self) -> bool:
        return True

    def update(self) -> None:
        self.updates += 1
        self.merge(
            [{"name": f"file{n}"} for n in range(10)],
            lambda item: item["name"],
            lambda entry, item: True,
            lambda item: arvados_fuse.StringFile(self.inode, item["name"], 0),
        )


def test_what_the_kernel_refers_to_is_invalidated_first_and_cleared_then(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        project = add(operations, operations.inodes[1], "p", Project(operations))
        cache = operations.inodes.inode_cache
        assert len(os.listdir(tmp_path / "mnt" / "p")) == 10
        # Of each new name the kernel was told that it leads elsewhere now.
        operations.inodes.wait_remove_queue_empty()
        assert (tmp_path / "mnt" / "p" / "file3").read_text() == "file3"
        assert cache.total() == 10 * 1024 and project.has_ref(True)
        with llfuse.lock:
            cache.cap, cache.min_entries = 1, 0
            cache.cap_cache()
            assert len(project._entries) == 10

        def cleared() -> bool:
            with llfuse.lock:
                cache.cap_cache()
                return len(project._entries) == 0

        poll("the kernel's forgetting", cleared)
        assert project.updates == 1 and cache.total() == 0
        assert (tmp_path / "mnt" / "p" / "file4").read_text() == "file4"
        assert project.updates == 2
