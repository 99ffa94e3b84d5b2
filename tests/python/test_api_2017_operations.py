# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API of 2017: every public call of `Operations`, and its handles, as its callers made it.

Where 3.2.1 gives a call another meaning, that of 3.2.1 is tested here, and docs/compat.md says so.
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any
from unittest import mock

import arvados
import arvados_fuse
import llfuse
import pytest
from entries_2017 import Entry, Failing, Folder, ReadableEntry, Writable
from inprocess import add

UUID = "zzzzz-4zz18-00000000000000"


def made(api_client: Any = None, **options: Any) -> Any:
    operations = arvados_fuse.Operations(
        1234, 5678, api_client, "utf-8", arvados_fuse.InodeCache(1 << 30), 3, **options
    )
    operations.inodes.add_entry(Folder(llfuse.ROOT_INODE, operations.inodes, True, None))
    return operations


@pytest.fixture
def operations() -> Any:
    return made(enable_write=True)


def refused(expected: int, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(llfuse.FUSEError) as raised:
        answer = call(*args, **kwargs)
        if isinstance(answer, Iterator):
            next(answer)
    assert raised.value.errno == expected


@pytest.mark.parametrize("api_client", [None, mock.MagicMock(), mock.Mock()])
def test_it_is_made_with_any_client(api_client: Any) -> None:
    operations = made(api_client)
    assert (operations.uid, operations.gid, operations.num_retries) == (1234, 5678, 3)
    assert operations.enable_write is False and operations._api_client is api_client
    assert operations.inodes.encoding == "utf-8" and operations.events is None
    root = operations.inodes[1]
    assert root.sanitize_filename("a/b") == "a_b"
    assert not operations.initlock.is_set()
    operations.init()
    assert operations.initlock.wait(0)
    plain = arvados_fuse.Operations(0, 0, api_client)
    assert plain.inodes.inode_cache.cap == 256 << 20 and plain.num_retries == 4


def test_getattr_and_setattr(operations: Any) -> None:
    root = operations.inodes[1]
    file = add(operations, root, "f", Writable(1))
    file.data[:] = b"x" * 1025
    file._mtime = 1_500_000_000.5
    found = operations.getattr(file.inode)
    assert (found.st_ino, found.generation, found.st_nlink, found.st_size) == (2, 0, 1, 1025)
    assert (found.st_uid, found.st_gid, found.st_blksize, found.st_blocks) == (1234, 5678, 512, 3)
    assert found.st_mode == stat.S_IFREG | 0o666
    assert found.st_mtime_ns == found.st_ctime_ns == 1_500_000_000_500_000_000
    assert operations.getattr(1, None).st_mode == stat.S_IFDIR | 0o777
    refused(errno.ENOENT, operations.getattr, 99)
    refused(errno.ENOENT, operations.setattr, 99, llfuse.EntryAttributes())
    wanted, fields = llfuse.EntryAttributes(), llfuse.SetattrFields()
    wanted.st_size = 5
    # Neither without being asked to nor in what is no collection's file does a size change.
    assert operations.setattr(file.inode, wanted, fields).st_size == 1025
    assert operations.setattr(file.inode, wanted).st_size == 1025
    operations.enable_write = False
    assert operations.getattr(file.inode).st_mode == stat.S_IFREG | 0o444


def test_setattr_truncates_a_collections_file(operations: Any) -> None:
    manifest = ". 9a0364b9e99bb480dd25e1f0284c8555+7 0:7:f\n"
    collection = arvados.collection.Collection(manifest, api_client=mock.MagicMock())
    file = arvados_fuse.FuseArvadosFile(1, collection.find("f"), 0, True, False, 0)
    add(operations, operations.inodes[1], "f", file)
    wanted = llfuse.EntryAttributes()
    wanted.st_size = 3
    with llfuse.lock:
        assert operations.setattr(file.inode, wanted).st_size == 3
        assert operations.getattr(file.inode).st_size == 3
    assert collection.find("f").size() == 3


def test_lookup_and_forget(operations: Any) -> None:
    root = operations.inodes[1]
    inner = add(operations, root, "inner", Folder(1, operations.inodes, True, None))
    file = add(operations, inner, "f", Writable(inner.inode))
    assert operations.lookup(1, b"inner").st_ino == inner.inode
    assert operations.lookup(inner.inode, b"f", None).st_ino == file.inode
    assert operations.lookup(inner.inode, b".").st_ino == inner.inode
    assert operations.lookup(inner.inode, b"..").st_ino == 1
    assert (inner.ref_count, file.ref_count, root.ref_count) == (2, 1, 2)
    refused(errno.ENOENT, operations.lookup, 1, b"none")
    refused(errno.ENOENT, operations.lookup, 99, b"f")
    refused(errno.ENOENT, operations.lookup, file.inode, b"f")
    operations.forget([(inner.inode, 2), (file.inode, 1), (1, 1)])
    assert (inner.ref_count, file.ref_count, root.ref_count) == (0, 0, 1)
    assert inner.inode == 2 and file.inode == 3
    assert operations.inodes[3] is file, "forgotten, not deleted"


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_a_dead_entry_goes_with_its_last_reference(operations: Any, kind: str) -> None:
    inodes = operations.inodes
    entry = inodes.add_entry(Writable(1) if kind == "ours" else Entry(10))
    number = entry.inode
    for _ in range(3):
        entry.inc_ref()
    assert entry.dead is False
    with llfuse.lock:
        inodes.del_entry(entry)
    inodes.wait_remove_queue_empty()
    assert entry.dead is True and entry.inode == number and number in inodes
    operations.forget([(number, 2)])
    inodes.wait_remove_queue_empty()
    assert number in inodes
    operations.forget([(number, 1)])
    inodes.wait_remove_queue_empty()
    assert number not in inodes and entry.inode is None
    # One that the program itself declared dead.
    entry = inodes.add_entry(Writable(1) if kind == "ours" else Entry(10))
    number = entry.inode
    entry.inc_ref()
    entry.dead = True
    operations.forget([(number, 1)])
    inodes.wait_remove_queue_empty()
    assert number not in inodes


def test_an_entry_of_2017_is_served(operations: Any) -> None:
    root = operations.inodes[1]
    entry = add(operations, root, "f", ReadableEntry(10))
    found = operations.lookup(1, b"f")
    assert (found.st_size, found.st_mtime_ns) == (10, 1_000_000 * 10**9)
    assert stat.S_ISREG(found.st_mode) and entry.ref_count == 1
    # It does not say where it is, so there is nobody to say for how long its name holds.
    assert (found.entry_timeout, found.attr_timeout) == (0, 0)
    entry.parent_inode = 1
    entry.allow_attr_cache = True
    found = operations.getattr(entry.inode)
    assert (found.entry_timeout, found.attr_timeout) == (root.time_to_next_poll(), 60)
    entry.allow_dirent_cache = False
    assert operations.getattr(entry.inode).entry_timeout == 0
    fh = operations.open(entry.inode, os.O_RDONLY)
    assert entry.use_count == 1 and operations.read(fh, 8, 10) == b"\x08\x09"
    operations.release(fh)
    assert entry.use_count == 0
    ours = add(operations, root, "g", Writable(1))
    assert operations.getattr(ours.inode).entry_timeout == root.time_to_next_poll() > 0
    ours.allow_dirent_cache = False
    assert operations.getattr(ours.inode).entry_timeout == 0


def test_a_declared_death_can_be_taken_back(operations: Any) -> None:
    file = add(operations, operations.inodes[1], "f", Writable(1))
    file.dead = True
    assert file.parent_inode is None
    file.dead = False
    assert file.dead is False
    file.parent_inode = 1
    file.dead = False
    assert file.parent_inode == 1


def test_forgetting_what_is_not_there(operations: Any) -> None:
    file = add(operations, operations.inodes[1], "f", Writable(1))
    file.inc_ref()
    operations.forget([(99, 1), (file.inode, 1)])
    assert file.ref_count == 0


def test_forgetting_ends_with_the_mount(operations: Any) -> None:
    file = add(operations, operations.inodes[1], "f", Writable(1))
    file.inc_ref()
    with llfuse.lock:
        operations.destroy()
    operations.forget([(2, 1), (99, 1)])
    assert file.ref_count == 1


def test_files_are_opened_read_written_and_closed(operations: Any) -> None:
    file = add(operations, operations.inodes[1], "f", Writable(1))
    fh = operations.open(file.inode, os.O_RDWR)
    assert file.in_use() and operations._filehandles[fh].obj is file
    assert operations.write(fh, 0, b"0123456789") == 10
    assert operations.read(fh, 3, 4) == b"3456"
    assert operations.read(fh, 8, 100) == b"89"
    counters = ("read_counter", "write_counter", "read_ops_counter", "write_ops_counter")
    assert [getattr(operations, name).get() for name in counters] == [6, 10, 2, 1]
    operations.flush(fh)
    operations.fsync(fh, True)
    assert file.flushes == 2
    operations.release(fh)
    assert not file.in_use() and fh not in operations._filehandles and file.flushes == 3
    reader = operations.open(file.inode, os.O_RDONLY, None)
    assert reader != fh
    operations.release(reader)
    assert file.flushes == 3


def test_directories_are_opened_listed_and_closed(operations: Any) -> None:
    root = operations.inodes[1]
    for name in ("a", "b\u00e4"):
        add(operations, root, name, Writable(1))
    fh = operations.opendir(1)
    listed = list(operations.readdir(fh, 0))
    assert [name for name, _, _ in listed] == [b".", b"..", b"a", "b\u00e4".encode()]
    assert [found.st_ino for _, found, _ in listed] == [1, 1, 2, 3]
    assert [name for name, _, _ in operations.readdir(fh, listed[1][2])] == [
        n for n, _, _ in listed[2:]
    ]
    operations.fsyncdir(fh, False)
    assert isinstance(operations._filehandles[fh], arvados_fuse.DirectoryHandle)
    assert root.in_use()
    operations.releasedir(fh)
    assert not root.in_use() and len(operations._filehandles) == 0


def test_directories_are_changed(operations: Any) -> None:
    fh, found = operations.create(1, b"f", 0o644, os.O_RDWR)
    file = operations.inodes[found.st_ino]
    assert file.ref_count == 1 and operations.write(fh, 0, b"text") == 4
    operations.release(fh)
    inner = operations.inodes[operations.mkdir(1, b"d", 0o755).st_ino]
    assert inner.ref_count == 1 and isinstance(inner, Folder)
    operations.rename(1, b"f", inner.inode, b"g")
    assert operations.lookup(inner.inode, b"g").st_ino == file.inode
    refused(errno.ENOENT, operations.lookup, 1, b"f")
    operations.unlink(inner.inode, b"g")
    operations.rmdir(1, b"d", None)
    assert len(operations.inodes[1]._entries) == 0


def changes(operations: Any, parent: int) -> list[tuple[Any, ...]]:
    return [
        (operations.create, parent, b"new", 0o644, os.O_RDWR),
        (operations.mkdir, parent, b"new", 0o755),
        (operations.unlink, parent, b"f"),
        (operations.rmdir, parent, b"d"),
        (operations.rename, parent, b"f", 1, b"g"),
        (operations.rename, 1, b"f", parent, b"g"),
    ]


def test_every_errno(operations: Any) -> None:
    inodes = operations.inodes
    folder = inodes[1]
    file = add(operations, folder, "f", Writable(1))
    text = add(operations, folder, "text", arvados_fuse.StringFile(1, "text", 0))
    shut = add(operations, folder, "shut", arvados_fuse.Directory(1, inodes, False, None))
    adrift = add(operations, folder, "adrift", arvados_fuse.Directory(99, inodes, False, None))
    # What is not there.
    refused(errno.ENOENT, operations.open, 99, os.O_RDONLY)
    refused(errno.ENOENT, operations.opendir, 99)
    # What is of the other kind.
    refused(errno.EISDIR, operations.open, 1, os.O_RDONLY)
    refused(errno.ENOTDIR, operations.opendir, file.inode)
    # What cannot be changed.
    for flags in (os.O_WRONLY, os.O_RDWR):
        refused(errno.EPERM, operations.open, text.inode, flags)
    fh = operations.open(text.inode, os.O_RDONLY)
    refused(errno.EPERM, operations.write, fh, 0, b"x")
    # What is not open.
    refused(errno.EBADF, operations.read, 99, 0, 1)
    refused(errno.EBADF, operations.write, 99, 0, b"x")
    refused(errno.EBADF, operations.readdir, 99, 0)
    for unheard in (operations.release, operations.releasedir, operations.flush):
        unheard(99)
    operations.fsync(99, False)
    # What has lost its parent.
    refused(errno.EIO, operations.opendir, adrift.inode)
    for call in changes(operations, 99):
        refused(errno.ENOENT, *call)
    for call in changes(operations, file.inode):
        refused(errno.ENOTDIR, *call)
    for call in changes(operations, shut.inode):
        refused(errno.EPERM, *call)
    writing = operations.open(file.inode, os.O_RDWR)
    operations.enable_write = False
    for call in changes(operations, 1):
        refused(errno.EROFS, *call)
    # Not in 2017: a read-only mount refused only what names a directory.
    refused(errno.EROFS, operations.open, file.inode, os.O_RDWR)
    refused(errno.EROFS, operations.write, writing, 0, b"x")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (llfuse.FUSEError(errno.EDQUOT), errno.EDQUOT),
        (FileExistsError(errno.EEXIST, "there"), errno.EEXIST),
        (OSError(errno.ENOTEMPTY, "full"), errno.ENOTEMPTY),
        (arvados.errors.KeepWriteError("no luck"), errno.EIO),
        (arvados.errors.NotFoundError("no block"), errno.EIO),
        (KeyError("a defect"), errno.EIO),
    ],
)
def test_what_an_entry_raises_becomes_an_errno(
    operations: Any, raised: BaseException, expected: int
) -> None:
    failing = Failing(1, operations.inodes, True, None)
    failing.raised = raised
    number = operations.inodes.add_entry(failing).inode
    calls = changes(operations, number)
    for call in calls[:4] + calls[5:]:
        refused(expected, *call)

    @arvados_fuse.catch_exceptions
    def handler(self: Any) -> None:
        """Say something."""
        raise raised

    refused(expected, handler, None)
    assert handler.__doc__ == "Say something." and handler.__name__ == "handler"


