# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What suites reach into and patch, beside what `test_dispatch.py` and the API tests have."""

import contextlib
import json
import os
import queue
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import arvados
import arvados_fuse
import arvados_fuse.command
import daemon
import llfuse
import pycurl
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection
from entries_2017 import Writable
from inprocess import add, directory, mounted


def prepared(cluster: LocalCluster, path: Path, *options: str) -> Any:
    """Return a `Mount` that has everything but the mounting behind it."""
    words = ["--foreground", *options, str(path)]
    # The SDK reads its settings once in a process.
    with mock.patch("arvados.config.settings", return_value=cluster.env()):
        return arvados_fuse.command.Mount(arvados_fuse.command.ArgumentParser().parse_args(words))


# Attributes


def test_the_clockwork_of_freshness_can_be_set(tmp_path: Path) -> None:
    inodes = arvados_fuse.Inodes(arvados_fuse.InodeCache(1000))
    entry = inodes.add_entry(arvados_fuse.Directory(1, inodes, False, None))
    entry.fresh()
    assert (entry._stale, entry._poll, entry._poll_time) == (False, False, 60)
    entry._poll, entry._poll_time, entry._last_update = True, 15, 1000
    entry._atime = 1010
    assert not entry.stale() and entry.time_to_next_poll() == 5 and entry.atime() == 1010
    entry._atime = 1016
    assert entry.stale() and entry.time_to_next_poll() == 0
    entry._poll = False
    assert not entry.stale()
    entry._stale = True
    assert entry.stale()
    entry._mtime = 1234.5
    assert entry.mtime() == 1234.5
    entry.use_count, entry.ref_count = 1, 2
    assert entry.in_use() and entry.dec_ref(1) == 1


