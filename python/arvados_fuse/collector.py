# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Python's garbage collector, which looks through everything that the libraries made on import.

There are some 75,000 objects, and hardly any garbage among them: looking for it takes a sixth of the
time that importing takes, and later longer than all else that a large listing needs.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Let the collector rest, and take what was made meanwhile for old."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # All that there is becomes the oldest generation, without being looked at.
            gc.freeze()
            gc.unfreeze()
        if collecting:
            gc.enable()


def spare() -> None:
    """Have the collector pass over what is there by now, and come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