def test_access_and_statfs(operations: Any) -> None:
    assert operations.access(1, os.R_OK, None) is True
    assert operations.access(1, os.W_OK, None) is True
    told = operations.statfs()
    assert told.f_bsize == told.f_frsize == 1 << 20 and told.f_namemax == 255
    assert told.f_blocks == told.f_bfree == told.f_bavail == 1 << 30
    assert told.f_files == told.f_ffree == told.f_favail == 1 << 31


def test_events(operations: Any) -> None:
    with mock.patch("arvados.events.subscribe") as subscribe:
        operations.listen_for_events()
    assert subscribe.call_args[0][0] is operations._api_client
    assert operations.events is subscribe.return_value
    kept, left, joined = (mock.MagicMock() for _ in range(3))
    for entry, letter in ((kept, "k"), (left, "l"), (joined, "j")):
        entry.uuid.return_value, entry.cache_uuid = UUID + letter, None
        entry.persisted.return_value = False
        operations.inodes.add_entry(entry)
    operations.on_event({"object_uuid": UUID + "k"})
    assert not kept.invalidate.called
    operations.on_event(
        {
            "event_type": "update",
            "object_uuid": UUID + "k",
            "object_owner_uuid": UUID + "j",
            "properties": {"old_attributes": {"owner_uuid": UUID + "l"}},
        }
    )
    assert kept.invalidate.called and left.invalidate.called and joined.invalidate.called
    with llfuse.lock:
        operations.destroy()
    assert subscribe.return_value.close.called and operations.events is None
    assert operations._shutdown_started.is_set() and list(operations.inodes) == []


