# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The lines of source files that Python keeps for tracebacks.

A library that looks, on import, at where it is called from (pyparsing does, a thousand times) has all of
its source read and kept: 6,000 strings that nobody shows.
"""

import contextlib
import linecache
from collections.abc import Iterator


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """Have the lines that are read meanwhile forgotten: a traceback that shows them reads them again."""
    before = set(linecache.cache)
    try:
        yield
    finally:
        for path in linecache.cache.keys() - before:
            linecache.cache.pop(path, None)
