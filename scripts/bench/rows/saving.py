# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Collections that are written to, and saved: files that are closed, copied, rewritten."""

import statistics
import time

from ..cluster import Asked
from ..mounts import Mount
from ..results import LIMIT, OURS, PEER, Row
from ..runner import Failed, Scene, Turn, command, timed
from .bench import Bench
from .writing import IN_COLLECTIONS

CLOSE = Row("close", "closing small files in a collection", "1/s")
LATER = Row("close_later", "the same; ours with `--save-after 5`", "1/s")
FAR = Row("close_far", "closing small files where the API answers after 50 ms", "s")
FAR_ASKED = Row("close_far_requests", "requests to the API for that", "requests")
FAR_LATER = Row("close_far_later", f"{FAR.title}; ours with `--save-after 5`", "s")
FAR_LATER_ASKED = Row(
    "close_far_later_requests", "requests to the API for that, until all is saved", "requests"
)
CLOSE_CPU = Row(
    "close_in_cpu", "processor time of the mount for one more file in a collection", "s"
)
CLOSE_SENT = Row("close_in_sent", "sent to the API for it", "B")

COPY = Row("copy", "`cp -r` of small files into a collection", "1/s", "data is dropped")
COPY_LATER = Row("copy_later", "the same; ours with `--save-after 5`", "1/s", "data is dropped")

REWRITE = Row("rewrite", "rewriting 4 KiB of a file of 1 GiB, until fsync returns", "s")
REWRITE_SENT = Row("rewrite_sent", "sent to Keep for it", "B")

SAVE_AFTER = ("--save-after", "5")
#: Seconds within which what is saved later is saved.
SAVED_WITHIN = 60.0
#: How late the API answers where it is far away, in seconds.
DELAY = 0.05
#: How many files the peer closes in collections of so many files together: it takes seconds for one.
PEER_CLOSES = 50_000
#: Size of the file that is rewritten, and of what is written, in bytes; how often.
REWRITTEN = 1 << 30
PIECE = 4096
REWRITES = 3


def scenes(bench: Bench) -> list[Scene]:
    """Return the scenes of this theme."""
    sizes = bench.sizes.closed_in
    return [
        _near(bench),
        _far(bench),
        *(_one_more(bench, n) for n in sizes),
        _copy(bench),
        _rewrite(bench),
    ]


def ready(bench: Bench, mount: Mount, uuid: str) -> str:
    """Return where a collection is, when it is loaded and what is made once for a mount is made."""
    folder = f"by_id/{uuid}"
    command("mkdir", f"{folder}/first", cwd=mount.path, timeout=bench.timeout)
    bench.load(mount, "create", "--count", 1, f"{folder}/first")
    return folder


def _see_saved(bench: Bench, uuid: str, expected: int, asked: Asked | None = None) -> None:
    """Wait until a record has so many files; raises Failed where it does not come to that."""
    deadline = time.monotonic() + SAVED_WITHIN
    while True:
        found = bench.cluster.saved(uuid)["file_count"]
        if asked:
            asked.own += 1
        if found == expected:
            return
        if found > expected or time.monotonic() > deadline:
            raise Failed(f"of {expected} files {found} are saved")
        time.sleep(0.1)


def _see_all_saved(bench: Bench, uuid: str, expected: int) -> None:
    """See that a record has so many files by now."""
    found = bench.cluster.saved(uuid)["file_count"]
    if found != expected:
        raise Failed(f"of {expected} files {found} are saved")


# Files that are closed


def _near(bench: Bench) -> Scene:
    count = bench.sizes.closes

    def plan(turn: Turn) -> None:
        turn.plan(CLOSE, {"files": count})
        turn.plan(LATER, {"files": count})

    def play(turn: Turn) -> None:
        for row, options in ((CLOSE, ()), (LATER, SAVE_AFTER)):
            if turn.wants(row):
                uuid = bench.cluster.new_collection()
                options = options if turn.name == OURS else ()
                with turn.contestant.mounted(*IN_COLLECTIONS, *options) as mount:
                    turn.measure(row, close, mount, uuid, bool(options), files=count)

    def close(mount: Mount, uuid: str, later: bool) -> float:
        folder = ready(bench, mount, uuid)
        took = bench.load(mount, "create", "--count", count, folder)["seconds"]
        (_see_saved if later else _see_all_saved)(bench, uuid, 1 + count)
        return count / took

    return Scene("closing files", (CLOSE, LATER), plan, play, (OURS, PEER))


