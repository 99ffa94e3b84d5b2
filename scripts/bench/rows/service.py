# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How soon: starting up, seeing what changed elsewhere, answering while Keep does not."""

import contextlib
import json
import statistics
import subprocess
import time
from typing import Any

from ..dataset import manifest_of_empty
from ..mounts import Mount
from ..results import LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, TimedOut, Turn
from .bench import Bench
from .metadata import forget_names

STARTUP = Row("startup", "`arv-mount` until the mount answers", "s")
EDIT = Row("remote_edit", "from a change made elsewhere to its being seen", "s")
STALLED = Row(
    "stalled_stat", "a `stat` while reads wait for a stalled Keep service", "s", "no reads wait"
)

#: Seconds for a change to be seen: longer than the refresh time, which is 15.
SEEN_WITHIN = 40
#: Changes in a round.
EDITS = 3


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    return [_startup(bench), _edit(bench), _stalled(bench)]


def _startup(bench: Bench) -> Scene:
    def plan(turn: Turn) -> None:
        turn.plan(STARTUP)

    def play(turn: Turn) -> None:
        start = time.perf_counter()
        with turn.contestant.mounted():
            turn.value(STARTUP, time.perf_counter() - start)

    return Scene("starting up", (STARTUP,), plan, play, (OURS, PEER))


def _edit(bench: Bench) -> Scene:
    collection = bench.data.edited
    count = iter(range(1_000_000))

    def plan(turn: Turn) -> None:
        turn.plan(EDIT)

    def play(turn: Turn) -> None:
        api = bench.cluster.api()
        with turn.contestant.mounted() as mount:
            bench.list_top(mount, collection.path)
            # Not counted: the first shows that the mount listens by now.
            seen = [change(api, mount) for _ in range(1 + EDITS)]
            turn.value(EDIT, statistics.median(seen[1:]))

    def change(api: Any, mount: Mount) -> float:
        name = f"changed{next(count)}"
        words = ("watch", "--seconds", SEEN_WITHIN, f"{collection.path}/{name}")
        watch = bench.start(mount, *words)
        body = {"collection": {"manifest_text": manifest_of_empty(name)}}
        start = time.perf_counter()
        api.collections().update(uuid=collection.uuid, body=body).execute()
        assert watch.stdout
        line = watch.stdout.readline()
        took = time.perf_counter() - start
        _, reason = watch.communicate(timeout=10)
        if line != "seen\n":
            raise Failed(reason.strip())
        return took

    return Scene("a change made elsewhere", (EDIT,), plan, play, (OURS, PEER))


def _stalled(bench: Bench) -> Scene:
    sizes, data, keep = bench.sizes, bench.data, bench.cluster.keep
    params = [{"reads": sizes.waiting_reads, "quantile": q} for q in ("p50", "p99")]

    def plan(turn: Turn) -> None:
        turn.plan(STALLED, *params)

    def play(turn: Turn) -> None:
        turn.contestant.forget_blocks()
        with turn.contestant.mounted() as mount:
            bench.list_top(mount, data.waiting.path)
            bench.count(mount, data.small.path, len(data.small.files))
            # Each stat is to ask the mount, which has what it needs for the answer.
            forget_names(mount)
            if turn.name == LIMIT:
                found = latencies(mount)
            else:
                with waiting(mount):
                    found = latencies(mount)
        for each in params:
            turn.value(STALLED, found[each["quantile"]], **each)

    @contextlib.contextmanager
    def waiting(mount: Mount) -> Any:
        keep.stall(data.waiting.manifest.split()[1 : 1 + sizes.waiting_reads])
        readers = bench.start(mount, "hold", "--list", data.list_of("waiting"))
        try:
            # Some mounts let fewer through than there are: those that wait do so in the kernel.
            deadline = time.monotonic() + 2
            while keep.control("stats")["waiting"] < sizes.waiting_reads:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            if not keep.control("stats")["waiting"]:
                raise Failed("no read waits for the stalled Keep service")
            yield
        finally:
            keep.clear()
            readers.kill()
            readers.communicate(timeout=60)

    def latencies(mount: Mount) -> dict[str, float]:
        """Stat one file after the other while the stall lasts; each is asked for once."""
        words = ["latency", "--seconds", sizes.stall_seconds, "--list", data.list_of("small")]
        asking = subprocess.Popen(
            [str(bench.program), *map(str, words)],
            cwd=mount.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            printed, reason = asking.communicate(timeout=sizes.stall_seconds + 1)
        except subprocess.TimeoutExpired:
            # One of them does not come back. It counts as it is: no less than the stall.
            keep.clear()
            try:
                printed, reason = asking.communicate(timeout=bench.timeout)
            except subprocess.TimeoutExpired:
                asking.kill()
                asking.communicate()
                raise TimedOut(f"a stat took longer than {bench.timeout:.0f} s") from None
        if asking.returncode:
            raise Failed(reason.strip())
        return json.loads(printed)

    return Scene("a stalled Keep service", (STALLED,), plan, play)
