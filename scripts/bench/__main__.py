# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Measure, print a table, write the report. See `scripts/bench.sh`, which sets up what this needs."""

import argparse
import datetime
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from . import compare, report, results
from .cluster import running
from .dataset import QUICK, DataSet, Sizes
from .machine import describe, revision, version
from .mounts import ArvMount, CoreMount, LimitMount
from .results import BEFORE, CORE, LIMIT, OURS, PEER, Recorder
from .rows import Bench, all_scenes
from .runner import Scene, run

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench"
PROGRAMS = ROOT / "target" / "release" / "examples"
#: Rounds of a run that may be published.
FULL_ROUNDS = 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Compare ours, its core, the peer, the limit."
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--rows", default="", help="only rows whose name has one of these words")
    parser.add_argument("--rounds", type=int, help="how often each is measured (5; quick: 3)")
    parser.add_argument("--timeout", type=float, help="seconds for a measurement (120; quick: 40)")
    parser.add_argument(
        "--before",
        action="store_true",
        help="with the earlier version in target/bench/before (BEFORE=path/to/its.whl)",
    )
    return parser


def _wanted(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _chosen(scenes: list[Scene], words: list[str]) -> set[str]:
    names = {row.name for scene in scenes for row in scene.rows}
    chosen = {name for name in names if not words or any(word in name for word in words)}
    for word in words:
        if not any(word in name for name in names):
            sys.exit(f"no row has {word!r} in its name; there are: {', '.join(sorted(names))}")
    return chosen


def measure(args: argparse.Namespace) -> tuple[list[results.Result], report.About]:
    """Run the whole comparison."""
    start = time.monotonic()
    sizes = QUICK if args.quick else Sizes()
    rounds = args.rounds or (3 if args.quick else FULL_ROUNDS)
    partial = args.quick or args.rows or args.before or rounds < FULL_ROUNDS
    about = report.About(
        date=datetime.date.today().isoformat(),
        machine=describe(),
        versions={
            OURS: f"{version(WORK / 'ours/bin/arv-mount')} ({revision()})",
            PEER: f"{version(WORK / 'peer/bin/arv-mount')}, with arvados-llfuse",
        },
        rounds=rounds,
        sizes=sizes,
        complete=not partial,
    )
    place = WORK / "run"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    # What the SDK writes for this process stays in the checkout as well.
    os.environ.update(HOME=str(place), TMPDIR=str(place))
    print("== making the data set", flush=True)
    data = DataSet(WORK / ("data-quick" if args.quick else "data"), sizes).build()
    recorder = Recorder()
    with running(place / "cluster", PROGRAMS / "bench-blocks", data) as cluster:
        contestants = [
            ArvMount(OURS, WORK / "ours", place, cluster.env),
            CoreMount(
                CORE,
                PROGRAMS / "mount-collection",
                f"http://127.0.0.1:{cluster.keep.port}/",
                data.parts(),
                place,
                cluster.env,
            ),
            ArvMount(PEER, WORK / "peer", place, cluster.env),
            LimitMount(LIMIT, PROGRAMS / "bench-limit", data.blocks, data.shown(), place),
        ]
        if args.before:
            contestants.insert(1, ArvMount(BEFORE, WORK / "before", place, cluster.env))
            about.versions[BEFORE] = version(WORK / "before/bin/arv-mount")
        timeout = args.timeout or (40 if args.quick else 120)
        bench = Bench(data, cluster, PROGRAMS / "bench-load", timeout)
        scenes = all_scenes(bench)
        chosen = _chosen(scenes, _wanted(args.rows))
        about.rows = {row.name: row for scene in scenes for row in scene.rows}

        def say(text: str) -> None:
            print(text, flush=True)

        run(scenes, contestants, about.rounds, recorder, chosen.__contains__, say)
    about.seconds = time.monotonic() - start
    found = recorder.results()
    if any(result.error for result in found):
        # What the mounts logged may tell why.
        print(f"\nThe logs of the mounts are in {(place / 'mounts').relative_to(ROOT)}.")
        for folder in ("home", "cluster"):
            shutil.rmtree(place / folder, ignore_errors=True)
    else:
        shutil.rmtree(place, ignore_errors=True)
    return found, about


def main() -> int:
    """Measure as the command line says; 1 where ours failed in a row."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, stop)
    args = _parser().parse_args()
    try:
        found, about = measure(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    results.save(WORK / "latest.json", found)
    print()
    print(report.table(found, about))
    if args.before:
        print("\nBefore and now:\n")
        print(compare.compare(found, found, (BEFORE, OURS)))
    # A part or a small size of it is not what the documentation shows.
    folder = ROOT / "docs" if about.complete else WORK
    for path in report.write(folder, found, about):
        print(f"wrote {path.relative_to(ROOT)}")
    print(f"wrote {(WORK / 'latest.json').relative_to(ROOT)}, after {about.seconds:.0f} s")
    return int(any(r.contestant == OURS and r.median is None for r in found))


if __name__ == "__main__":
    sys.exit(main())
