# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A cluster that is far away: each answer comes late, and no connection carries much."""

from ..mounts import Mount
from ..results import CORE, LIMIT, OURS, PEER, Row
from ..runner import Scene, Turn, command, timed
from .bench import Bench
from .reading import curl, read_large

WALK = Row("find_far", "`find` over a project where the API answers after 50 ms", "s")
WALK_ASKED = Row("find_far_requests", "requests to the API for that", "requests")
READ = Row(
    "read_far",
    "sequential read, blocks from a Keep 30 ms away, 60 MB/s a connection",
    "B/s",
    "eight `curl` side by side",
)
FILES = Row("cat_far", "`cat` of files with a block each from there, one after another", "s")
RANDOM = Row("random_far", "4 KiB reads of such files from there, in any order", "1/s")

#: How late answers come, in seconds: the API's, and those of Keep, which sends so many bytes a second on a
#: connection.
API_DELAY = 0.05
KEEP_DELAY, KEEP_RATE = 0.03, 60e6
#: Connections of the limit.
CURLS = 8


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_walk(bench), _read(bench), _files(bench)]


def _walk(bench: Bench) -> Scene:
    count = bench.sizes.walked
    top = f"by_id/{bench.data.walked}"

    def plan(turn: Turn) -> None:
        turn.plan(WALK, {"collections": count})
        turn.plan(WALK_ASKED, {"collections": count})

    def play(turn: Turn) -> None:
        with turn.contestant.mounted() as mount:
            command("stat", "by_id", cwd=mount.path, timeout=bench.timeout)
            with bench.cluster.counted() as asked, bench.cluster.far(API_DELAY):
                took = timed("find", top, cwd=mount.path, timeout=bench.timeout)
                mount.settle()
            bench.count(mount, top, count)
        turn.value(WALK, took, collections=count)
        turn.value(WALK_ASKED, float(asked.requests), collections=count)

    return Scene("a walk far away", (WALK, WALK_ASKED), plan, play, (OURS, PEER), rounds=3)


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
