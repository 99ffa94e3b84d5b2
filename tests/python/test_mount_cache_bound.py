# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The cache of files: `--file-cache` bounds all of it, and what is planted in its folder harms nobody."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import keep_front
import pytest
from arvados_fuse.block_cache import BlockCache
from arvados_fuse.localcluster import LocalCluster

MIB = 1 << 20
BLOCK = 16 * MIB
BLOCKS = 16


def folder_size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                pass
    return total


class Watch:
    """The largest size that a folder has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.largest = 0

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._measure()

    def _measure(self) -> None:
        self.largest = max(self.largest, folder_size(self._folder))

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        # What is there at the end counts as well.
        self._measure()


def test_the_core_and_the_sdk_share_one_bound(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    chance = random.Random(5)
    keep = fresh_cluster.api().keep
    blocks, locators = [], []
    for _ in range(BLOCKS):
        blocks.append(chance.randbytes(BLOCK))
        locators.append(keep.put(blocks[-1], copies=1))
    text = f". {' '.join(locators)} 0:{BLOCK * BLOCKS}:f\n"
    arvados.collection.Collection(text, api_client=fresh_cluster.api()).save_new("c")
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = arv_mount(
        "--read-write", "--disable-event-listening",
        f"--disk-cache-dir={cache}", f"--file-cache={128 * MIB}",
    )  # fmt: skip
    path = mount.path / "home" / "c" / "f"

    def read_all() -> None:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for block in blocks:
                at = 0
                while at < BLOCK:
                    piece = file.read(MIB)
                    assert piece == block[at : at + len(piece)] and piece
                    at += len(piece)

    with Watch(cache) as watch:
        read_all()
        assert watch.largest > 32 * MIB, "it is cached"
        # From here on the SDK's code reads it.
        (mount.path / "home" / "c" / "new").write_text("new")
        read_all()
    # Files are counted one after the other, while they come and go.
    assert watch.largest <= 128 * MIB + BLOCK, f"{watch.largest / MIB:.0f} MiB"


@pytest.mark.parametrize(
    ("given", "sdk", "core"),
    [(1, 64, 64), (64, 64, 64), (128, 64, 64), (1024, 128, 896), (65536, 256, 65280)],
)
@pytest.mark.parametrize("disk", [False, True])
def test_each_has_its_part(tmp_path: Path, given: int, sdk: int, core: int, disk: bool) -> None:
    cache = BlockCache(given * MIB, disk, str(tmp_path))
    assert (cache.cache_max, cache.core_max) == (sdk * MIB, core * MIB)
    assert list(tmp_path.iterdir()) == []


def plant_fifos(path: Path) -> None:
    os.mkfifo(path)
    lock = path.parent.parent / "tmp" / "tidy.lock"
    lock.parent.mkdir()
    os.mkfifo(lock)


def plant_a_folder(path: Path) -> None:
    path.mkdir()


def plant_a_link(path: Path) -> None:
    path.symlink_to("/nonexistent/file")


def plant_a_link_to_a_terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


@pytest.mark.parametrize(
    "plant", [plant_fifos, plant_a_folder, plant_a_link, plant_a_link_to_a_terminal]
)
@pytest.mark.parametrize("more", [[], [f"--file-cache={128 * MIB}"]], ids=["", "bounded"])
def test_what_is_planted_in_the_folder_holds_nothing_up(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    tmp_path: Path,
    plant: Callable[[Path], None],
    more: list[str],
) -> None:
    locator = keep_front.save_block(fresh_cluster, "planted")
    place = tmp_path / "cache" / locator[:3]
    place.mkdir(parents=True)
    plant(place / f"{locator[:32]}.keepcacheblock")
    options = [
        "--read-write",
        "--disable-event-listening",
        f"--disk-cache-dir={tmp_path / 'cache'}",
    ]
    mount = arv_mount(*options, *more)
    assert (mount.path / "home" / "c" / "f").read_text() == "planted"
    # From here on the SDK's code reads it.
    (mount.path / "home" / "c" / "new").write_text("new")
    assert (mount.path / "home" / "c" / "f").read_text() == "planted"
    assert mount.unmount() == 0


def test_what_is_in_the_folder_stays_for_the_next_mount(
    fresh_cluster: LocalCluster, arv_mount: Callable, tmp_path: Path
) -> None:
    keep_front.save_block(fresh_cluster, "kept")
    (tmp_path / "cache").mkdir()
    options = ["--disable-event-listening", f"--disk-cache-dir={tmp_path / 'cache'}"]
    for _ in range(2):
        mount = arv_mount(*options)
        assert (mount.path / "home" / "c" / "f").read_text() == "kept"
        mount.unmount()
        assert len(list((tmp_path / "cache").rglob("*.keepcacheblock"))) == 1
        fresh_cluster.faults.add(service="keep", method="GET", action="status", value=503)
