# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Writing to a temporary collection, and to one that is saved."""

import json
import time
from typing import Any

from ..dataset import BLOCK
from ..mounts import Mount
from ..results import LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, Turn, command
from .bench import Bench

WRITE = Row("write", "sequential write to a temporary collection", "B/s", "data is dropped")
CREATE = Row("create", "creating small files in a temporary collection", "1/s", "data is dropped")

CLOSE = Row("close", "closing small files in a collection", "1/s")
LATER = Row("close_later", "the same; ours with `--save-after 5`", "1/s")
FAR = Row("close_far", "closing small files where the API answers after 50 ms", "s")

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

    return [Scene("writing", (CREATE, WRITE), plan, play), _saving(bench)]


def _saving(bench: Bench) -> Scene:
    options = ("--read-write", "--mount-by-id", "by_id")
    rows = {CLOSE: (), LATER: ("--save-after", "5"), FAR: ()}

    def plan(turn: Turn) -> None:
        turn.plan(CLOSE, {"files": bench.sizes.closes})
        turn.plan(LATER, {"files": bench.sizes.closes})
        turn.plan(FAR, {"files": bench.sizes.far_closes})

    def play(turn: Turn) -> None:
        for row, more in rows.items():
            if not turn.wants(row):
                continue
            count = bench.sizes.far_closes if row is FAR else bench.sizes.closes
            body = {"collection": {"name": f"written {time.time_ns()}"}}
            uuid = bench.cluster.api().collections().create(body=body).execute()["uuid"]
            # The release has no such option.
            more = more if turn.name == OURS else ()
            with turn.contestant.mounted(*options, *more) as mount:
                turn.measure(row, close, mount, uuid, count, row, files=count)

    def close(mount: Mount, uuid: str, count: int, row: Row) -> float:
        """Write files, and see them in the record."""
        # What is made once for a mount is not counted.
        (mount.path / "by_id" / uuid / "first").mkdir()
        bench.load(mount, "create", "--count", 1, f"by_id/{uuid}/first")
        faults = bench.cluster.local.faults
        if row is FAR:
            faults.add(service="api", action="delay", value=0.05)
        start = time.perf_counter()
        try:
            bench.load(mount, "create", "--count", count, f"by_id/{uuid}")
            took = time.perf_counter() - start
            while row is LATER and saved(uuid) <= count and time.perf_counter() - start < 60:
                time.sleep(0.1)
        finally:
            faults.clear()
        found = saved(uuid)
        if found <= count:
            raise Failed(f"of {count} files {found} are saved")
        return took if row is FAR else count / took

    def saved(uuid: str) -> int:
        record: Any = bench.cluster.api().collections().get(uuid=uuid, select=["file_count"])
        return record.execute()["file_count"]

    return Scene("saving", tuple(rows), plan, play, (OURS, PEER))
