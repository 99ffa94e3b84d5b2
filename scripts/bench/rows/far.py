# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A Keep that is far away: each answer comes late, and no connection carries much."""

from ..mounts import Mount
from ..results import CORE, LIMIT, OURS, PEER, Row
from ..runner import Scene, Turn, timed
from .bench import Bench
from .reading import curl, read_large

READ = Row(
    "read_far",
    "sequential read, blocks from a Keep 30 ms away, 60 MB/s a connection",
    "B/s",
    "eight `curl` side by side",
)
FILES = Row("cat_far", "`cat` of files with a block each from there, one after another", "s")
RANDOM = Row("random_far", "4 KiB reads of such files from there, in any order", "1/s")

#: How late answers come, in seconds, and how many bytes a second on a connection.
KEEP_DELAY, KEEP_RATE = 0.03, 60e6
#: Connections of the limit.
CURLS = 8


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_read(bench), _files(bench)]


def _read(bench: Bench) -> Scene:
    def plan(turn: Turn) -> None:
        turn.plan(READ)

    def play(turn: Turn) -> None:
        if turn.name == LIMIT:
            with bench.cluster.keep.far(KEEP_DELAY, KEEP_RATE):
                turn.measure(READ, curl, bench, CURLS, "> /dev/null")
            return
        turn.contestant.forget_blocks()
        with turn.contestant.mounted(shows="large") as mount:
            bench.list_top(mount, bench.data.large.path)
            with bench.cluster.keep.far(KEEP_DELAY, KEEP_RATE):
                turn.measure(READ, read_large, bench, mount, 1)

    everybody = (OURS, CORE, PEER, LIMIT)
    return Scene("a large file far away", (READ,), plan, play, everybody, rounds=3)


def _files(bench: Bench) -> Scene:
    collection, count = bench.data.waiting, bench.sizes.waiting_reads

    def plan(turn: Turn) -> None:
        turn.plan(FILES, {"files": count})
        turn.plan(RANDOM, {"files": count})

    def play(turn: Turn) -> None:
        for row, measured in ((FILES, cat), (RANDOM, random)):
            if not turn.wants(row):
                continue
            turn.contestant.forget_blocks()
            with turn.contestant.mounted(shows="waiting") as mount:
                bench.list_top(mount, collection.path)
                with bench.cluster.keep.far(KEEP_DELAY, KEEP_RATE):
                    turn.measure(row, measured, mount, files=count)

    def cat(mount: Mount) -> float:
        script = 'cat "$1"/* > /dev/null'
        words = ("sh", "-c", script, "sh", collection.path)
        return timed(*words, cwd=mount.path, timeout=bench.timeout)

    def random(mount: Mount) -> float:
        script = 'sort -R --random-source="$2" "$2" | xargs cat > /dev/null'
        words = ("sh", "-c", script, "sh", collection.path, bench.data.list_of("waiting"))
        return count / timed(*words, cwd=mount.path, timeout=bench.timeout)

    return Scene("small files far away", (FILES, RANDOM), plan, play, (OURS, CORE, PEER), rounds=3)