def _far(bench: Bench) -> Scene:
    count = bench.sizes.far_closes
    ways = ((FAR, FAR_ASKED, ()), (FAR_LATER, FAR_LATER_ASKED, SAVE_AFTER))
    rows = tuple(row for *pair, _ in ways for row in pair)

    def plan(turn: Turn) -> None:
        for row in rows:
            turn.plan(row, {"files": count})

    def play(turn: Turn) -> None:
        found = None
        for time_row, asked_row, options in ways:
            if not turn.wants(time_row, asked_row):
                continue
            # The release has no such option: beside it stands what it does without.
            found = close(turn, options) if turn.name == OURS else found or close(turn, ())
            took, requests = found
            turn.value(time_row, took, files=count)
            turn.value(asked_row, requests, files=count)

    def close(turn: Turn, options: tuple[str, ...]) -> tuple[float, float]:
        """Close files; return the seconds until the last was closed, and requests until all is saved."""
        cluster = bench.cluster
        uuid = cluster.new_collection()
        with turn.contestant.mounted(*IN_COLLECTIONS, *options) as mount:
            folder = ready(bench, mount, uuid)
            if options:
                # That is saved as well, and not to be counted.
                _see_saved(bench, uuid, 1)
            with cluster.counted() as asked, cluster.far(DELAY):
                took = bench.load(mount, "create", "--count", count, folder)["seconds"]
                if options:
                    _see_saved(bench, uuid, 1 + count, asked)
                mount.settle()
            _see_all_saved(bench, uuid, 1 + count)
        return took, float(asked.requests)

    return Scene("closing files far away", rows, plan, play, (OURS, PEER), rounds=3)


def _one_more(bench: Bench, files: int) -> Scene:
    manifest = bench.data.closed_in[files].manifest

    def plan(turn: Turn) -> None:
        turn.plan(CLOSE_CPU, {"files": files})
        turn.plan(CLOSE_SENT, {"files": files})

    def play(turn: Turn) -> None:
        count = bench.sizes.closes_in
        if turn.name == PEER:
            count = max(1, min(count, PEER_CLOSES // files))
        uuid = bench.cluster.new_collection(manifest)
        with turn.contestant.mounted(*IN_COLLECTIONS) as mount:
            folder = ready(bench, mount, uuid)
            before = mount.processor()
            with bench.cluster.counted() as asked:
                bench.load(mount, "create", "--count", count, folder)
                used = mount.processor() - before
            _see_all_saved(bench, uuid, files + 1 + count)
        turn.value(CLOSE_CPU, used / count, files=files)
        turn.value(CLOSE_SENT, asked.sent / count, files=files)

    name = f"closing one more of {files:,} files"
    return Scene(name, (CLOSE_CPU, CLOSE_SENT), plan, play, (OURS, PEER), rounds=2)


# Files that are copied


def _copy(bench: Bench) -> Scene:
    files = bench.sizes.copied

    def plan(turn: Turn) -> None:
        for row in (COPY, COPY_LATER):
            turn.plan(row, {"files": files})

    def play(turn: Turn) -> None:
        found = None
        for row, options in ((COPY, ()), (COPY_LATER, SAVE_AFTER)):
            if not turn.wants(row):
                continue
            if turn.name == OURS:
                found = copy(turn, files, options)
            else:
                found = found or copy(turn, bench.sizes.copied_by_peer, ())
            turn.value(row, found, files=files)

    def copy(turn: Turn, count: int, options: tuple[str, ...]) -> float:
        """Return how many files a second are copied."""
        if turn.name == LIMIT:
            with turn.contestant.mounted() as mount:
                return files / run(mount, files, "tmp")
        uuid = bench.cluster.new_collection()
        with turn.contestant.mounted(*IN_COLLECTIONS, *options) as mount:
            took = run(mount, count, ready(bench, mount, uuid))
            (_see_saved if options else _see_all_saved)(bench, uuid, 1 + count)
            return count / took

    def run(mount: Mount, count: int, to: str) -> float:
        words = ("cp", "-r", f"{bench.data.files(count)}/.", f"{to}/")
        return timed(*words, cwd=mount.path, timeout=bench.timeout)

    return Scene("copying files", (COPY, COPY_LATER), plan, play, rounds=2)


# A file that is rewritten


def _rewrite(bench: Bench) -> Scene:
    manifest = bench.data.repeated(REWRITTEN)

    def plan(turn: Turn) -> None:
        turn.plan(REWRITE)
        turn.plan(REWRITE_SENT)

    def play(turn: Turn) -> None:
        uuid = bench.cluster.new_collection(manifest)
        with turn.contestant.mounted(*IN_COLLECTIONS) as mount:
            folder = ready(bench, mount, uuid)
            done = [
                write(mount, f"{folder}/large.bin", 3 + 7919 * n) for n in range(1, 1 + REWRITES)
            ]
        if bench.cluster.saved(uuid)["file_size_total"] != REWRITTEN + PIECE:
            raise Failed("the file has another size in the record")
        turn.value(REWRITE, statistics.median(took for took, _ in done))
        turn.value(REWRITE_SENT, float(max(sent for _, sent in done)))

    def write(mount: Mount, path: str, page: int) -> tuple[float, int]:
        before = bench.cluster.keep.control("stats")["put_bytes"]
        words = ("dd", "if=/dev/urandom", f"of={path}", f"bs={PIECE}", "count=1", f"seek={page}")
        options = ("conv=notrunc,fsync", "status=none")
        took = timed(*words, *options, cwd=mount.path, timeout=bench.timeout)
        sent = bench.cluster.keep.control("stats")["put_bytes"] - before
        if sent < PIECE:
            raise Failed(f"{sent} bytes are in Keep when fsync returns")
        return took, sent

    return Scene("rewriting", (REWRITE, REWRITE_SENT), plan, play, (OURS, PEER), rounds=3)
