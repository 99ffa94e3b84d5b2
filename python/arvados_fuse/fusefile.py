# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The kinds of file: of a collection, of a string, of a record, of a function's result."""

import json
import time
from collections.abc import Callable
from typing import Any

import llfuse
from llfuse import _core

from .fresh import FreshBase, check_update, convertTime
from .upload_retry import save


class File(_core.FileNode, FreshBase):
    """Base of every file: empty and not writable until a subclass says otherwise."""


class FuseArvadosFile(File):
    """A file of a collection, read and written through the SDK's `ArvadosFile`."""

    __slots__ = ("arvfile", "_enable_write")

    def __init__(
        self,
        parent_inode: int,
        arvfile: Any,
        _mtime: float,
        enable_write: bool,
        poll: bool,
        poll_time: float,
    ) -> None:
        super().__init__(parent_inode, _mtime, poll=poll, poll_time=poll_time)
        self.arvfile = arvfile
        self._enable_write = enable_write

    def size(self) -> int:
        with llfuse.lock_released:
            return self.arvfile.size()

    def readfrom(self, off: int, size: int, num_retries: int = 0) -> Any:
        with llfuse.lock_released:
            return self.arvfile.readfrom(off, size, num_retries, exact=True, return_memoryview=True)

    def writeto(self, off: int, buf: bytes, num_retries: int = 0) -> int:
        with llfuse.lock_released:
            return self.arvfile.writeto(off, buf, num_retries)

    def writable(self) -> bool:
        return self._enable_write and self.arvfile.writable()

    def flush(self) -> None:
        with llfuse.lock_released:
            if self.writable():
                save(self.arvfile.parent.root_collection())

    def clear(self) -> None:
        # Only one that was deleted lets go of its file; another would lose it.
        if self.parent_inode is None and self.arvfile is not None:
            self.arvfile.fuse_entry = None
            self.arvfile = None


class StringFile(File):
    """A file whose contents are a string, shown as UTF-8."""

    __slots__ = ("contents",)

    def __init__(self, parent_inode: int, contents: str, _mtime: float) -> None:
        super().__init__(parent_inode, _mtime)
        self.contents = contents

    def size(self) -> int:
        return len(self.contents.encode())

    def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
        return self.contents.encode()[off : off + size]


def _as_json(obj: Any) -> str:
    return json.dumps(obj, indent=4, sort_keys=True) + "\n"


class ObjectFile(StringFile):
    """A file that shows an API record as JSON."""

    __slots__ = ("object_uuid",)

    def __init__(self, parent_inode: int, obj: dict) -> None:
        super().__init__(parent_inode, "", 0)
        self.object_uuid = obj["uuid"]
        self.update(obj)

    def uuid(self) -> str:
        return self.object_uuid

    def update(self, obj: dict | None = None) -> None:
        """Show `obj`. Without one nothing changes: whoever has a newer record passes it."""
        if obj is None:
            return
        self._mtime = convertTime(obj.get("modified_at"))
        self.contents = _as_json(obj)

    def persisted(self) -> bool:
        return True


class FuncToJSONFile(StringFile):
    """A file that shows what a function returns, as JSON; called again after `invalidate()`."""

    __slots__ = ("func",)

    def __init__(self, parent_inode: int, func: Callable[[], Any]) -> None:
        super().__init__(parent_inode, "", 0)
        self.func = func
        # An invalidation reaches the kernel some time later; until then a cached size would cut
        # the new contents short.
        self.allow_attr_cache = False

    @check_update
    def size(self) -> int:
        return super().size()

    @check_update
    def readfrom(self, *args: Any, **kwargs: Any) -> bytes:
        return super().readfrom(*args, **kwargs)

    def update(self) -> None:
        self._mtime = time.time()
        self.contents = _as_json(self.func())
        self.fresh()
