# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Classes over the core's that notice when a method of theirs is replaced.

The core calls what is overridden and does the rest itself; which is which is worked out when an object
is made and again when an attribute of its class, or of the object, is assigned or deleted.
"""

import weakref
from typing import Any


class WatchedType(type):
    """Metaclass: objects look again when an attribute of their class changes."""

    live: "weakref.WeakSet[Any]" = weakref.WeakSet()

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        cls._changed()

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        cls._changed()

    def _changed(cls) -> None:
        for watched in list(WatchedType.live):
            if isinstance(watched, cls):
                watched._look_for_overrides()


class Watched:
    """Mixin: an object that was told to `_watch` looks again when a class of its changes, or an attribute
    of its own that `_watched` names.
    """

    def _watch(self) -> None:
        self._look_for_overrides()
        WatchedType.live.add(self)

    @staticmethod
    def _watched(name: str) -> bool:
        raise NotImplementedError

    def _look_for_overrides(self) -> None:
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if self._watched(name):
            self._look_for_overrides()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if self._watched(name):
            self._look_for_overrides()
