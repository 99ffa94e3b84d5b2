# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Public names that no other test has a reason to use, and small differences from the release."""

import errno
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import arvados_fuse
import pytest
from arvados_fuse import crunchstat, fresh
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection
from entries_2017 import Folder
from inprocess import add, directory, mounted


def test_the_helpers_of_fresh() -> None:
    class Entry(arvados_fuse.FreshBase):
        updates = 0

        def update(self) -> None:
            self.updates += 1
            self.fresh()

        @fresh.use_counter
        @fresh.check_update
        def look(self, what: int, *, more: int = 0) -> Any:
            """Look."""
            return what + more, self.in_use(), self.updates

    entry = Entry()
    assert entry.look(1, more=2) == (3, True, 1)
    assert entry.look(1) == (1, True, 1)
    assert not entry.in_use() and Entry.look.__doc__ == "Look."
    assert fresh.convertTime("2017-05-19T12:34:56.789012Z") == 1495197296
    assert fresh.convertTime(None) == fresh.convertTime("") == fresh.convertTime("never") == 0


def test_crunchstat_writes_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    figure = mock.Mock(side_effect=[5, 12, 13])
    seconds = mock.Mock(side_effect=[0.5, 1.25, 1.25])
    stats = [crunchstat.Stat("read", figure), crunchstat.Stat("time", seconds)]
    writer = crunchstat.StatWriter("some:thing", 2, stats)
    writer.update()
    writer.update()
    assert sys.stderr.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "crunchstat: some:thing 12 read 1.250000 time -- interval 2.0000 seconds "
        "7 read 0.750000 time",
        "crunchstat: some:thing 13 read 1.250000 time -- interval 2.0000 seconds "
        "1 read 0.000000 time",
    ]
    # Every figure of a mount has a line.
    counter = SimpleNamespace(get=lambda: 0)
    keep = mock.MagicMock(**{f"{name}_counter": counter for name in (
        "put", "get", "upload", "download", "hits", "misses",
    )})  # fmt: skip
    operations = arvados_fuse.Operations(0, 0, None)
    sleeps = mock.Mock(side_effect=[None, KeyboardInterrupt])
    with mock.patch.object(time, "sleep", sleeps), pytest.raises(KeyboardInterrupt):
        crunchstat.statlogger(0.1, keep, operations)
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    for prefix in ("keepcalls", "net:keep0", "keepcache", "blkio:0:0", "fuseops", "fuseop:lookup"):
        assert f"crunchstat: {prefix} " in written


def test_every_kind_of_directory(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    api = fresh_cluster.api()
    locator = save_collection(fresh_cluster, "c")
    link = {
        "link_class": "tag",
        "name": "nice",
        "head_uuid": locator,
        "tail_uuid": api.users().current().execute()["uuid"],
    }
    api.links().create(body={"link": link}).execute()
    top = arv_mount("--refresh-time=1").path
    found = {name: sorted(os.listdir(top / name)) for name in ("home", "by_id", "by_tag")}
    assert "c" in found["home"] and found["by_tag"] == ["nice"] and "README" in found["by_id"]
    assert isinstance(os.listdir(top / "shared"), list)
    for path in ("home/c", f"by_id/{locator}", f"by_tag/nice/{locator}"):
        assert (top / path / "f").read_text() == "text"
    assert "nice" not in found["home"]


def test_the_size_of_a_string_file_is_in_bytes(tmp_path: Path) -> None:
    text = "häßlich \N{SNOWMAN}"
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "f", arvados_fuse.StringFile(1, text, 0))
        assert os.stat(tmp_path / "mnt" / "f").st_size == len(text.encode())
        assert (tmp_path / "mnt" / "f").read_text() == text


def test_reads_may_be_long(cluster: LocalCluster, arv_mount: Callable) -> None:
    path = arv_mount().path
    mounts = Path("/proc/mounts").read_text().splitlines()
    options = next(line for line in mounts if f" {path} " in line).split()[3].split(",")
    assert f"max_read={1 << 20}" in options
    number = os.stat(path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    if os.access(setting, os.W_OK):
        assert setting.read_text() == "256\n"


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    def root(operations: Any) -> Any:
        return Folder(1, operations.inodes, True, None)

    strange = os.path.join(os.fsencode(tmp_path), b"mnt", b"\xff\xfe")
    with mounted(tmp_path / "mnt", root, enable_write=True):
        for change in (
            lambda: os.mkdir(strange),
            lambda: os.mknod(strange),
            lambda: os.open(strange, os.O_CREAT | os.O_WRONLY),
        ):
            with pytest.raises(OSError) as raised:
                change()
            assert raised.value.errno == errno.EILSEQ
        with pytest.raises(FileNotFoundError):
            os.stat(strange)
        assert os.listdir(tmp_path / "mnt") == []
