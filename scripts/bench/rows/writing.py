# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Writing to a temporary collection."""

from ..mounts import Mount
from ..results import LIMIT, Row
from ..runner import Failed, Scene, Turn, command
from .bench import Bench

WRITE = Row("write", "sequential write to a temporary collection", "B/s", "data is dropped")
CREATE = Row("create", "creating small files in it", "1/s", "data is dropped")

OPTIONS = ("--read-write", "--mount-tmp", "tmp")


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""

    def plan(turn: Turn) -> None:
        turn.plan(CREATE, {"files": bench.sizes.creates})
        turn.plan(WRITE, {"MiB": bench.sizes.write_mib})

    def play(turn: Turn) -> None:
        if turn.wants(CREATE):
            turn.contestant.forget_blocks()
            with turn.contestant.mounted(*OPTIONS) as mount:
                turn.measure(CREATE, create, mount, files=bench.sizes.creates)
        if turn.wants(WRITE):
            turn.contestant.forget_blocks()
            with turn.contestant.mounted(*OPTIONS) as mount:
                turn.measure(WRITE, write, mount, turn.name != LIMIT, MiB=bench.sizes.write_mib)

    def create(mount: Mount) -> float:
        done = bench.load(mount, "create", "--count", bench.sizes.creates, "tmp")
        return done["ops"] / done["seconds"]

    def write(mount: Mount, uploads: bool) -> float:
        before = bench.cluster.keep.control("stats")["put_bytes"]
        done = bench.load(mount, "write", "--mib", bench.sizes.write_mib, "tmp/written.bin")
        words = ("stat", "-c", "%s", "tmp/written.bin")
        size = int(command(*words, cwd=mount.path, timeout=bench.timeout, output=True))
        stored = bench.cluster.keep.control("stats")["put_bytes"] - before
        if size != done["bytes"] or (uploads and stored < size):
            raise Failed(f"{done['bytes']} bytes were written, {size} are there, {stored} in Keep")
        return done["bytes"] / done["seconds"]

    return [Scene("writing", (CREATE, WRITE), plan, play)]
