# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The registry of metrics: every reader sees every request, and each request counts once."""

import gc
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import arvados_fuse
import llfuse
import prometheus_client
import pytest
from arvados_fuse import crunchstat
from conftest import ROOT
from entries_2017 import Writable
from inprocess import add, directory, mounted
from llfuse import _core

NAME = "arvmount_fuse_operations_seconds"


def exported(sample: str) -> float:
    """Return a sample of what the process shows to Prometheus."""
    text = prometheus_client.generate_latest().decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.split()[-1])


def on_prometheus(op: str) -> int:
    return int(exported(f'{NAME}_count{{op="{op}"}}'))


def on_the_class(op: str) -> int:
    return int(getattr(arvados_fuse.Operations, f"{op}_time")._count.get())


def in_a_snapshot(op: str) -> int:
    return int(_core.metrics_snapshot()[NAME][op][0])


def look_for_nothing(path: Path, times: int) -> None:
    """Have the kernel look up names that are not there, which it does not remember."""
    for number in range(times):
        with pytest.raises(FileNotFoundError):
            os.stat(path / f"nothing{number}")


def test_every_reader_sees_every_request(tmp_path: Path) -> None:
    readers: list[Callable[[str], int]] = [on_the_class, on_prometheus, in_a_snapshot]
    with mounted(tmp_path / "mnt", directory) as operations:
        written: list[str] = []
        counted = crunchstat.Stat("count", operations.metric_count_func("lookup"))
        writer = crunchstat.StatWriter("fuseop:lookup", 1, [counted], written.append)
        before = [reader("lookup") for reader in readers]
        assert len(set(before)) == 1
        for round_ in range(1, 6):
            look_for_nothing(tmp_path / "mnt", round_)
            done = before[0] + round_ * (round_ + 1) // 2
            # Each comes first once.
            readers = [*readers[1:], readers[0]]
            assert [reader("lookup") for reader in readers] == [done] * 3
            writer.update()
            assert written[-1].endswith(f" {done} count -- interval 1.0000 seconds {round_} count")
            assert [reader("lookup") for reader in readers] == [done] * 3


def test_readers_at_the_same_time_see_every_request(tmp_path: Path) -> None:
    total = 300
    with mounted(tmp_path / "mnt", directory) as operations:
        before = operations.metric_count_func("lookup")()
        ended = threading.Event()
        seen: list[list[int]] = [[], []]

        def read(numbers: list[int], get: Callable[[], int]) -> None:
            while not ended.is_set():
                numbers.append(get())

        gets = (operations.metric_count_func("lookup"), lambda: on_prometheus("lookup"))
        threads = [threading.Thread(target=read, args=args) for args in zip(seen, gets)]
        for thread in threads:
            thread.start()
        look_for_nothing(tmp_path / "mnt", total)
        ended.set()
        for thread in threads:
            thread.join()
        for numbers in seen:
            assert numbers == sorted(numbers)
        assert [get() for get in gets] == [before + total] * 2


def test_what_a_mount_counted_outlives_it(tmp_path: Path) -> None:
    before = on_prometheus("lookup")
    with mounted(tmp_path / "mnt", directory) as operations:
        look_for_nothing(tmp_path / "mnt", 3)
    del operations
    gc.collect()
    assert on_prometheus("lookup") == before + 3


class Overriding(arvados_fuse.Operations):
    """Answers some lookups itself, and asks others of what it stands on."""

    def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
        if name.startswith(b"nothing"):
            raise llfuse.FUSEError(2)
        if name == b"twice":
            super().lookup(parent_inode, b"f", ctx)
        return super().lookup(parent_inode, b"f", ctx)

    # As users decorate their own.
    @arvados_fuse.Operations.statfs_time.time()
    def statfs(self, ctx: Any = None) -> Any:
        return super().statfs(ctx)


def test_a_request_counts_once_whichever_way_it_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    with mounted(path, directory, kind=Overriding) as operations:
        add(operations, operations.inodes[1], "f", Writable(1))
        lookups, statfs = in_a_snapshot("lookup"), in_a_snapshot("statfs")
        look_for_nothing(path, 3)
        assert on_prometheus("lookup") == in_a_snapshot("lookup") == lookups + 3
        os.stat(path / "once")
        os.stat(path / "twice")
        assert on_prometheus("lookup") == in_a_snapshot("lookup") == lookups + 5
        os.statvfs(path)
        assert on_prometheus("statfs") == in_a_snapshot("statfs") == statfs + 1
        # Called by no request.
        operations.statfs()
        assert in_a_snapshot("statfs") == statfs + 3


