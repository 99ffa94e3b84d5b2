# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections that are opened: time and memory, to show how cost grows."""

import os

from ..results import LIMIT, Row
from ..runner import Scene, Turn, command, timed
from .bench import Bench

OPEN = Row("open", "opening a collection", "s", "the API's answer alone, by `curl`")
OPEN_MEMORY = Row("open_memory", "memory that an opened collection takes", "B")


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_opening(bench, files) for files in bench.sizes.opened]


def _opening(bench: Bench, files: int) -> Scene:
    collection = bench.data.opened[files]

    def plan(turn: Turn) -> None:
        turn.plan(OPEN, {"files": files})
        if turn.name != LIMIT:
            turn.plan(OPEN_MEMORY, {"files": files})

    def play(turn: Turn) -> None:
        if turn.name == LIMIT:
            url, options = bench.cluster.record_url(collection.name)
            words = ("curl", "-sSf", "-o", os.devnull, *options, url)
            turn.measure(OPEN, run, None, *words, files=files)
            return
        with turn.contestant.mounted() as mount:
            command("stat", "by_id", cwd=mount.path, timeout=bench.timeout)
            before = mount.memory()

            turn.measure(OPEN, run, mount.path, "ls", "-f", collection.path, files=files)
            # Where opening is not wanted, it is done all the same.
            bench.list_top(mount, collection.path)
            last = f"{collection.path}/d{(files - 1) // 1000:04d}/f{(files - 1) % 100_000:05d}"
            command("stat", last, cwd=mount.path, timeout=bench.timeout)
            turn.value(OPEN_MEMORY, float(mount.memory() - before), files=files)

    def run(cwd: object, *words: object) -> float:
        return timed(*words, cwd=cwd, timeout=bench.timeout)

    return Scene(f"opening a collection of {files:,} files", (OPEN, OPEN_MEMORY), plan, play)