# Handles


def test_the_table_of_handles_is_a_dict(operations: Any) -> None:
    file = add(operations, operations.inodes[1], "f", Writable(1))
    file.data[:] = b"content"
    fh = next(operations._filehandles_counter)
    operations._filehandles[fh] = arvados_fuse.FileHandle(fh, file)
    assert file.use_count == 1 and operations.read(fh, 0, 3) == b"con"
    opened = operations.open(file.inode, os.O_RDONLY)
    assert opened == fh + 1 and list(operations._filehandles) == [fh, opened]
    # Whoever takes a handle out lets go of it.
    operations._filehandles.pop(fh).release()
    refused(errno.EBADF, operations.read, fh, 0, 3)
    handle = operations._filehandles[opened]
    del operations._filehandles[opened]
    assert file.use_count == 1
    handle.release()
    assert file.use_count == 0 and operations._filehandles == {}
    with pytest.raises(KeyError):
        operations._filehandles[opened]
    with pytest.raises(KeyError):
        del operations._filehandles[opened]
    assert "x" not in operations._filehandles and -1 not in operations._filehandles


def test_the_table_of_handles_can_be_assigned(operations: Any) -> None:
    root = operations.inodes[1]
    file = add(operations, root, "f", Writable(1))
    old = operations.open(file.inode, os.O_RDWR)
    operations._filehandles = {
        70: arvados_fuse.FileHandle(70, file, root, True),
        71: arvados_fuse.DirectoryHandle(71, root, [("only", file)]),
    }
    refused(errno.EBADF, operations.read, old, 0, 1)
    assert operations.write(70, 0, b"x") == 1
    assert [name for name, _, _ in operations.readdir(71, 0)] == [b"only"]
    assert operations._filehandles[70].parent_obj is root
    assert operations._filehandles[70].open_for_writing is True
    assert operations._filehandles[71].entries == [("only", file)]
    assert operations.open(file.inode, os.O_RDONLY) == 72
    operations.release(70)
    assert file.flushes == 1
    operations.releasedir(71)
    operations._filehandles = {}
    assert len(operations._filehandles) == 0


def test_handles_save_as_they_did() -> None:
    file = Writable(1)
    handle = arvados_fuse.FileHandle(5, file)
    assert (handle.fh, handle.obj, file.use_count) == (5, file, 1)
    handle.flush()
    assert file.flushes == 1
    handle.release()
    assert file.use_count == 0
    text = mock.MagicMock()
    text.writable.return_value = False
    arvados_fuse.FileHandle(6, text).flush()
    assert not text.flush.called
    arvados_fuse.Handle(7, text).flush()
    assert not text.flush.called
    parent = mock.MagicMock()
    told = arvados_fuse.FileHandle(8, text, parent, False)
    told.flush(False)
    assert not text.flush.called and not parent.flush.called
    told.flush(True)
    assert text.flush.called and parent.flush.called
