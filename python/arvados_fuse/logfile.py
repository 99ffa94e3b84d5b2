# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A log file that is opened again when somebody has moved it away, as logrotate does."""

import logging
from collections.abc import Iterable


def reopen(handlers: Iterable[logging.Handler]) -> None:
    """Have the handlers among these that write to a file open it again, under the name it had."""
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            handler.acquire()
            try:
                if handler.stream is not None:
                    handler.stream.close()
                handler.stream = handler._open()
            finally:
                handler.release()
