# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The Prometheus metrics of mounts. Imported when somebody asks for one: see `timed`."""

from typing import Any

from llfuse import _core
from prometheus_client import Summary

from .call_times import TIMES
from .watched import WatchedType


class OperationTime(Summary):
    """A Summary of what handlers took, and the core where it answered without them."""

    def _children(self) -> Any:
        return self._metrics.items()

    def collect(self) -> Any:
        mounted = [o for o in list(WatchedType.live) if isinstance(o, _core.Operations)]
        for (op,), child in list(self._children()):
            taken = [operations._take_metric(op) for operations in mounted]
            if op in TIMES:
                taken.append(TIMES[op].take())
            for count, seconds in taken:
                if count:
                    child._count.inc(count)
                    child._sum.inc(seconds)
        return super().collect()


#: Seconds that the operations of all mounts of the process took.
fuse_time = OperationTime(
    "arvmount_fuse_operations_seconds", "Time spent during FUSE operations", labelnames=["op"]
)
for _op in TIMES:
    fuse_time.labels(op=_op)
