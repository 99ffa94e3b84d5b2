# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Saving for longer than block signatures last."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llfuse
import pytest
from arvados_fuse.collection_dir import CollectionDirectory
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection
from inprocess import mounted
from test_mount_saving import contents

Signed = tuple[LocalCluster, str, Path]


@pytest.fixture
def signed_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Signed]:
    """A cluster whose signatures end after 2 seconds, a collection in it, and a mount of that."""
    with LocalCluster(tmp_path / "cluster", test_hooks=True, blob_signing_ttl=2) as cluster:
        for name, value in cluster.env().items():
            monkeypatch.setenv(name, value)
        uuid = save_collection(cluster, "saved")
        api = cluster.api()

        def root(operations: Any) -> Any:
            record = {"uuid": uuid, "modified_at": None}
            return CollectionDirectory(
                llfuse.ROOT_INODE, operations.inodes, api, 2, True, collection_record=record
            )

        with mounted(tmp_path / "mnt", root, api=api, enable_write=True):
            yield cluster, uuid, tmp_path / "mnt"


def test_a_mount_outlives_signatures(signed_for_a_moment: Signed) -> None:
    cluster, uuid, path = signed_for_a_moment
    with open(path / "f", "a") as file:
        text = "text"
        # What is loaded, what was saved from here, and what an open file shows of either.
        for number in range(3):
            file.write(f" {number}")
            text += f" {number}"
            manifest = cluster.api().collections().get(uuid=uuid).execute()["manifest_text"]
            ends = int(manifest.split("@")[1].split()[0], 16)
            file.flush()
            poll("its signatures end", lambda ends=ends: time.time() > ends + 1)
            os.fsync(file.fileno())
            assert contents(cluster, uuid) == {"f": text}


def test_what_is_written_without_a_pause_outlives_signatures(signed_for_a_moment: Signed) -> None:
    cluster, uuid, path = signed_for_a_moment
    written = ["text"]
    done = threading.Event()
    with open(path / "f", "a") as file, open(path / "other", "a") as other:

        def write() -> None:
            while not done.wait(0.001):
                written.append(f"{len(written)}\n")
                file.write(written[-1])
                file.flush()

        writing = threading.Thread(target=write)
        writing.start()
        try:
            until = time.monotonic() + 6
            while time.monotonic() < until:
                # Whoever writes to a file waits for its fsync.
                os.ftruncate(other.fileno(), len(written))
                os.fsync(other.fileno())
        finally:
            done.set()
            writing.join()
    os.truncate(path / "other", 0)
    (path / "last").write_text("saved")
    assert contents(cluster, uuid) == {"f": "".join(written), "other": "", "last": "saved"}
