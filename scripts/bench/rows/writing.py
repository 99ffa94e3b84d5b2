# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Writing to a temporary collection."""

import json
import time

from ..dataset import BLOCK
from ..mounts import Mount
from ..results import LIMIT, Row
from ..runner import Failed, Scene, Turn, command
from .bench import Bench

WRITE = Row("write", "sequential write to a temporary collection", "B/s", "data is dropped")
CREATE = Row("create", "creating small files in a temporary collection", "1/s", "data is dropped")

#: What a mount may hold back of a file that was written, in bytes: two full blocks.
BUFFERED = 2 * BLOCK

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
        """Write a file, and see what was written arrive in Keep.

        Of a temporary collection the last blocks stay in the mount, as it is never saved: what counts
        is that the file is closed and all but these have arrived.
        """
        size = bench.sizes.write_mib << 20
        expected = size - BUFFERED if uploads else 0
        before = bench.cluster.keep.control("stats")["put_bytes"]
        start = time.perf_counter()
        writing = bench.start(mount, "write", "--mib", bench.sizes.write_mib, "tmp/written.bin")
        stored = 0
        while stored < expected or writing.poll() is None:
            if time.perf_counter() - start > bench.timeout:
                break
            time.sleep(0.01)
            stored = bench.cluster.keep.control("stats")["put_bytes"] - before
        took = time.perf_counter() - start
        done = json.loads(bench.finish(writing, 1))
        words = ("stat", "-c", "%s", "tmp/written.bin")
        found = int(command(*words, cwd=mount.path, timeout=bench.timeout, output=True))
        if found != size or stored < expected:
            raise Failed(f"of {size} bytes written {found} are there, {stored} in Keep")
        # Where all had arrived when it was closed, the program's own time is the exact one.
        return size / max(done["seconds"], took - 0.02)

    return [Scene("writing", (CREATE, WRITE), plan, play)]
