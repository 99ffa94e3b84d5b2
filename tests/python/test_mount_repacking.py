# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Small blocks that saves leave are put together, by saves that come anyway."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, save_collection

#: Closed one by one: after each 32 the next save puts them together.
FILES = {f"d{n % 3}/file {n}": f"content {n}\n" * (n + 1) for n in range(80)}


def write_all(mount: Mounted) -> None:
    for name, text in FILES.items():
        path = mount.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def times(mount: Mounted) -> dict[str, tuple[int, int]]:
    found = ((name, os.stat(mount.path / name)) for name in FILES)
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def blocks(cluster: LocalCluster, uuid: str) -> set[str]:
    """The blocks of more than no bytes that the record names, without hints."""
    text = cluster.api().collections().get(uuid=uuid).execute()["manifest_text"]
    return set(re.findall(r" ([0-9a-f]{32}\+[1-9][0-9]*)", text))


def test_files_closed_one_by_one_are_read_with_few_requests(
    arv_mount: Callable, fresh_cluster: LocalCluster, tmp_path: Path
) -> None:
    uuid = save_collection(fresh_cluster, "repacked", "the first of them")
    mount = arv_mount("--read-write", "--collection", uuid)
    fresh_cluster.record_requests()
    write_all(mount)
    written = [r for r in fresh_cluster.writes() if r["service"] == "api"]
    # A directory is saved with what comes next.
    assert len(written) == len(FILES)
    # Some 17 that came last, what was put together, and that of the file that was there.
    assert len(blocks(fresh_cluster, uuid)) <= 24
    before = times(mount)
    for name, text in FILES.items():
        assert (mount.path / name).read_text() == text
    assert times(mount) == before
    (tmp_path / "empty").mkdir()
    other = arv_mount("--collection", uuid, "--disk-cache-dir", str(tmp_path / "empty"))
    fresh_cluster.record_requests()
    for name, text in FILES.items():
        assert (other.path / name).read_text() == text
    fetched = [r for r in fresh_cluster.requests() if r["service"] == "keep"]
    assert len(fetched) <= 24, fetched


def test_where_only_whole_manifests_are_taken_it_is_the_same(
    arv_mount: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(tmp_path / "c", replace_files=False) as cluster:
        # Another authority than the cluster's that the other tests use.
        monkeypatch.setenv("SSL_CERT_FILE", cluster.env()["SSL_CERT_FILE"])
        uuid = save_collection(cluster, "repacked", "the first of them")
        mount = arv_mount("--read-write", "--collection", uuid, env=cluster.env())
        write_all(mount)
        assert len(blocks(cluster, uuid)) <= 24
        before = times(mount)
        for name, text in FILES.items():
            assert (mount.path / name).read_text() == text
        assert times(mount) == before
        assert mount.unmount() == 0


def test_what_reads_and_writes_beside_it_sees_nothing(
    arv_mount: Callable, fresh_cluster: LocalCluster
) -> None:
    uuid = save_collection(fresh_cluster, "repacked", "text")
    mount = arv_mount("--read-write", "--collection", uuid)
    with open(mount.path / "log", "w+") as log:
        kept = ""
        for name, text in FILES.items():
            path = mount.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            log.write(text)
            log.flush()
            os.fsync(log.fileno())
            kept += text
            log.seek(0)
            assert log.read() == kept
    assert (mount.path / "log").read_text() == kept
    read = arvados.collection.CollectionReader(uuid, api_client=fresh_cluster.api())
    for name, text in {**FILES, "log": kept, "f": "text"}.items():
        with read.open(name) as file:
            assert file.read() == text
    assert mount.unmount() == 0
