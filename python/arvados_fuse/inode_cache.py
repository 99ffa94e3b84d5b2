# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`InodeCache`: what loaded entries weigh, and which of them go first.

A thin class over the core's, so that programs can override, wrap and patch its methods as they could
before. The core calls those that somebody did, and counts and evicts by itself otherwise.
"""

from llfuse import _core

from .override_watch import Watched, WatchedType


class InodeCache(Watched, _core.InodeCache, metaclass=WatchedType):
    """Counts the memory that inode entries take, and orders them by last use.

    `cap` is the limit in bytes. It is a soft one: `min_entries` entries are kept whatever they weigh,
    and one that is in use or that the kernel refers to is kept too.
    """

    def __init__(self, cap: int, min_entries: int = 4) -> None:
        super().__init__(cap, min_entries)
        self._watch()

    @staticmethod
    def _watched(name: str) -> bool:
        return callable(getattr(_core.InodeCache, name, None))

    def _look_for_overrides(self) -> None:
        _core.InodeCache._look_for_overrides(self)
