# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`Operations`: one mounted file system.

Its handlers are thin Python functions over the core, so that programs can override, wrap and patch
them as they could before. The kernel's requests only come this way where somebody did; otherwise
the core answers them itself.
"""

import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import llfuse
from llfuse import _core

from . import event_clients, sdk_hooks
from .event_clients import change_in
from .handler_timing import Timed
from .handles import FileHandles, Handle
from .inode_cache import InodeCache
from .override_watch import Watched, WatchedType
from .reports import report

_EVENT_TYPES = ("create", "update", "delete")

_logger = logging.getLogger("arvados.arvados_fuse")


def catch_exceptions(orig_func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a handler: what it raises becomes a `llfuse.FUSEError`.

    `FUSEError` and `OSError` keep their errno, `NotImplementedError` is ENOTSUP, and anything else is
    logged and EIO.
    """

    @functools.wraps(orig_func)
    def catch_exceptions_wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return orig_func(self, *args, **kwargs)
        except llfuse.FUSEError:
            raise
        except Exception as error:
            raise llfuse.FUSEError(_core.errno_of_exception(error)) from error

    return catch_exceptions_wrapper


def _is_collection(entry: Any) -> bool:
    """Return whether an entry is a collection's directory of ours. Where the directories are the release's,
    ours are not loaded."""
    ours = sys.modules.get(f"{__package__}.collection_dir")
    return ours is not None and isinstance(entry, ours.CollectionDirectory)