def test_times_are_in_buckets(tmp_path: Path) -> None:
    bounds = _core.HISTOGRAM_BOUNDS
    assert list(bounds) == [2**power / 1e9 for power in range(8, 37)]
    count, seconds, buckets = _core.metrics_snapshot()[NAME]["on_event"]
    for taken in (0.001, 0.001, 1e6, -1.0):
        arvados_fuse.Operations.on_event_time.observe(taken)
    after = _core.metrics_snapshot()[NAME]["on_event"]
    assert after[0] - count == 4 and after[1] - seconds == pytest.approx(1_000_000.002)
    grown = [new - old for new, old in zip(after[2], buckets)]
    assert len(grown) == len(bounds) + 1 and sum(grown) == 4
    # 1 ms is no longer than 2^20 ns.
    assert (grown[0], grown[20 - 8], grown[-1]) == (1, 2, 1)
    assert _core.operation_time("on_event") == after[:2]
    longest = exported(
        f'{NAME.replace("seconds", "latency_seconds")}_bucket{{le="+Inf",op="on_event"}}'
    )
    assert longest == after[0]
    with pytest.raises(ValueError, match='no operation "no_such"'):
        _core.observe("no_such", 1.0)


def test_a_handlers_time_is_its_requests(tmp_path: Path) -> None:
    class Slow(Writable):
        def readfrom(self, off: int, size: int, num_retries: int = 0) -> bytes:
            time.sleep(0.2)
            return b"text"[off : off + size]

        def size(self) -> int:
            return 4

    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "f", Slow(1))
        _, before = _core.operation_time("read")
        assert (tmp_path / "mnt" / "f").read_bytes() == b"text"
        assert _core.operation_time("read")[1] - before >= 0.2


def test_prometheus_shows_what_is_in_the_table(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", directory) as operations:
        add(operations, operations.inodes[1], "f", Writable(1))
        before = exported("arvmount_reads_total")
        (tmp_path / "mnt" / "f").read_bytes()
        os.listdir(tmp_path / "mnt")
        text = prometheus_client.generate_latest().decode()
        assert exported("arvmount_reads_total") >= before
        for name, kind, _, help_text in _core.METRICS:
            shown = "summary" if kind == "histogram" else kind
            assert f"# HELP {name} {help_text}\n# TYPE {name} {shown}\n" in text


def test_an_operation_that_the_registry_does_not_have() -> None:
    own = arvados_fuse.Operations.fuse_time.labels(op="of my own")
    own.observe(2.0)
    with own.time():
        pass
    assert own._count.get() == 2 and own._sum.get() >= 2
    assert "of my own" not in _core.OPERATIONS
    assert on_prometheus("of my own") == 2


def test_the_documentation_lists_every_metric() -> None:
    rows = re.findall(
        r"^\| `(arvmount_\w+)` \| (\w+) \| (\w+) \| ([^|]+) \|$",
        (ROOT / "docs" / "metrics.md").read_text(),
        re.M,
    )
    assert rows == [tuple(row) for row in _core.METRICS]


def test_crunchstat_and_prometheus_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    fed = mock.MagicMock()
    for name in ("put", "get", "upload", "download", "hits", "misses"):
        getattr(fed, f"{name}_counter").get.return_value = 0
    with mounted(tmp_path / "mnt", directory) as operations:
        before = on_prometheus("lookup")
        rounds = iter([3, 5, 2])

        def interval(_seconds: float) -> None:
            missing = next(rounds, None)
            if missing is None:
                raise KeyboardInterrupt
            look_for_nothing(tmp_path / "mnt", missing)
            totals.append(on_prometheus("lookup"))

        totals: list[int] = []
        monkeypatch.setattr(crunchstat.time, "sleep", interval)
        with pytest.raises(KeyboardInterrupt):
            crunchstat.statlogger(1, fed, operations, written.append)
    assert totals == [before + 3, before + 8, before + 10]
    lines = [line for line in written if line.startswith("crunchstat: fuseop:lookup ")]
    line = re.compile(r"crunchstat: fuseop:lookup (\d+) count .* seconds (\d+) count ")
    counted = [tuple(map(int, line.match(text).groups())) for text in lines]  # type: ignore[union-attr]
    assert counted == list(zip(totals, [3, 5, 2]))
