# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Native unless overridden: at the operations object, at the node, at the SDK.

Whatever a Python program overrides or replaces is called; whatever it leaves alone costs no Python.
"""

import ctypes
import errno
import http.client
import logging
import os
import socket
import ssl
import stat
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import arvados
import arvados.collection
import arvados.keep
import arvados_fuse
import httplib2
import llfuse
import pycurl
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection
from inprocess import add, directory, mounted
from llfuse import _core


def string_file(text: str, parent: int = llfuse.ROOT_INODE) -> Any:
    return arvados_fuse.StringFile(parent, text, 0)


def counted(operations: Any, name: str) -> int:
    return operations.metric_count_func(name)()


# The operations object


class Shouting(arvados_fuse.Operations):
    """Overrides one handler, and calls the shipped one."""

    def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
        return super().lookup(parent_inode, name.lower(), ctx)


def test_an_overridden_handler_is_called(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory, kind=Shouting) as operations:
        add(operations, operations.inodes[1], "file", string_file("text"))
        assert operations._overridden == ["lookup"]
        assert (tmp_path / "mnt" / "FILE").read_text() == "text"


class OwnAttributes(arvados_fuse.Operations):
    """Overrides getattr, which lookups and listings then have to follow."""

    def getattr(self, inode: int, ctx: Any = None) -> Any:
        entry = super().getattr(inode, ctx)
        entry.st_uid = 4321
        return entry


def test_lookup_and_listing_follow_an_overridden_getattr(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory, kind=OwnAttributes) as operations:
        add(operations, operations.inodes[1], "file", string_file("text"))
        assert os.stat(tmp_path / "mnt" / "file").st_uid == 4321
        for entry in os.scandir(tmp_path / "mnt"):
            assert entry.stat().st_uid == 4321


def test_a_handler_patched_on_the_class_is_called_while_it_is_patched(tmp_path: Path) -> None:
    original = arvados_fuse.Operations.open
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "file", string_file("text"))
        with mock.patch.object(arvados_fuse.Operations, "open", autospec=True) as patched:
            patched.side_effect = lambda self, *args, **kwargs: original(self, *args, **kwargs)
            assert (tmp_path / "mnt" / "file").read_text() == "text"
            assert patched.call_count == 1
            assert patched.call_args[0][0] is operations
        assert (tmp_path / "mnt" / "file").read_text() == "text"
        assert patched.call_count == 1
        assert operations._overridden == []


def test_a_handler_replaced_on_the_object_is_called(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "file", string_file("text"))
        operations.read = lambda fh, off, size: b"repl"[off : off + size]
        assert (tmp_path / "mnt" / "file").read_text() == "repl"
        del operations.read
        llfuse.invalidate_inode(operations.inodes[1]["file"].inode)
        poll("the shipped handler", lambda: (tmp_path / "mnt" / "file").read_text() == "text")


def test_a_class_given_to_operations_later_is_heeded(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "file", string_file("text"))
        operations.__class__ = Shouting
        assert (tmp_path / "mnt" / "FILE").read_text() == "text"
        original = Shouting.open
        with mock.patch.object(Shouting, "open", autospec=True) as patched:
            patched.side_effect = lambda self, *args, **kwargs: original(self, *args, **kwargs)
            assert (tmp_path / "mnt" / "FILE").read_text() == "text"
            assert patched.call_count == 1
        operations.__class__ = arvados_fuse.Operations
        assert operations._overridden == []
        assert (tmp_path / "mnt" / "file").read_text() == "text"


def test_a_shipped_handler_by_another_name_is_no_shipped_one(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        with mock.patch.object(arvados_fuse.Operations, "unlink", arvados_fuse.Operations.rmdir):
            assert operations._overridden == ["unlink"]
        assert operations._overridden == []


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (llfuse.FUSEError(errno.EDQUOT), errno.EDQUOT),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (NotImplementedError(), errno.ENOTSUP),
        (arvados.errors.KeepWriteError("no luck"), errno.EIO),
        (arvados.errors.NotFoundError("no block"), errno.EIO),
        (ValueError("a defect"), errno.EIO),
    ],
)
def test_an_exception_in_a_node_becomes_an_errno(
    tmp_path: Path, raised: BaseException, expected: int
) -> None:
    class Failing(arvados_fuse.File):
        def size(self) -> int:
            return 5

        def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
            raise raised

    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "bad", Failing(1))
        add(operations, operations.inodes[1], "good", string_file("fine"))
        with pytest.raises(OSError) as error:
            (tmp_path / "mnt" / "bad").read_bytes()
        assert error.value.errno == expected
        assert (tmp_path / "mnt" / "good").read_text() == "fine"


class Records(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize(
    ("raised", "phrase"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), None),
        (BrokenPipeError(errno.EPIPE, "broken"), None),
        (TimeoutError("timed out"), None),
        (OSError(errno.EHOSTUNREACH, "no route"), None),
        (ssl.SSLError(1, "[SSL] certificate verify failed"), None),
        (ssl.SSLCertVerificationError(1, "hostname mismatch"), None),
        (socket.gaierror(-2, "name or service not known"), None),
        (http.client.IncompleteRead(b"half"), None),
        (http.client.RemoteDisconnected("closed"), None),
        (httplib2.error.ServerNotFoundError("no such server"), None),
        (pycurl.error(7, "could not connect"), None),
        (arvados.errors.KeepReadError("no luck"), None),
        (arvados.errors.NoKeepServersError("none"), None),
        (arvados.errors.KeepWriteError("disk full"), "Keep write error"),
        (arvados.errors.NotFoundError("not there"), "Block not found error"),
        (arvados.errors.ApiError(httplib2.Response({"status": 503}), b"{}"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_comes_from_the_network_is_eio_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, phrase: str | None
) -> None:
    class Failing(arvados_fuse.File):
        def size(self) -> int:
            return 5

        def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
            raise raised

    monkeypatch.setitem(arvados.config.settings(), "ARVADOS_API_HOST", f"{tmp_path.name}.example")
    records = Records()
    logger = logging.getLogger("arvados.arvados_fuse")
    logger.addHandler(records)
    try:
        with mounted(tmp_path / "mnt", directory) as operations:
            add(operations, operations.inodes[1], "bad", Failing(1))
            for _ in range(5):
                with pytest.raises(OSError) as error:
                    (tmp_path / "mnt" / "bad").read_bytes()
                assert error.value.errno == errno.EIO
    finally:
        logger.removeHandler(records)
    (record,) = records.records
    assert record.levelno == logging.ERROR and not record.exc_info
    phrase = phrase or "Unhandled exception during FUSE operation"
    message = record.getMessage()
    assert message.startswith(f"{phrase}: ") and "\n" not in message
    if not isinstance(raised, arvados.errors.KeepRequestError):
        assert f"{tmp_path.name}.example" in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EROFS])
def test_errnos_of_files_stay(tmp_path: Path, number: int) -> None:
    assert _core.errno_of_exception(OSError(number, "of a file")) == number


# The node


class Listing(arvados_fuse.Directory):
    """A directory of somebody's own, which has whatever is asked for."""

    asked: list[str]

    def __init__(self, parent_inode: int, inodes: Any) -> None:
        super().__init__(parent_inode, inodes, False, None)
        self.asked = []

    def __contains__(self, name: object) -> bool:
        return str(name).startswith("any")

    def __getitem__(self, name: str) -> Any:
        self.asked.append(name)
        if name not in self._entries:
            self._entries[name] = self.inodes.add_entry(string_file(name * 2, self.inode))
        return self._entries[name]

    def mtime(self) -> float:
        return 1_000_000