class Operations(Watched, _core.Operations, llfuse.Operations, metaclass=WatchedType):
    """A mounted file system: answers the requests of the kernel.

    Handlers run under `llfuse.lock`; slow work inside them runs `with llfuse.lock_released`. Any of
    them may be overridden in a subclass or replaced on the class or the object.

    `uid` and `gid` own every file shown. Nothing can be changed unless `enable_write`. `fsns` stands for
    a slash in names; without it, the cluster's configuration says.
    """

    fuse_time = Timed()
    read_time = Timed("read")
    write_time = Timed("write")
    destroy_time = Timed("destroy")
    on_event_time = Timed("on_event")
    getattr_time = Timed("getattr")
    setattr_time = Timed("setattr")
    lookup_time = Timed("lookup")
    forget_time = Timed("forget")
    open_time = Timed("open")
    release_time = Timed("release")
    opendir_time = Timed("opendir")
    readdir_time = Timed("readdir")
    statfs_time = Timed("statfs")
    create_time = Timed("create")
    mkdir_time = Timed("mkdir")
    unlink_time = Timed("unlink")
    rmdir_time = Timed("rmdir")
    rename_time = Timed("rename")
    flush_time = Timed("flush")

    def __init__(
        self,
        uid: int,
        gid: int,
        api_client: Any,
        encoding: str = "utf-8",
        inode_cache: Any = None,
        num_retries: int = 4,
        enable_write: bool = False,
        fsns: str | None = None,
    ) -> None:
        self._api_client = api_client
        if fsns is None:
            fsns = self._configured_fsns(api_client)
        self._shutdown_started = threading.Event()
        inodes = _core.Inodes(
            inode_cache or InodeCache(_core.DEFAULT_CAP),
            encoding=encoding,
            fsns=fsns,
            shutdown_started=self._shutdown_started,
        )
        self._set_up(inodes, uid, gid, num_retries, enable_write)
        # Set when the mount answers; whoever needs it waits for this.
        self.initlock = threading.Event()
        self.events: Any = None
        # What could not be saved when the mount ended: (name or uuid, error).
        self.unsaved: list[tuple[str, BaseException]] = []
        # Made before anybody looks at the counters of the SDK's client, which it feeds.
        sdk_hooks.reader_for(getattr(api_client, "keep", None))
        if "prometheus_client" in sys.modules:
            # Whoever exports metrics has them complete without asking for one.
            _ = self.fuse_time
        self._watch()

    @staticmethod
    def _configured_fsns(api_client: Any) -> str | None:
        if api_client is None:
            return "_"
        try:
            fsns = api_client.config()["Collections"]["ForwardSlashNameSubstitution"]
        except (KeyError, TypeError):
            # A cluster older than that setting, or a client that is a mock.
            return "_"
        if not isinstance(fsns, str):
            return "_"
        return None if fsns in ("", "/") else fsns

    @staticmethod
    def _watched(name: str) -> bool:
        return hasattr(llfuse.Operations, name)

    def _look_for_overrides(self) -> None:
        _core.Operations._look_for_overrides(self)

    @property
    def _filehandles(self) -> FileHandles:
        return FileHandles(self)

    @_filehandles.setter
    def _filehandles(self, handles: Mapping[int, Handle]) -> None:
        wanted = dict(handles)
        table = FileHandles(self)
        table.clear()
        table.update(wanted)

    @property
    def _filehandles_counter(self) -> Iterator[int]:
        # Never None: the iterator does not end.
        return iter(self._next_handle, None)

    def init(self) -> None:
        self.initlock.set()

    def metric_samples(self) -> Any:
        """Return the samples of the operations' Summary."""
        return self.fuse_time.collect()[0].samples

    def metric_op_names(self) -> list[str]:
        """Return the names of the operations that are counted."""
        return list(dict.fromkeys(sample.labels["op"] for sample in self.metric_samples()))

    def metric_value(self, opname: str, metric: str) -> float | None:
        """Return the value of `metric` for an operation, or None where there is none."""
        values = [
            sample.value
            for sample in self.metric_samples()
            if sample.name == metric and sample.labels["op"] == opname
        ]
        return values[0] if len(values) == 1 else None

    def metric_sum_func(self, opname: str) -> Callable[[], Any]:
        """Return a function that tells how many seconds an operation took in all."""
        return lambda: self.metric_value(opname, "arvmount_fuse_operations_seconds_sum")

    def metric_count_func(self, opname: str) -> Callable[[], int]:
        """Return a function that tells how often an operation was carried out."""
        return lambda: int(self.metric_value(opname, "arvmount_fuse_operations_seconds_count") or 0)

    def begin_shutdown(self) -> None:
        """The mount is ending: finish removals, and ignore what the kernel still forgets."""
        self._shutdown_started.set()
        self._shutting_down()
        self.inodes.begin_shutdown()

    @destroy_time.time()
    @catch_exceptions
    def destroy(self) -> None:
        with llfuse.lock_released:
            self.begin_shutdown()
        if self.events:
            self.events.close()
            self.events = None
        for entry, error in self.inodes._clear():
            name = str(entry.uuid() or entry.inode)
            _logger.error("could not save %s before the mount ended: %s", name, error)
            self.unsaved.append((name, error))

    def access(self, inode: int, mode: int, ctx: Any = None) -> bool:
        self._access(mode)
        return True

    def listen_for_events(self) -> None:
        """Subscribe to the event bus: what changes there is looked at again here."""
        # Whoever handles events otherwise is told of all.
        is_ours = type(self).on_event is Operations.on_event and "on_event" not in vars(self)
        self.events = event_clients.subscribe(
            self._api_client,
            [["event_type", "in", list(_EVENT_TYPES)]],
            self.on_event,
            self.inodes if is_ours and type(self.inodes) is _core.Inodes else None,
        )

    @on_event_time.time()
    @catch_exceptions
    def on_event(self, ev: dict) -> None:
        """Mark what an event is about as stale, and the projects it left and came to.

        Raises nothing: it would end the client that listens. What is no event is logged and skipped.
        """
        try:
            self._follow_event(ev)
        except Exception as error:
            report(f"an event was skipped: {type(error).__name__}: {error}: {ev!r:.200}", "warn")

    def _follow_event(self, ev: dict) -> None:
        if ev.get("after_gap"):
            self._follow_gap()
        if ev.get("event_type") not in _EVENT_TYPES:
            return
        properties = ev.get("properties") or {}
        old_owner = (properties.get("old_attributes") or {}).get("owner_uuid")
        change = change_in(properties)
        with llfuse.lock:
            for uuid in (ev["object_uuid"], old_owner, ev.get("object_owner_uuid")):
                for entry in self.inodes.find_by_uuid(uuid):
                    if ev["event_type"] == "update" and _is_collection(entry):
                        # What was saved from here is told, too.
                        if entry.is_known(change):
                            continue
                        entry.changed_elsewhere(change)
                    self._look_again(entry)

    def _follow_gap(self) -> None:
        """Events may have been missed: look again at everything that they would have told of."""
        with llfuse.lock:
            for entry in self.inodes._with_uuid():
                self._look_again(entry)

    def _look_again(self, entry: Any) -> None:
        entry.invalidate()
        self.inodes.invalidate_inode(entry)
        if hasattr(entry, "_ask_again"):
            entry._ask_again()

    def _attributes(self, found: Any) -> Any:
        # A subclass that answers getattr differently means it for lookups too.
        if self._is_overridden("getattr"):
            return self.getattr(found.st_ino)
        return found

    @getattr_time.time()
    @catch_exceptions
    def getattr(self, inode: int, ctx: Any = None) -> Any:
        return self._getattr(inode)

    @setattr_time.time()
    @catch_exceptions
    def setattr(
        self, inode: int, attr: Any, fields: Any = None, fh: int | None = None, ctx: Any = None
    ) -> Any:
        return self._attributes(self._setattr(inode, attr, fields, fh))

    @lookup_time.time()
    @catch_exceptions
    def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
        return self._attributes(self._lookup(parent_inode, name))

    @forget_time.time()
    @catch_exceptions
    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        self._forget(inodes)

    @open_time.time()
    @catch_exceptions
    def open(self, inode: int, flags: int, ctx: Any = None) -> int:
        return self._open(inode, flags)

    @read_time.time()
    @catch_exceptions
    def read(self, fh: int, off: int, size: int) -> bytes:
        return self._read(fh, off, size)

    @write_time.time()
    @catch_exceptions
    def write(self, fh: int, off: int, buf: bytes) -> int:
        return self._write(fh, off, buf)

    @release_time.time()
    @catch_exceptions
    def release(self, fh: int) -> None:
        self._release(fh)

    def releasedir(self, fh: int) -> None:
        self.release(fh)

    @opendir_time.time()
    @catch_exceptions
    def opendir(self, inode: int, ctx: Any = None) -> int:
        return self._opendir(inode)

    @readdir_time.time()
    @catch_exceptions
    def readdir(self, fh: int, off: int) -> Iterator[tuple[bytes, Any, int]]:
        for name, found, after in self._readdir(fh, off):
            yield (name, self._attributes(found), after)

    @statfs_time.time()
    @catch_exceptions
    def statfs(self, ctx: Any = None) -> Any:
        data = llfuse.StatvfsData()
        (
            data.f_bsize,
            data.f_frsize,
            data.f_blocks,
            data.f_bfree,
            data.f_bavail,
            data.f_files,
            data.f_ffree,
            data.f_namemax,
        ) = self._statfs()
        data.f_favail = data.f_ffree
        return data

    @create_time.time()
    @catch_exceptions
    def create(
        self, inode_parent: int, name: bytes, mode: int, flags: int, ctx: Any = None
    ) -> tuple[int, Any]:
        fh, found = self._create(inode_parent, name)
        return (fh, self._attributes(found))

    @mkdir_time.time()
    @catch_exceptions
    def mkdir(self, inode_parent: int, name: bytes, mode: int, ctx: Any = None) -> Any:
        return self._attributes(self._mkdir(inode_parent, name))

    @unlink_time.time()
    @catch_exceptions
    def unlink(self, inode_parent: int, name: bytes, ctx: Any = None) -> None:
        self._unlink(inode_parent, name)

    @rmdir_time.time()
    @catch_exceptions
    def rmdir(self, inode_parent: int, name: bytes, ctx: Any = None) -> None:
        self._rmdir(inode_parent, name)

    @rename_time.time()
    @catch_exceptions
    def rename(
        self,
        inode_parent_old: int,
        name_old: bytes,
        inode_parent_new: int,
        name_new: bytes,
        ctx: Any = None,
    ) -> None:
        self._rename(inode_parent_old, name_old, inode_parent_new, name_new)

    @flush_time.time()
    @catch_exceptions
    def flush(self, fh: int) -> None:
        self._flush(fh)

    @catch_exceptions
    def fsync(self, fh: int, datasync: bool) -> None:
        self._fsync(fh)

    @catch_exceptions
    def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._fsync(fh)

    @catch_exceptions
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any = None) -> Any:
        return self._attributes(self._mknod(parent_inode, name, mode))

    @catch_exceptions
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any = None) -> Any:
        self._unsupported()

    @catch_exceptions
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any = None) -> Any:
        return self._attributes(self._link(inode, new_parent_inode, new_name))


Operations._declare_shipped()
