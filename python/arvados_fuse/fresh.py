# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`FreshBase`: the life of an inode entry, from fresh to stale and from used to evicted.

The state and the methods are the core's (`llfuse._core.Node`). A subclass may override any of them;
what it leaves alone is answered by the core, without Python where the kernel asks.
"""

import functools
from collections.abc import Callable
from datetime import timezone
from typing import Any, TypeVar

import ciso8601
from llfuse import _core

from .override_watch import WatchedType

_Method = TypeVar("_Method", bound=Callable[..., Any])


def convertTime(t: str | None) -> int:
    """Return the Unix time (whole seconds) of an Arvados timestamp, or 0 where there is none."""
    if not t:
        return 0
    try:
        naive = ciso8601.parse_datetime_as_naive(t)
        return int(naive.replace(microsecond=0, tzinfo=timezone.utc).timestamp())
    except (TypeError, ValueError):
        return 0


def use_counter(orig_func: _Method) -> _Method:
    """Decorate a method: its object counts as in use while the method runs."""

    @functools.wraps(orig_func)
    def use_counter_wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.inc_use()
        try:
            return orig_func(self, *args, **kwargs)
        finally:
            self.dec_use()

    return use_counter_wrapper  # type: ignore[return-value]


def check_update(orig_func: _Method) -> _Method:
    """Decorate a method: its object is refreshed first, where it is stale."""

    @functools.wraps(orig_func)
    def check_update_wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.checkupdate()
        return orig_func(self, *args, **kwargs)

    return check_update_wrapper  # type: ignore[return-value]


class FreshBase(_core.Node, metaclass=WatchedType):
    """Base of every inode entry: when it is stale, who uses it, what it weighs.

    Attributes: `inode` and `parent_inode` (numbers or None), `use_count` (uses from inside),
    `ref_count` (references of the kernel), `cache_size` (bytes that the inode cache counts),
    `cache_uuid` (the uuid it is listed under), `allow_attr_cache` (whether the kernel may cache its
    attributes), and the clockwork of staleness: `_stale`, `_poll`, `_poll_time` (seconds),
    `_last_update` and `_atime` (seconds since the epoch).
    """
