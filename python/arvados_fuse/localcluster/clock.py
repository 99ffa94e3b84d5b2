# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The cluster's clock, which may be wrong."""

import time

_ahead = 0.0


def now() -> float:
    """Return the time by the cluster's clock, in seconds since the epoch."""
    return time.time() + _ahead


def set_ahead(seconds: float) -> None:
    """Have the clock go so far ahead of this machine's, or behind where that is negative."""
    global _ahead
    _ahead = seconds
