# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Python's garbage collector, which looks through everything that the libraries made on import.

There are some 50,000 objects, and hardly any garbage among them: looking for it takes a tenth of the
time that importing takes, and later longer than all else that a large listing needs.
"""

import contextlib
import gc
from collections.abc import Iterator

#: New objects after which the collector looks for garbage among them, while there are many.
_MANY = 20_000


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Have the collector come less often."""
    before = gc.get_threshold()
    # Zero: the program wants no collector at all.
    if before[0]:
        gc.set_threshold(max(_MANY, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def spare() -> None:
    """Have the collector pass over what is there by now, and come less often.

    Garbage that is there stays: there is hardly any, see above.
    """
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
