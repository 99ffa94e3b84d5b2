# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Memory: at rest, and after more was looked at than the cache of directories holds."""

from ..mounts import Mount
from ..results import OURS, PEER, Row
from ..runner import Scene, Turn, command
from .bench import Bench

REST = Row("memory_rest", "memory at rest", "B")
SOAK = Row("memory_soak", "memory after a soak of eviction", "B")
GROWTH = Row("memory_growth", "growth during that soak after its first pass", "B")


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    sizes = bench.sizes

    def plan(turn: Turn) -> None:
        for row in (REST, SOAK, GROWTH):
            turn.plan(row)

    def play(turn: Turn) -> None:
        with turn.contestant.mounted("--directory-cache", str(sizes.soak_cache)) as mount:
            command("ls", mount.path, timeout=bench.timeout)
            turn.value(REST, float(mount.memory()))
            if not turn.wants(SOAK, GROWTH):
                return
            passes = [look_at_all(mount) for _ in range(sizes.soak_passes)]
            turn.value(SOAK, passes[-1])
            # What it shrinks by is no growth.
            turn.value(GROWTH, max(0.0, passes[-1] - passes[0]))

    def look_at_all(mount: Mount) -> float:
        for collection in bench.data.soak:
            bench.count(mount, collection.path, sizes.soak_files)
        return float(mount.memory())

    return [Scene("memory", (REST, SOAK, GROWTH), plan, play, (OURS, PEER))]