def test_the_metrics_have_their_names(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        before = operations.metric_count_func("lookup")()
        seconds = operations.metric_sum_func("lookup")()
        add(operations, operations.inodes[1], "f", Writable(1))
        assert (tmp_path / "mnt" / "f").read_bytes() == b""
        assert operations.metric_count_func("lookup")() > before
        assert operations.metric_sum_func("lookup")() > seconds
        names = operations.metric_op_names()
        assert {"read", "write", "destroy", "on_event", "getattr", "setattr", "lookup"} <= set(
            names
        )
        assert {"forget", "open", "release", "opendir", "readdir", "statfs", "create"} <= set(names)
        assert {"mkdir", "unlink", "rmdir", "rename", "flush"} <= set(names)
        sampled = {sample.name for sample in operations.metric_samples()}
        for ending in ("count", "sum"):
            assert f"arvmount_fuse_operations_seconds_{ending}" in sampled
        value = operations.metric_value("lookup", "arvmount_fuse_operations_seconds_count")
        assert value == operations.metric_count_func("lookup")()
        assert operations.metric_value("lookup", "no_such_metric") is None


METRICS_OF_A_PROCESS = """
import sys
if sys.argv[1] == "exporting":
    import prometheus_client
import arvados_fuse
operations = arvados_fuse.Operations(0, 0, None)
if sys.argv[1] == "exporting":
    text = prometheus_client.generate_latest().decode()
    assert 'arvmount_fuse_operations_seconds_count{op="lookup"} 0.0' in text, text
else:
    assert "prometheus_client" not in sys.modules
operations.on_event({})
operations.statfs()
assert operations.metric_count_func("on_event")() == operations.metric_count_func("statfs")() == 1
assert arvados_fuse.Operations.statfs_time._count.get() == 1
assert operations.metric_sum_func("statfs")() > 0
operations.statfs()
assert operations.metric_count_func("statfs")() == 2
"""


@pytest.mark.parametrize("who", ["exporting", "not asking"])
def test_the_metrics_are_there_for_who_exports_them(who: str) -> None:
    subprocess.run([sys.executable, "-c", METRICS_OF_A_PROCESS, who], check=True)


def test_the_modules_it_stands_on_are_named_in_it() -> None:
    assert arvados_fuse.arvados is arvados and arvados_fuse.llfuse is llfuse


# Patches


def test_the_daemon_library_is_found_and_can_be_replaced(
    fresh_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    (tmp_path / "mnt").mkdir()
    mount = prepared(fresh_cluster, tmp_path / "mnt")
    assert arvados_fuse.command.daemon is daemon
    with mock.patch("arvados_fuse.command.daemon") as replaced:
        mount._daemonize()
    replaced.DaemonContext.return_value.open.assert_called_once_with()
    with mock.patch("arvados_fuse.command.daemon.DaemonContext") as context:
        mount._daemonize()
    context.return_value.open.assert_called_once_with()


def test_the_keep_client_that_a_mount_makes(cluster: LocalCluster, tmp_path: Path) -> None:
    with mock.patch("arvados_fuse.arvados.keep.KeepClient") as keep:
        prepared(cluster, tmp_path, "--retries=7")
    assert keep.call_args[1]["num_retries"] == 7


def test_the_curl_of_a_keep_service(fresh_cluster: LocalCluster, tmp_path: Path) -> None:
    api = fresh_cluster.api()
    curls: queue.Queue = queue.Queue()
    failing = mock.Mock(spec=pycurl.Curl(), wraps=pycurl.Curl())
    failing.perform.side_effect = Exception("mock error")
    for curl in (failing, pycurl.Curl(), pycurl.Curl(), pycurl.Curl()):
        curls.put(curl)

    def root(operations: Any) -> Any:
        return arvados_fuse.TmpCollectionDirectory(1, operations.inodes, api, 3, True)

    with (
        mock.patch(
            "arvados.keep.KeepClient._KeepService._get_user_agent", side_effect=curls.get_nowait
        ),
        mock.patch("time.sleep"),
        mounted(tmp_path / "mnt", root, api=api, enable_write=True),
    ):
        (tmp_path / "mnt" / "foo").write_text("foo")
        record = json.loads((tmp_path / "mnt" / ".arvados#collection").read_text())
        assert " acbd18db4cc2f85cedef654fccc4a4d8+3" in record["manifest_text"]
        assert failing.perform.called


def test_the_api_calls_of_a_collection(fresh_cluster: LocalCluster, tmp_path: Path) -> None:
    api = fresh_cluster.api()
    locator = save_collection(fresh_cluster, "c")

    def root(operations: Any) -> Any:
        return arvados_fuse.CollectionDirectory(1, operations.inodes, api, 0, False, None, locator)

    with mock.patch.object(api, "collections", wraps=api.collections) as collections:
        with mounted(tmp_path / "mnt", root, api=api):
            assert (tmp_path / "mnt" / "f").exists()
    assert collections.called


class ByTitle(arvados_fuse.ProjectDirectory):
    """Shows collections under what their properties say."""

    def namefn(self, i: dict) -> str | None:
        return i["properties"].get("title")


@pytest.mark.parametrize("how", ["as it is", "subclass", "patched"])
def test_who_looks_at_listed_records_has_all_of_them(
    fresh_cluster: LocalCluster, tmp_path: Path, how: str
) -> None:
    api = fresh_cluster.api()
    group = api.groups().create(body={"name": "p", "group_class": "project"}).execute()
    properties = {"title": "shown"}
    save_collection(fresh_cluster, "c", owner_uuid=group["uuid"], properties=properties)
    kind = ByTitle if how == "subclass" else arvados_fuse.ProjectDirectory

    def root(operations: Any) -> Any:
        return kind(1, operations.inodes, api, 0, False, None, group)

    class Groups:
        """The API's, and what was asked of them."""

        asked: ClassVar[list[dict]] = []

        def __init__(self) -> None:
            self.contents = mock.Mock(wraps=groups().contents, side_effect=self.note)
            self.get = groups().get

        def note(self, **query: Any) -> Any:
            self.asked.append(query)
            return mock.DEFAULT

    groups = api.groups
    patches = contextlib.ExitStack()
    if how == "patched":
        named = lambda self, i: i["properties"].get("title")  # noqa: E731
        patches.enter_context(mock.patch.object(arvados_fuse.ProjectDirectory, "namefn", named))
    with patches, mock.patch.object(api, "groups", Groups):
        with mounted(tmp_path / "mnt", root, api=api):
            assert os.listdir(tmp_path / "mnt") == ["c" if how == "as it is" else "shown"]
    of_collections = [
        query
        for query in Groups.asked
        if ["uuid", "is_a", "arvados#collection"] in query["filters"]
    ]
    assert of_collections
    assert all(("select" in query) == (how == "as it is") for query in of_collections)


def test_the_configuration_of_the_cluster(cluster: LocalCluster) -> None:
    api = cluster.api()
    for configured, expected in (("[SLASH]", "[SLASH]"), ("", None), ("/", None), ("_", "_")):
        with mock.patch("arvados.util.get_config_once") as get_config_once:
            get_config_once.return_value = {
                "Collections": {"ForwardSlashNameSubstitution": configured}
            }
            operations = arvados_fuse.Operations(0, 0, api)
        assert get_config_once.called
        assert operations.inodes.forward_slash_subst() == expected
    with mock.patch("arvados.util.get_config_once", return_value={}):
        assert arvados_fuse.Operations(0, 0, api).inodes.forward_slash_subst() == "_"


@pytest.mark.parametrize(
    ("options", "hard", "expected"),
    [
        ((), 1048576, (10240, 1048576)),
        (("--file-cache=256000000",), 1048576, None),
        (("--file-cache=256000000000",), 1048576, (30517, 1048576)),
        (("--file-cache=256000000000",), 2048, (2048, 2048)),
    ],
)
def test_the_limit_of_open_files(
    cluster: LocalCluster, tmp_path: Path, options: tuple[str, ...], hard: int, expected: Any
) -> None:
    with (
        mock.patch("resource.setrlimit") as setrlimit,
        mock.patch("resource.getrlimit", return_value=(1024, hard)),
    ):
        prepared(cluster, tmp_path, *options)
    if expected is None:
        assert not setrlimit.called
    else:
        setrlimit.assert_called_with(resource.RLIMIT_NOFILE, expected)
