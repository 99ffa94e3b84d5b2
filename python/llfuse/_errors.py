# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`FUSEError`: how a request handler says which errno a system call fails with."""

import operator
import os
from typing import Any


class FUSEError(Exception):
    """Raised by a request handler: the system call fails with `errno` (1 to 4095)."""

    _number: int

    def __new__(cls, errno: int, *more: Any) -> "FUSEError":
        # Here and not in `__init__`, which a class derived from this one may have for itself.
        error = super().__new__(cls, errno, *more)
        error._number = operator.index(errno)
        return error

    @property
    def errno(self) -> int:
        """The number that the system call fails with."""
        return self._number

    @property
    def errno_(self) -> int:
        """The same, under the name that llfuse documents."""
        return self._number

    def __str__(self) -> str:
        return os.strerror(self._number)
