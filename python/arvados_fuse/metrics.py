# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The Prometheus metrics of mounts. Imported when somebody asks for one: see `timed`.

Everything here reads the core's registry of metrics, whose table has their names and units.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from llfuse import _core
from prometheus_client import REGISTRY, Summary
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from .timed_operations import OPERATIONS

_NAME = "arvmount_fuse_operations_seconds"
_BUCKETS_NAME = "arvmount_fuse_operations_latency_seconds"


class _Total:
    """One of a Summary's two numbers."""

    def __init__(self, get: Callable[[], float]) -> None:
        self.get = get


class OperationTime(Summary):
    """A Summary whose numbers are the registry's, and which counts there.

    An operation that the registry does not have is counted here.
    """

    def _op(self) -> str | None:
        op = self._labelvalues[0] if self._labelvalues else None
        return op if op in _core.OPERATIONS else None

    def _metric_init(self) -> None:
        super()._metric_init()
        op = self._op()
        if op is not None:
            self._count: Any = _Total(lambda: float(_core.operation_time(op)[0]))
            self._sum: Any = _Total(lambda: _core.operation_time(op)[1])

    def observe(self, amount: float) -> None:
        """Count an operation that took `amount` seconds."""
        op = self._op()
        if op is None:
            super().observe(amount)
        else:
            _core.observe(op, amount)


#: Seconds that the operations of all mounts of the process took.
fuse_time = OperationTime(_NAME, "Time spent during FUSE operations", labelnames=["op"])
for _op in OPERATIONS:
    fuse_time.labels(op=_op)


def _buckets(help_text: str, by_op: dict[str, tuple[int, float, list[int]]]) -> Metric:
    family = HistogramMetricFamily(_BUCKETS_NAME, help_text, labels=["op"])
    bounds = [*(f"{bound:g}" for bound in _core.HISTOGRAM_BOUNDS), "+Inf"]
    for op, (count, seconds, buckets) in by_op.items():
        if count:
            up_to = zip(bounds, itertools.accumulate(buckets))
            family.add_metric([op], list(up_to), sum_value=seconds)
    return family


class RegistryCollector:
    """Shows Prometheus what the registry has beside the Summary: numbers, and the buckets."""

    def collect(self) -> Iterable[Metric]:
        """Return the totals of the process."""
        totals = _core.metrics_snapshot()
        for name, kind, _unit, help_text in _core.METRICS:
            value = totals[name]
            if kind == "counter":
                yield CounterMetricFamily(name, help_text, value=value)
            elif kind == "gauge":
                yield GaugeMetricFamily(name, help_text, value=value)
            else:
                yield _buckets(help_text, value)


REGISTRY.register(RegistryCollector())
