# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Names and attributes: ls, find, stat."""

from ..machine import drop_caches
from ..mounts import Mount
from ..results import CORE, LIMIT, OURS, PEER, Row
from ..runner import Scene, Turn, timed
from .bench import Bench

LS_COLD = Row("ls_cold", "`ls -lR`, kernel caches dropped", "s")
LS_WARM = Row("ls_warm", "`ls -lR`, kernel caches warm", "s")
FIND = Row("find", "`find`, kernel caches warm", "s")
STAT = Row("stat", "`stat` of every file, kernel caches dropped", "1/s")

PROCESSES = (1, 4, 8)
EVERYBODY = (OURS, CORE, PEER, LIMIT)


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    data = bench.data
    top = data.small.path

    def plan(turn: Turn) -> None:
        for row in (LS_COLD, LS_WARM, FIND):
            turn.plan(row)
        turn.plan(STAT, *({"processes": n} for n in PROCESSES))

    def play(turn: Turn) -> None:
        with turn.contestant.mounted() as mount:
            bench.count(mount, top, len(data.small.files))

            def run(*words: object) -> float:
                return timed(*words, cwd=mount.path, timeout=bench.timeout)

            forget_names(mount)
            turn.measure(LS_COLD, run, "ls", "-lR", top)
            if turn.wants(LS_WARM, FIND):
                run("ls", "-lR", top)
            turn.measure(LS_WARM, run, "ls", "-lR", top)
            turn.measure(FIND, run, "find", top)
            for processes in PROCESSES if turn.wants(STAT) else ():
                forget_names(mount)
                turn.measure(STAT, stat, mount, processes, processes=processes)

    def stat(mount: Mount, processes: int) -> float:
        words = ("stat", "--procs", processes, "--list", data.list_of("small"))
        done = bench.load(mount, *words)
        return done["ops"] / done["seconds"]

    return [Scene("names and attributes", (LS_COLD, LS_WARM, FIND, STAT), plan, play, EVERYBODY)]


def forget_names(mount: Mount) -> None:
    """Have the kernel forget names and attributes, and the mount learn of it."""
    drop_caches(3)
    mount.settle()
