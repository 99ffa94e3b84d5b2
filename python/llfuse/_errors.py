# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`FUSEError`: how a request handler says which errno a system call fails with."""

import operator
import os


class FUSEError(Exception):
    """Raised by a request handler: the system call fails with `errno` (1 to 4095)."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno_ = operator.index(errno)

    @property
    def errno(self) -> int:
        """The number that the system call fails with."""
        return self.errno_

    def __str__(self) -> str:
        return os.strerror(self.errno_)
