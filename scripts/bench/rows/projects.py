# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Projects that are listed and walked through, and an API that is far away: each answer comes late."""

import os

from ..mounts import Mount
from ..results import LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, Turn, command, timed
from .bench import Bench
from .saving import DELAY

PROJECT = Row("project", "listing a project", "s", "its pages alone, by `curl`")
PROJECT_FAR = Row("project_far", "listing a project where the API answers after 50 ms", "s")
WALK = Row("find_far", "`find` over a project where the API answers after 50 ms", "s")
WALK_ASKED = Row("find_far_requests", "requests to the API for that", "requests")


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_project(bench), _walk(bench)]


def _project(bench: Bench) -> Scene:
    count = bench.sizes.project

    def plan(turn: Turn) -> None:
        turn.plan(PROJECT, {"collections": count})
        if turn.name != LIMIT:
            turn.plan(PROJECT_FAR, {"collections": count})

    def play(turn: Turn) -> None:
        if turn.name == LIMIT:
            urls, options = bench.cluster.page_urls(bench.data.project)
            asked = [word for url in urls for word in ("-o", os.devnull, url)]
            words = ("curl", "-sSf", *options, *asked)
            turn.measure(PROJECT, run, None, *words, collections=count)
            return
        for row, delay in ((PROJECT, 0.0), (PROJECT_FAR, DELAY)):
            with turn.contestant.mounted() as mount, bench.cluster.far(delay):
                turn.measure(row, listed, mount, collections=count)

    def run(cwd: object, *words: object) -> float:
        return timed(*words, cwd=cwd, timeout=bench.timeout)

    def listed(mount: Mount) -> float:
        words = ("ls", f"by_id/{bench.data.project}")
        took = run(mount.path, *words)
        names = command(*words, cwd=mount.path, timeout=bench.timeout, output=True)
        if len(names.split("\n")) - 1 != count:
            raise Failed(f"{len(names.split()) - 1} names are listed, not {count}")
        return took

    everybody = (OURS, PEER, LIMIT)
    return Scene(f"listing {count:,} collections", (PROJECT, PROJECT_FAR), plan, play, everybody)


def _walk(bench: Bench) -> Scene:
    count = bench.sizes.walked
    top = f"by_id/{bench.data.walked}"

    def plan(turn: Turn) -> None:
        turn.plan(WALK, {"collections": count})
        turn.plan(WALK_ASKED, {"collections": count})

    def play(turn: Turn) -> None:
        with turn.contestant.mounted() as mount:
            command("stat", "by_id", cwd=mount.path, timeout=bench.timeout)
            with bench.cluster.counted() as asked, bench.cluster.far(DELAY):
                took = timed("find", top, cwd=mount.path, timeout=bench.timeout)
                mount.settle()
            bench.count(mount, top, count)
        turn.value(WALK, took, collections=count)
        turn.value(WALK_ASKED, float(asked.requests), collections=count)

    return Scene("a walk far away", (WALK, WALK_ASKED), plan, play, (OURS, PEER), rounds=3)
