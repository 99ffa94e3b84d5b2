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
from ..runner import Failed, Scene, Turn
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
        bench.ready(watch)
        body = {"collection": {"manifest_text": manifest_of_empty(name)}}
        start = time.perf_counter()
        api.collections().update(uuid=collection.uuid, body=body).execute()
        watch.stdout.readline()  # type: ignore[union-attr]
        took = time.perf_counter() - start
        bench.finish(watch, 10)
        return took

    return Scene("a change made elsewhere", (EDIT,), plan, play, (OURS, PEER))


def _stalled(bench: Bench) -> Scene:
    sizes, data, keep = bench.sizes, bench.data, bench.cluster.keep
    params = {q: {"reads": sizes.waiting_reads, "quantile": q} for q in ("p50", "p99")}

    def plan(turn: Turn) -> None:
        turn.plan(STALLED, *params.values())

    def play(turn: Turn) -> None:
        turn.contestant.forget_blocks()
        with turn.contestant.mounted() as mount:
            bench.list_top(mount, data.waiting.path)
            bench.count(mount, data.small.path, len(data.small.files))
            # Each stat is to ask the mount, which has what it needs for the answer.
            forget_names(mount)
            words = ("latency", "--seconds", sizes.stall_seconds, "--list", data.list_of("small"))
            asking = bench.start(mount, *words)
            bench.ready(asking)
            with contextlib.nullcontext() if turn.name == LIMIT else waiting(mount):
                found = latencies(asking)
        for quantile, each in params.items():
            turn.value(STALLED, found[quantile], **each)

    @contextlib.contextmanager
    def waiting(mount: Mount) -> Any:
        keep.stall(data.waiting.manifest.split()[1 : 1 + sizes.waiting_reads])
        readers = bench.start(mount, "hold", "--list", data.list_of("waiting"))
        bench.ready(readers)
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
            # Where all is being ended, the service may have ended first.
            with contextlib.suppress(OSError):
                keep.clear()
            readers.kill()
            readers.communicate(timeout=60)

    def latencies(asking: subprocess.Popen) -> dict[str, float]:
        """Stat one file after the other while the stall lasts; each is asked for once."""
        assert asking.stdin
        asking.stdin.write("go\n")
        asking.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            asking.wait(sizes.stall_seconds + 1)
        if asking.poll() is None:
            # One of them does not come back. It counts as it is: no less than the stall.
            keep.clear()
        return json.loads(bench.finish(asking, bench.timeout))

    return Scene("a stalled Keep service", (STALLED,), plan, play)
