# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Contents: from Keep, from the cache on disk, from the page cache; small files."""

import shlex
import time

from ..mounts import Mount
from ..results import CORE, LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, Turn, command, timed
from .bench import Bench

CURL = "two `curl | md5sum` side by side"
COLD = Row("read_cold", "sequential read, blocks from Keep", "B/s", CURL)
DISK = Row("read_disk", "sequential read, blocks in the disk cache", "B/s")
PAGE = Row("read_page", "sequential read, pages in the kernel's cache", "B/s")
RANDOM = Row("random_read", "4 KiB random reads, blocks cached", "1/s")
CAT = Row("cat", "`cat` of a directory of small files, block cached", "s")
#: What the Keep service gives; no contestant.
KEEP = Row("keep", "the same blocks by `curl`", "B/s")
KEEP_MD5 = Row("keep_md5", "the same blocks by two `curl | md5sum`", "B/s")

STREAMS = (1, 4)
PROCESSES = (1, 4, 8)
EVERYBODY = (OURS, CORE, PEER, LIMIT)


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_keep(bench), _cold(bench), _cached(bench), _small(bench)]


# The Keep service alone


def curl(bench: Bench, pipelines: int, to: str) -> float:
    """Fetch the large file's blocks, side by side, each piped on; return bytes a second."""
    urls = bench.cluster.keep.urls(bench.data.large_blocks())
    shares = [urls[n::pipelines] for n in range(min(pipelines, len(urls)))]
    parts = [shlex.join(["curl", "-sSf", *share]) for share in shares]
    script = "".join(f"{part} {to} & " for part in parts) + "wait"
    return bench.sizes.large / timed("bash", "-c", script, timeout=bench.timeout)


def _keep(bench: Bench) -> Scene:
    def plan(turn: Turn) -> None:
        turn.plan(KEEP)
        turn.plan(KEEP_MD5)

    def play(turn: Turn) -> None:
        turn.measure(KEEP, curl, bench, 1, "> /dev/null")
        turn.measure(KEEP_MD5, curl, bench, 2, "| md5sum > /dev/null")

    return Scene("the Keep service, without a mount", (KEEP, KEEP_MD5), plan, play, (LIMIT,))


# The large file


def read_large(bench: Bench, mount: Mount, streams: int) -> float:
    """Read all of the large file in so many streams; return bytes a second."""
    done = bench.load(mount, "read", "--procs", streams, large(bench))
    if done["bytes"] != bench.sizes.large:
        raise Failed(f"{done['bytes']} bytes were read, not {bench.sizes.large}")
    return done["bytes"] / done["seconds"]


def large(bench: Bench) -> str:
    """Return where the large file is."""
    return f"{bench.data.large.path}/{bench.data.large.files[0]}"


def _cold(bench: Bench) -> Scene:
    def plan(turn: Turn) -> None:
        turn.plan(COLD, *({"streams": n} for n in STREAMS))

    def play(turn: Turn) -> None:
        for streams in STREAMS:
            if turn.name == LIMIT:
                turn.measure(COLD, curl, bench, 2, "| md5sum > /dev/null", streams=streams)
                continue
            turn.contestant.forget_blocks()
            with turn.contestant.mounted(shows="large") as mount:
                bench.list_top(mount, bench.data.large.path)
                turn.measure(COLD, fetched, mount, streams, streams=streams)

    def fetched(mount: Mount, streams: int) -> float:
        before = bench.cluster.keep.served()
        rate = read_large(bench, mount, streams)
        # The server counts a block when it is out: allow for the last.
        deadline = time.monotonic() + 2
        while bench.cluster.keep.served() - before < bench.sizes.large:
            if time.monotonic() > deadline:
                raise Failed("not all was fetched: some of it had been cached")
            time.sleep(0.01)
        return rate

    return Scene("reading from Keep", (COLD,), plan, play, EVERYBODY)


def _cached(bench: Bench) -> Scene:
    md5 = bench.data.large_md5()

    def plan(turn: Turn) -> None:
        turn.plan(DISK, *({"streams": n} for n in STREAMS))
        turn.plan(PAGE, *({"streams": n} for n in STREAMS))
        turn.plan(RANDOM, *({"processes": n} for n in PROCESSES))

    def play(turn: Turn) -> None:
        # Whatever rows were run before: the blocks are in the cache on disk.
        with turn.contestant.mounted(shows="large") as mount:
            printed = command(
                "md5sum", large(bench), cwd=mount.path, timeout=bench.timeout, output=True
            )
            if printed.split()[0] != md5:
                raise Failed("the large file reads differently")
        for streams in STREAMS if turn.wants(DISK) else ():
            with turn.contestant.mounted(shows="large") as mount:
                bench.list_top(mount, bench.data.large.path)
                turn.measure(DISK, cached, mount, streams, streams=streams)
        with turn.contestant.mounted(shows="large") as mount:
            read_large(bench, mount, 1)
            for streams in STREAMS:
                turn.measure(PAGE, read_large, bench, mount, streams, streams=streams)
            for processes in PROCESSES:
                turn.measure(RANDOM, random, mount, processes, processes=processes)

    def cached(mount: Mount, streams: int) -> float:
        before = bench.cluster.keep.served()
        rate = read_large(bench, mount, streams)
        if bench.cluster.keep.served() != before:
            raise Failed("blocks were fetched again: they were not cached on disk")
        return rate

    def random(mount: Mount, processes: int) -> float:
        bench.load(mount, "evict", large(bench))
        mount.settle()
        words = ("random", "--procs", processes, "--count", bench.sizes.random_reads)
        done = bench.load(mount, *words, large(bench))
        return done["ops"] / done["seconds"]

    return Scene("reading what is cached", (DISK, PAGE, RANDOM), plan, play, EVERYBODY)


# Small files


def _small(bench: Bench) -> Scene:
    files = bench.data.small.files
    # Two directories whose files share a block: a file of the first has it fetched.
    other = bench.data.small.path + "/dir0000"
    chosen = bench.data.small.path + "/dir0008"

    def plan(turn: Turn) -> None:
        turn.plan(CAT)

    def play(turn: Turn) -> None:
        with turn.contestant.mounted() as mount:
            first = f"{other}/{files[0].partition('/')[2]}"
            command("cat", first, cwd=mount.path, timeout=bench.timeout)
            turn.measure(CAT, cat, mount)

    def cat(mount: Mount) -> float:
        script = 'cat "$1"/* > /dev/null'
        took = timed("sh", "-c", script, "sh", chosen, cwd=mount.path, timeout=bench.timeout)
        script = 'cat "$1"/* | wc -c'
        words = ("sh", "-c", script, "sh", chosen)
        size = int(command(*words, cwd=mount.path, timeout=bench.timeout, output=True))
        if size != bench.sizes.files * 4096:
            raise Failed(f"{size} bytes were read, not {bench.sizes.files * 4096}")
        return took

    return Scene("small files", (CAT,), plan, play, EVERYBODY)
