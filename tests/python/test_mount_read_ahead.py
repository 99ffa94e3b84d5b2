# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Blocks of files that are read one after another are fetched before they are asked for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import arvados
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import Mounted, poll

#: Files with a block each.
FILES = 60


def text_of(number: int) -> str:
    return f"content of {number}\n"


@pytest.fixture
def collection(fresh_cluster: LocalCluster) -> str:
    keep = arvados.KeepClient(fresh_cluster.api())
    texts = [text_of(number) for number in range(FILES)]
    locators = [keep.put(text.encode()) for text in texts]
    words, begin = [], 0
    for number, text in enumerate(texts):
        words.append(f"{begin}:{len(text)}:f{number:02}")
        begin += len(text)
    body = {"manifest_text": f". {' '.join(locators)} {' '.join(words)}\n"}
    return fresh_cluster.api().collections().create(body={"collection": body}).execute()["uuid"]


@pytest.fixture
def mount(
    arv_mount: Callable, fresh_cluster: LocalCluster, collection: str, tmp_path: Path
) -> Mounted:
    (tmp_path / "empty").mkdir()
    mount = arv_mount("--collection", collection, "--disk-cache-dir", str(tmp_path / "empty"))
    fresh_cluster.record_requests()
    return mount


def read(mount: Mounted, number: int) -> None:
    assert (mount.path / f"f{number:02}").read_text() == text_of(number)


def fetched(cluster: LocalCluster) -> set[int]:
    """The files whose blocks were asked for, each once."""
    known = {hashlib.md5(text_of(n).encode()).hexdigest(): n for n in range(FILES)}
    paths = [r["path"] for r in cluster.requests() if r["service"] == "keep"]
    blocks = [known[path.lstrip("/")[:32]] for path in paths]
    assert len(blocks) == len(set(blocks)), blocks
    return set(blocks)


def test_as_many_as_were_read(mount: Mounted, fresh_cluster: LocalCluster) -> None:
    read(mount, 0)
    for number in range(1, 10):
        read(mount, number)
        # The text grows with the number's digits: by bytes, one block less.
        poll("those ahead", lambda: len(fetched(fresh_cluster)) >= 2 * number + 1)  # noqa: B023
    found = fetched(fresh_cluster)
    assert found == set(range(len(found))) and 19 <= len(found) <= 20


def test_nothing_for_whoever_jumps_about(mount: Mounted, fresh_cluster: LocalCluster) -> None:
    order = [0, 30, 12, 45, 22, 59, 2, 50, 35]
    for number in order:
        read(mount, number)
    assert fetched(fresh_cluster) == set(order)


def test_all_of_them_are_right(mount: Mounted, fresh_cluster: LocalCluster) -> None:
    for number in range(FILES):
        read(mount, number)
    assert fetched(fresh_cluster) == set(range(FILES))
