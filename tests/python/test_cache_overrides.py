# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Methods of an `InodeCache` that a program overrides are called by the inode table."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import arvados_fuse
import llfuse
import pytest
from entries_2017 import Entry
from inprocess import add, directory, mounted


class Noting(arvados_fuse.InodeCache):
    """Notes what it is asked, and does what it would have done."""

    def __init__(self, name: str, cap: int) -> None:
        super().__init__(cap, min_entries=0)
        self.name = name
        self.asked: list[Any] = []

    def touch(self, obj: Any) -> bool:
        self.asked.append(("touch", obj))
        return super().touch(obj)

    def update_cache_size(self, obj: Any) -> None:
        self.asked.append(("update_cache_size", obj))
        super().update_cache_size(obj)

    def unmanage(self, entry: Any) -> None:
        self.asked.append(("unmanage", entry))
        super().unmanage(entry)

    def evict_candidates(self) -> Iterator[Any]:
        self.asked.append("evict_candidates")
        yield from super().evict_candidates()

    def clear(self) -> None:
        self.asked.append("clear")
        super().clear()


def entry(size: int) -> Entry:
    made = Entry(size)
    made.parent_inode = 1  # type: ignore[attr-defined]
    made.has_ref = lambda: False  # type: ignore[assignment,method-assign]
    return made


def test_every_method_of_a_subclass_is_called() -> None:
    cache = Noting("mine", 1000)
    inodes = arvados_fuse.Inodes(cache)
    assert inodes.inode_cache is cache and cache.cap == 1000
    inodes.add_entry(entry(0))
    old, new = inodes.add_entry(entry(600)), inodes.add_entry(entry(500))
    assert cache.asked[1:] == [("update_cache_size", old), ("update_cache_size", new)]
    for each in (old, new):
        each.parent_inode = None
    cache.asked.clear()
    inodes.touch(old)
    assert cache.asked == [("touch", old)]
    inodes.wait_remove_queue_empty()
    assert cache.asked[1:] == ["evict_candidates", ("unmanage", new)]
    assert new.cleared_by and not old.cleared_by, "the one touched last stays"
    assert cache.total() == 600
    with llfuse.lock:
        inodes.clear()
    assert cache.asked[-1] == "clear" and cache.total() == 0


class Choosing(arvados_fuse.InodeCache):
    """Evicts what it likes, whatever the cap."""

    chosen: tuple[Any, ...] = ()

    def evict_candidates(self) -> Iterator[Any]:
        yield from self.chosen


def test_a_program_may_choose_what_is_evicted() -> None:
    cache = Choosing(1 << 30)
    inodes = arvados_fuse.Inodes(cache)
    entries = [inodes.add_entry(entry(10)) for _ in range(4)]
    cache.chosen = (entries[2],)
    inodes.cap_cache()
    inodes.wait_remove_queue_empty()
    assert [len(each.cleared_by) for each in entries] == [0, 0, 1, 0]


class Of2017(arvados_fuse.InodeCache):
    """Overrides what only 2017 had."""

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.managed: list[Any] = []
        self.capped = 0

    def manage(self, obj: Any) -> None:
        self.managed.append(obj)
        super().manage(obj)

    def cap_cache(self) -> None:
        self.capped += 1
        super().cap_cache()


def test_manage_and_cap_cache_of_2017_are_called() -> None:
    cache = Of2017()
    inodes = arvados_fuse.Inodes(cache)
    made = inodes.add_entry(entry(10))
    assert cache.managed == [made] and cache.total() == 10
    assert cache.capped == 1, "by manage"
    inodes.cap_cache()
    inodes.wait_remove_queue_empty()
    assert cache.capped > 1


def test_methods_replaced_later_are_called_while_they_are() -> None:
    cache = arvados_fuse.InodeCache(1000)
    inodes = arvados_fuse.Inodes(cache)
    inodes.add_entry(entry(0))
    made = inodes.add_entry(entry(10))
    with mock.patch.object(arvados_fuse.InodeCache, "touch", return_value=False) as touch:
        inodes.touch(made)
        assert touch.call_count == 1
    cache.touch = mock.Mock(return_value=False)
    inodes.touch(made)
    cache.touch.assert_called_once_with(made)
    del cache.touch
    with mock.patch.object(arvados_fuse.InodeCache, "unmanage", autospec=True) as unmanage:
        inodes.del_entry(made)
        inodes.wait_remove_queue_empty()
        assert unmanage.called
    inodes.touch(made)
    assert touch.call_count == 1


def test_an_error_in_an_override_is_the_callers() -> None:
    class Broken(arvados_fuse.InodeCache):
        def touch(self, obj: Any) -> bool:
            raise ValueError("not today")

    inodes = arvados_fuse.Inodes(Broken(1000))
    made = inodes.add_entry(entry(10))
    with pytest.raises(ValueError, match="not today"):
        inodes.touch(made)


def test_requests_of_the_kernel_call_it(tmp_path: Path) -> None:
    cache = Noting("mounted", 1 << 30)
    with mounted(tmp_path / "mnt", directory, inode_cache=cache) as operations:
        root = operations.inodes[1]
        root._poll_time = 0
        inner = add(operations, root, "inner", directory(operations))
        inner._poll_time = 0
        cache.asked.clear()
        assert os.listdir(tmp_path / "mnt" / "inner") == []
        assert ("touch", inner) in cache.asked and ("touch", root) in cache.asked
