# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How many files a mount may have open: its file cache has one for each block."""

import logging
import resource

#: The largest block, in bytes.
_BLOCK = 64 << 20


def allow_open_files(file_cache: int, logger: logging.Logger) -> None:
    """Allow as many open files as a file cache of so many bytes may need: it uses an eighth of the limit.

    0 bytes: of the usual size. What cannot be allowed is logged.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 10240
        if file_cache:
            wanted = int((file_cache / _BLOCK) * 8)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        if wanted > hard:
            logger.warning(
                "a file cache of that size needs %s open files, but only %s are allowed: "
                "it will be smaller",
                wanted,
                hard,
            )
    except Exception as error:
        logger.warning("unable to adjust the limit of open files: %s", error)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    logger.info(
        "file cache holds at most %s bytes (RLIMIT_NOFILE is %s)", (limit[0] // 8) * _BLOCK, limit
    )
