# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""How many copies of a block a cluster keeps."""

import logging
from typing import Any

_logger = logging.getLogger("arvados.arvados_fuse")

#: Copies of each block, where neither the cluster nor the collection says.
_REPLICAS = 2


def default_replication(api: Any) -> int:
    """Return the number of copies that a cluster keeps where nobody says otherwise."""
    try:
        return int(api._rootDesc["defaultCollectionReplication"])
    except Exception as error:
        _logger.debug("no defaultCollectionReplication in the discovery document: %s", error)
        return _REPLICAS
