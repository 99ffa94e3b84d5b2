# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Classes over the core's that notice when a method of theirs is replaced.

The core calls what is overridden and does the rest itself; which is which is worked out when an object
is made and again when an attribute of its class, or of the object, is assigned or deleted.
"""

import weakref
from typing import Any

from llfuse import _core


class WatchedType(type):
    """Metaclass of whatever the core asks for its overrides: tells the core when an attribute of a class
    changes.
    """

    #: Objects that were told to watch, for as long as they live.
    live: "weakref.WeakSet[Any]" = weakref.WeakSet()

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _core.class_changed(cls)

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        _core.class_changed(cls)


class Watched:
    """Mixin: an object that was told to `_watch` looks again when an attribute of its own changes that
    `_watched` names.
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