def test_methods_of_a_directory_subclass_are_called(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        made = add(operations, operations.inodes[1], "d", Listing(1, operations.inodes))
        assert (tmp_path / "mnt" / "d" / "anything").read_text() == "anythinganything"
        assert "anything" in made.asked
        assert os.stat(tmp_path / "mnt" / "d").st_mtime == 1_000_000
        with pytest.raises(FileNotFoundError):
            os.stat(tmp_path / "mnt" / "d" / "other")
        assert os.listdir(tmp_path / "mnt" / "d") == ["anything"]


class Counting(arvados_fuse.File):
    """A file of somebody's own: each read tells a higher number."""

    def __init__(self, parent_inode: int) -> None:
        super().__init__(parent_inode)
        self.allow_attr_cache = False
        self.count = 0

    def size(self) -> int:
        return 3

    def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
        self.count += 1
        return b"%03d" % self.count


def test_methods_of_a_file_subclass_are_called(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        file = add(operations, operations.inodes[1], "n", Counting(1))
        assert (tmp_path / "mnt" / "n").read_text() == "001"
        assert file.count == 1


def test_a_method_replaced_later_is_called_from_then_on(tmp_path: Path) -> None:
    class Plain(arvados_fuse.Directory):
        pass

    with mounted(tmp_path / "mnt", directory) as operations:
        plain = Plain(1, operations.inodes, False, None)
        plain._poll_time = 0
        operations.inodes[1]._poll_time = 0
        add(operations, operations.inodes[1], "d", plain)
        path = tmp_path / "mnt" / "d"
        before = os.stat(path).st_mtime
        plain.mtime = lambda: 5  # on the object
        assert os.stat(path).st_mtime == 5
        del plain.mtime
        assert os.stat(path).st_mtime == before
        Plain.mtime = lambda self: 6  # on the class
        assert os.stat(path).st_mtime == 6
        del Plain.mtime
        assert os.stat(path).st_mtime == before
        with mock.patch("arvados_fuse.fusedir.Directory.mtime", return_value=7, create=True):
            assert os.stat(path).st_mtime == 7
        assert os.stat(path).st_mtime == before


def test_a_property_patched_on_the_base_class_is_seen(tmp_path: Path) -> None:
    with mock.patch(
        "arvados_fuse.fresh.FreshBase._poll_time", new_callable=mock.PropertyMock, return_value=77
    ):
        entry = arvados_fuse.StringFile(1, "x", 0)
        assert entry.time_to_next_poll() == 77
    assert arvados_fuse.StringFile(1, "x", 0).time_to_next_poll() == 0


def test_any_object_can_be_an_entry(tmp_path: Path) -> None:
    mocked = mock.MagicMock()
    mocked.size.return_value = 4
    mocked.atime.return_value = mocked.mtime.return_value = 3
    mocked.time_to_next_poll.return_value = 0
    mocked.stale.return_value = False
    mocked.readfrom.return_value = b"mock"
    mocked.parent_inode = 1
    mocked.persisted.return_value = False
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "m", mocked)
        assert (tmp_path / "mnt" / "m").read_text() == "mock"
        assert mocked.inc_ref.called and mocked.inc_use.called


def test_a_replaced_clock_is_seen(tmp_path: Path) -> None:
    class Refreshed(arvados_fuse.Directory):
        updates = 0

        def update(self) -> None:
            self.updates += 1
            self.fresh()

    with mounted(tmp_path / "mnt", directory) as operations:
        made = Refreshed(1, operations.inodes, False, None)
        made._poll, made._poll_time = True, 3600
        add(operations, operations.inodes[1], "d", made)
        os.listdir(tmp_path / "mnt" / "d")
        os.listdir(tmp_path / "mnt" / "d")
        assert made.updates == 1
        later = time.time() + 4000
        with mock.patch.object(time, "time", return_value=later):
            operations.getattr(made.inode)  # any call from Python looks at the clock
            os.listdir(tmp_path / "mnt" / "d")
        assert made.updates == 2


def test_what_nobody_overrides_is_native() -> None:
    native = set(_core.answered_natively(arvados_fuse.CollectionDirectoryBase))
    assert {"stale", "mtime", "atime", "inc_ref", "dec_ref", "__getitem__", "items"} <= native
    assert "writable" not in native
    native = set(_core.answered_natively(arvados_fuse.ProjectDirectory))
    assert {"__contains__", "__getitem__", "stale"} <= native
    assert "update" not in native and "items" not in native
    assert "__getitem__" not in _core.answered_natively(Listing)


def test_native_requests_need_no_gil_and_are_counted(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        root = operations.inodes[1]
        root._poll_time = 0
        inner = add(operations, root, "inner", directory(operations))
        inner._poll_time = 0
        path = str(tmp_path / "mnt" / "inner").encode()
        before = counted(operations, "lookup")
        # PyDLL keeps the GIL during the call: it would never return if the mount needed it.
        holding_the_gil = ctypes.PyDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)
        for _ in range(100):
            assert holding_the_gil.access(path, os.R_OK) == 0
            assert holding_the_gil.stat(path, buffer) == 0
        assert holding_the_gil.access(path + b"/none", os.R_OK) == -1
        assert ctypes.get_errno() == errno.ENOENT
        assert counted(operations, "lookup") > before
        with mock.patch.object(_core.Operations, "_lookup") as called:
            assert holding_the_gil.access(path, os.R_OK) == 0
        assert not called.called


def test_in_process_listing_does_not_deadlock(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        for number in range(50):
            add(operations, operations.inodes[1], f"d{number}", directory(operations))
        for _ in range(20):
            assert len(os.listdir(tmp_path / "mnt")) == 50
            assert len([e for e in os.scandir(tmp_path / "mnt") if e.is_dir()]) == 50
            assert stat.S_ISDIR(os.stat(tmp_path / "mnt" / "d7").st_mode)


# The SDK


def test_a_replaced_keep_client_is_called(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    locator = save_collection(fresh_cluster, "c", "what is stored")

    def root(operations: Any) -> Any:
        return arvados_fuse.CollectionDirectory(1, operations.inodes, api, 0, False, None, locator)

    with (
        mock.patch("arvados.keep.KeepClient.get", return_value=b"what is fake!!") as get,
        mounted(tmp_path / "mnt", root, api=api),
    ):
        assert (tmp_path / "mnt" / "f").read_text() == "what is fake!!"
        assert get.called


def test_a_collection_is_shared_with_the_sdk(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    made: list[Any] = []

    def root(operations: Any) -> Any:
        made.append(arvados_fuse.TmpCollectionDirectory(1, operations.inodes, api, 0, True))
        return made[0]

    with mounted(tmp_path / "mnt", root, api=api, enable_write=True):
        collection = made[0].collection
        with collection.open("by-sdk", "w") as file:
            file.write("from the SDK")
        assert (tmp_path / "mnt" / "by-sdk").read_text() == "from the SDK"
        (tmp_path / "mnt" / "by-mount").write_text("from the mount")
        assert collection.open("by-mount").read() == "from the mount"
        collection.remove("by-sdk")
        assert os.listdir(tmp_path / "mnt") == ["by-mount"]


def test_events_come_through_the_subscription(tmp_path: Path, fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api()
    with mounted(tmp_path / "mnt", directory, api=api) as operations:
        with mock.patch("arvados.events.subscribe") as subscribe:
            operations.listen_for_events()
        assert subscribe.call_args[0][2] == operations.on_event
        entry = mock.MagicMock()
        entry.uuid.return_value = "zzzzz-4zz18-000000000000000"
        entry.parent_inode, entry.cache_uuid = 1, None
        operations.inodes.add_entry(entry)
        operations.on_event({"event_type": "update", "object_uuid": entry.uuid.return_value})
        assert entry.invalidate.called


def test_a_thread_that_serves_keeps_its_local_values(tmp_path: Path) -> None:
    local, met = threading.local(), []

    class Counting(arvados_fuse.Directory):
        def mtime(self) -> float:
            if not hasattr(local, "met"):
                local.met = True
                met.append(threading.get_ident())
            return 0.0

    def root(operations: Any) -> Any:
        return Counting(llfuse.ROOT_INODE, operations.inodes, False, None)

    with mounted(tmp_path / "mnt", root):
        for _ in range(100):
            (tmp_path / "mnt" / "nothing").exists()
            os.statvfs(tmp_path / "mnt")
            os.listdir(tmp_path / "mnt")
        assert 0 < len(met) == len(set(met))
