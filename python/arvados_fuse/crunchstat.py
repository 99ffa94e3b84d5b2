# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Statistics, in the form that crunchstat-summary reads."""

import functools
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

#: A figure: its name, and a function that tells it.
Stat = namedtuple("Stat", ["name", "get"])

_SUMMARY = "arvmount_fuse_operations_seconds"


def _figure(name: str, value: Any) -> str:
    return f"{value:.6f} {name}" if isinstance(value, float) else f"{value} {name}"


def _write_to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


class StatWriter:
    """Writes a line for a group of figures: what they are, and by how much they grew. `write` takes
    the line, without its newline."""

    def __init__(
        self,
        prefix: str,
        interval: float,
        stats: Iterable[Stat],
        write: Callable[[str], object] = _write_to_stderr,
    ) -> None:
        self.prefix = prefix
        self.interval = interval
        self.stats = list(stats)
        self.write = write
        self.previous_stats: list[Any] = []
        self.update_previous_stats()

    def update_previous_stats(self) -> None:
        """Remember the figures as they are, to count from there."""
        self.previous_stats = [stat.get() for stat in self.stats]

    def update(self) -> None:
        """Write a line."""
        values = [stat.get() for stat in self.stats]
        now = [_figure(stat.name, value) for stat, value in zip(self.stats, values)]
        grown = [
            _figure(stat.name, value - before)
            for stat, value, before in zip(self.stats, values, self.previous_stats)
        ]
        self.write(
            "crunchstat: {} {} -- interval {:.4f} seconds {}".format(
                self.prefix, " ".join(now), self.interval, " ".join(grown)
            )
        )
        self.previous_stats = values


class _Operations:
    """The times of operations, read once for all lines of a report."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops
        self.read()

    def read(self) -> None:
        """Read them."""
        samples = self._ops.metric_samples()
        self._values = {(sample.name, sample.labels["op"]): sample.value for sample in samples}

    def count(self, op: str) -> int:
        """Return how often an operation was carried out."""
        return int(self._values.get((f"{_SUMMARY}_count", op), 0))

    def seconds(self, op: str) -> float:
        """Return how many seconds an operation took in all."""
        return float(self._values.get((f"{_SUMMARY}_sum", op), 0))


def _writers(
    interval: float, keep: Any, ops: Any, times: _Operations, write: Callable[[str], object]
) -> Iterable[StatWriter]:
    groups = {
        "keepcalls": {"put": keep.put_counter.get, "get": keep.get_counter.get},
        "net:keep0": {"tx": keep.upload_counter.get, "rx": keep.download_counter.get},
        "keepcache": {"hit": keep.hits_counter.get, "miss": keep.misses_counter.get},
        "blkio:0:0": {"write": ops.write_counter.get, "read": ops.read_counter.get},
        "fuseops": {"write": ops.write_ops_counter.get, "read": ops.read_ops_counter.get},
    }
    for name in ops.metric_op_names():
        groups["fuseop:" + name] = {
            "count": functools.partial(times.count, name),
            "time": functools.partial(times.seconds, name),
        }
    for prefix, figures in groups.items():
        stats = [Stat(name, get) for name, get in figures.items()]
        yield StatWriter(prefix, interval, stats, write)


def statlogger(
    interval: float, keep: Any, ops: Any, write: Callable[[str], object] = _write_to_stderr
) -> NoReturn:
    """Write all figures every `interval` seconds, for ever."""
    times = _Operations(ops)
    writers = list(_writers(interval, keep, ops, times, write))
    while True:
        time.sleep(interval)
        times.read()
        for writer in writers:
            writer.update()
