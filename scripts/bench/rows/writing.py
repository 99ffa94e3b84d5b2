# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Contents that are written: one file, many at once, many small ones, and the memory that it takes."""

import itertools
import json
import shlex
import time

from ..dataset import BLOCK
from ..mounts import Mount
from ..results import LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, Turn, command, timed
from .bench import Bench

PUT = "`md5sum` and a PUT of the same bytes, two at a time"
WRITE = Row("write", "sequential write to a temporary collection", "B/s", PUT)
CREATE = Row("create", "creating small files in a temporary collection", "1/s", "data is dropped")
WRITERS = Row("writers", "files written into a collection at once", "B/s", PUT)
MEMORY = Row("write_memory", "memory at most, while a file is written", "B")

#: What a mount may hold back of a file that was written, in bytes: two full blocks.
BUFFERED = 2 * BLOCK
#: Who writes at once.
PROCESSES = 8

OPTIONS = ("--read-write", "--mount-tmp", "tmp")
IN_COLLECTIONS = ("--read-write", "--mount-by-id", "by_id")


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_scratch(bench), _writers(bench), _memory(bench)]


def put(bench: Bench, mib: int) -> float:
    """Hash blocks and send them to Keep, two at a time; return bytes a second."""
    known = [bench.data.blocks / locator[:32] for locator in bench.data.large_blocks()]
    files = list(itertools.islice(itertools.cycle(known), (mib << 20) // BLOCK))
    # What reads them here is not to wait for the disk.
    command("cat", *known, timeout=bench.timeout)
    (url,) = bench.cluster.keep.urls([""])
    send = f'hash=$(md5sum < "$file"); curl -sSf -o /dev/null -T "$file" {url}${{hash%% *}}'
    parts = [shlex.join(map(str, files[n::2])) for n in range(2)]
    script = "".join(f"for file in {part}; do {send}; done & " for part in parts) + "wait"
    before = _stored(bench)
    took = timed("bash", "-c", script, timeout=bench.timeout)
    size = len(files) * BLOCK
    if _stored(bench) - before != size:
        raise Failed(f"of {size} bytes {_stored(bench) - before} were sent")
    return size / took


def _stored(bench: Bench) -> int:
    return bench.cluster.keep.control("stats")["put_bytes"]


def _scratch(bench: Bench) -> Scene:
    def plan(turn: Turn) -> None:
        turn.plan(CREATE, {"files": bench.sizes.creates})
        turn.plan(WRITE, {"MiB": bench.sizes.write_mib})

    def play(turn: Turn) -> None:
        if turn.wants(CREATE):
            turn.contestant.forget_blocks()
            with turn.contestant.mounted(*OPTIONS) as mount:
                turn.measure(CREATE, create, mount, files=bench.sizes.creates)
        if not turn.wants(WRITE):
            return
        mib = bench.sizes.write_mib
        if turn.name == LIMIT:
            turn.measure(WRITE, put, bench, mib, MiB=mib)
            return
        turn.contestant.forget_blocks()
        with turn.contestant.mounted(*OPTIONS) as mount:
            turn.measure(WRITE, write, mount, MiB=mib)

    def create(mount: Mount) -> float:
        done = bench.load(mount, "create", "--count", bench.sizes.creates, "tmp")
        return done["ops"] / done["seconds"]

    def write(mount: Mount) -> float:
        """Write a file, and see what was written arrive in Keep.

        Of a temporary collection the last blocks stay in the mount, as it is never saved: what counts
        is that the file is closed and all but these have arrived.
        """
        size = bench.sizes.write_mib << 20
        expected = size - BUFFERED
        before = _stored(bench)
        start = time.perf_counter()
        writing = bench.start(mount, "write", "--mib", bench.sizes.write_mib, "tmp/written.bin")
        stored = 0
        # To ask takes time of the processors: not before it is closed.
        while writing.poll() is None or (stored := _stored(bench) - before) < expected:
            if time.perf_counter() - start > bench.timeout:
                break
            time.sleep(0.01)
        took = time.perf_counter() - start
        done = json.loads(bench.finish(writing, 1))
        words = ("stat", "-c", "%s", "tmp/written.bin")
        found = int(command(*words, cwd=mount.path, timeout=bench.timeout, output=True))
        if found != size or stored < expected:
            raise Failed(f"of {size} bytes written {found} are there, {stored} in Keep")
        # Where all had arrived when it was closed, the program's own time is the exact one.
        return size / max(done["seconds"], took - 0.02)

    return Scene("writing", (CREATE, WRITE), plan, play)


def _writers(bench: Bench) -> Scene:
    mib = bench.sizes.write_mib
    params = {"MiB": mib, "processes": PROCESSES}

    def plan(turn: Turn) -> None:
        turn.plan(WRITERS, params)

    def play(turn: Turn) -> None:
        if turn.name == LIMIT:
            turn.measure(WRITERS, put, bench, mib, **params)
            return
        uuid = bench.cluster.new_collection()
        turn.contestant.forget_blocks()
        with turn.contestant.mounted(*IN_COLLECTIONS) as mount:
            command("ls", f"by_id/{uuid}", cwd=mount.path, timeout=bench.timeout)
            turn.measure(WRITERS, write, mount, uuid, **params)

    def write(mount: Mount, uuid: str) -> float:
        """All is in Keep and in the record when the last of them has closed its file."""
        before = _stored(bench)
        words = ("writers", "--procs", PROCESSES, "--mib", mib, f"by_id/{uuid}")
        done = bench.load(mount, *words)
        stored, found = _stored(bench) - before, bench.cluster.saved(uuid)
        size = mib << 20
        if stored < size or found["file_size_total"] != size:
            saved = found["file_size_total"]
            raise Failed(f"of {size} bytes written {saved} are saved, {stored} in Keep")
        return size / done["seconds"]

    return Scene("writers at once", (WRITERS,), plan, play, rounds=3)


def _memory(bench: Bench) -> Scene:
    mib = bench.sizes.memory_mib

    def plan(turn: Turn) -> None:
        turn.plan(MEMORY, {"MiB": mib})

    def play(turn: Turn) -> None:
        turn.contestant.forget_blocks()
        with turn.contestant.mounted(*OPTIONS) as mount:
            turn.measure(MEMORY, peak, mount, MiB=mib)
        turn.contestant.forget_blocks()

    def peak(mount: Mount) -> float:
        bench.load(mount, "write", "--mib", mib, "tmp/written.bin")
        return float(mount.peak_memory())

    return Scene("memory while writing", (MEMORY,), plan, play, (OURS, PEER), rounds=1)
