# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Log lines for what happens again and again: each is written once, then counted."""

from llfuse import _core


def report(message: str, level: str = "error", kind: str | None = None) -> None:
    """Write a line to the log of `arvados.arvados_fuse`, at level `error`, `warn`, `info` or `debug`.

    One of the same kind as another of the last minute is only counted, and told with the next. Without
    `kind`, lines are of one kind that differ in nothing but request ids, UUIDs and hashes.
    """
    _core.report(message, level, kind)
