# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The SDK's block cache, as a mount has it beside the core's: with a part of the room for itself.

The core reads nearly everything; the SDK reads what is being written to. Both keep blocks in the same
folder, or both in memory, and `--file-cache` bounds what they take together.
"""

import contextlib
import fcntl
import os
import resource
import stat
import tempfile
import threading
from typing import Any

import arvados.errors
import arvados.keep

#: A block of Keep, in bytes. Neither cache can do with less.
_BLOCK = 64 << 20
#: What the SDK's cache takes of a large one, at most, in bytes.
_SDK_PART = 256 << 20
_SUFFIX = ".keepcacheblock"


class BlockCache(arvados.keep.KeepBlockCache):
    """A cache of at most `cache_max` bytes, 128 MiB at least, of which `core_max` are for the core.

    0: as much as the SDK would take. On disk, what is in the folder already stays there until somebody
    asks for it or needs the room, and nothing of it is opened before. Raises OSError where the folder
    cannot be written to.
    """

    #: Bytes for the SDK.
    cache_max: int

    def __init__(self, cache_max: int, disk_cache: bool, disk_cache_dir: str | None) -> None:
        slots = 0
        if disk_cache:
            slots = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8, 4)
            if disk_cache_dir is None:
                folders = arvados.keep.basedirs.BaseDirectories("CACHE")
                disk_cache_dir = str(folders.storage_path("keep"))
            with tempfile.TemporaryFile(dir=disk_cache_dir):
                pass
            if cache_max == 0:
                cache_max = _suitable(disk_cache_dir, slots)
        # As one in memory: the SDK's start on a folder opens and locks whatever there is, a pipe
        # included, and removes files that another one of its kind uses.
        super().__init__(cache_max=cache_max, max_slots=slots)
        self._adding = threading.Lock()
        self._disk_cache = disk_cache
        self._disk_cache_dir = disk_cache_dir
        total = max(self.cache_max, 2 * _BLOCK)
        self.cache_max = min(max(total // 8, _BLOCK), _SDK_PART)
        #: Bytes for the core's cache, 64 MiB at least.
        self.core_max = total - self.cache_max

    def _get(self, locator: str) -> Any:
        if self._disk_cache and locator not in self._cache and not self._is_readable(locator):
            return None
        return super()._get(locator)

    def _is_readable(self, locator: str) -> bool:
        """Whether there is a file for that block that can be read without waiting."""
        assert self._disk_cache_dir is not None
        path = os.path.join(self._disk_cache_dir, locator[:3], locator + _SUFFIX)
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found = os.fstat(file)
            return stat.S_ISREG(found.st_mode) and found.st_size > 0
        except OSError:
            return False
        finally:
            os.close(file)

    def set(self, slot: Any, blob: Any) -> None:
        # Room is made first: the SDK makes it afterwards, when several may have been added. A block that
        # cannot be cached can be read all the same.
        with self._adding, contextlib.suppress(arvados.errors.KeepCacheError):
            with self._cache_lock:
                self._resize_cache(max(self.cache_max - len(blob or b""), 0), self._max_slots)
            super().set(slot, blob)


def _suitable(folder: str, slots: int) -> int:
    """How many bytes a cache in that folder takes by the SDK's rule, counting what is there already."""
    used = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    used += os.lstat(os.path.join(place, name)).st_size
    fs = os.statvfs(folder)
    available = (fs.f_bavail * fs.f_bsize + used) // 4
    return min(fs.f_blocks * fs.f_bsize // 10, available, slots * _BLOCK)
