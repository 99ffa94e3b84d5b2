# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Reading a mount while Keep and the block cache fail: the right bytes or EIO, never wrong bytes."""

import errno
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import poll

BLOCK = 1 << 20
BLOCKS = 12


@pytest.fixture
def data(fresh_cluster: LocalCluster) -> bytes:
    """A file `f` of several blocks in collection `c`, each block in two services."""
    content = random.Random(3).randbytes(BLOCK * BLOCKS)
    keep = fresh_cluster.api().keep
    locators = [
        keep.put(content[at : at + BLOCK], copies=2) for at in range(0, len(content), BLOCK)
    ]
    text = f". {' '.join(locators)} 0:{len(content)}:f\n"
    collection = arvados.collection.Collection(text, api_client=fresh_cluster.api())
    collection.save_new("c")
    return content


def drop_page_cache(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def uncached(tmp_path: Path) -> list[str]:
    """Options for a mount with an empty cache of its own."""
    (tmp_path / "cache").mkdir()
    return cached(tmp_path)


def cached(tmp_path: Path) -> list[str]:
    """The same, with whatever is in the cache."""
    return ["--disk-cache", f"--disk-cache-dir={tmp_path / 'cache'}", "--disable-event-listening"]


def cache_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.keepcacheblock"))


FAULTS = [
    *({"action": action} for action in ("wrong", "short", "long", "hangup")),
    *({"action": "status", "value": status} for status in (403, 404, 410, 429, 500, 503)),
]
each_fault = pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda f: str(f.get("value", f["action"]))
)


@each_fault
def test_what_fails_for_a_while_is_read_from_elsewhere_or_later(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, data: bytes, fault: dict
) -> None:
    mount = arv_mount("--retries=3", *uncached(tmp_path))
    os.listdir(mount.path / "home" / "c")
    fresh_cluster.faults.add(service="keep", method="GET", count=1, **fault)
    assert (mount.path / "home" / "c" / "f").read_bytes() == data


@each_fault
def test_what_fails_everywhere_is_eio_until_it_is_mended(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, data: bytes, fault: dict
) -> None:
    mount = arv_mount("--retries=0", *uncached(tmp_path))
    path = mount.path / "home" / "c" / "f"
    fresh_cluster.faults.add(service="keep", method="GET", **fault)
    for offset in (0, 5 * BLOCK - 10):
        with open(path, "rb", buffering=0) as file, pytest.raises(OSError) as error:
            file.seek(offset)
            file.read(4096)
        assert error.value.errno == errno.EIO
    assert path.stat().st_size == len(data)
    assert os.listdir(mount.path / "home") == ["c"]
    fresh_cluster.faults.clear()
    assert path.read_bytes() == data


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def lengthen(file: Path) -> None:
    with open(file, "ab") as more:
        more.write(b"x")


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [flip, truncate, lengthen, make_a_folder])
def test_spoiled_cache_files_are_not_believed(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    data: bytes,
    spoil: Callable[[Path], None],
) -> None:
    options = uncached(tmp_path)
    mount = arv_mount(*options)
    assert (mount.path / "home" / "c" / "f").read_bytes() == data
    poll("every block is in the cache folder", lambda: len(cache_files(tmp_path)) == BLOCKS)
    mount.unmount()
    for file in cache_files(tmp_path)[::2]:
        spoil(file)
    mount = arv_mount(*options)
    assert (mount.path / "home" / "c" / "f").read_bytes() == data


def test_cache_files_spoiled_while_they_are_used(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, data: bytes
) -> None:
    mount = arv_mount(*uncached(tmp_path))
    path = mount.path / "home" / "c" / "f"
    assert path.read_bytes() == data
    poll("every block is in the cache folder", lambda: len(cache_files(tmp_path)) == BLOCKS)
    for spoil in (flip, truncate, lengthen):
        for file in cache_files(tmp_path)[::3]:
            spoil(file)
        drop_page_cache(path)
        assert path.read_bytes() == data


def test_a_full_disk_only_costs_the_cache(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path, data: bytes
) -> None:
    options = uncached(tmp_path)
    small = tmp_path / "cache"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], check=True)
    try:
        mount = arv_mount(*options)
        path = mount.path / "home" / "c" / "f"
        for _ in range(2):
            assert path.read_bytes() == data
            drop_page_cache(path)
        mount.unmount()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.timeout(900)
def test_random_reads_under_random_faults_are_right_or_fail(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    data: bytes,
    chance: random.Random,
) -> None:
    mount = arv_mount("--retries=1", *uncached(tmp_path))
    path = mount.path / "home" / "c" / "f"
    right = failed = 0
    for turn in range(10_000):
        if turn % 500 == 0:
            # Nothing in memory or on disk, some files spoiled, and the next requests failing.
            mount.unmount()
            for file in cache_files(tmp_path):
                if chance.random() < 0.5:
                    chance.choice([flip, truncate, lengthen, Path.unlink])(file)
            mount = arv_mount("--retries=1", *cached(tmp_path))
            path = mount.path / "home" / "c" / "f"
            os.stat(path)
            fresh_cluster.faults.clear()
            for _ in range(4):
                fault = chance.choice(FAULTS)
                fresh_cluster.faults.add(service="keep", method="GET", count=2, **fault)
        offset, size = chance.randrange(len(data)), chance.choice([1, 100, 4096, 70_000, 3 * BLOCK])
        file = os.open(path, os.O_RDONLY)
        try:
            expected = data[offset : offset + size]
            found = os.pread(file, size, offset)
            # The kernel asks in parts: where a later one fails, the call returns those before it.
            while len(found) < len(expected):
                more = os.pread(file, size - len(found), offset + len(found))
                assert more, (turn, offset, size, "the file ends too early")
                found += more
            assert found == expected, (turn, offset, size)
            right += 1
        except OSError as error:
            assert error.errno == errno.EIO, error
            failed += 1
        finally:
            os.close(file)
    print(f"{right} right, {failed} failed")
    assert right > 9_000
