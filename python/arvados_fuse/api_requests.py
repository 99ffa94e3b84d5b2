# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What requests of a mount to the API have in common, whichever client makes them."""

import logging
from typing import Any

_logger = logging.getLogger("arvados.arvados_fuse")

#: How long to wait for the answer to a request in all, in seconds, unless told otherwise.
DEFAULT_TIMEOUT = 60.0

#: In the headers of a request that changes a record: the portable data hash that this has to have where
#: the request is made once more. The API knows no such header and is not sent it.
IF_HASH = "X-If-Portable-Data-Hash"


def takes(api: Any, resource: str, method: str, *parameters: str) -> bool:
    """Return whether a method of the cluster's API has these parameters, by its discovery document."""
    try:
        known = api._rootDesc["resources"][resource]["methods"][method]["parameters"]
        return all(parameter in known for parameter in parameters)
    except (AttributeError, KeyError, TypeError) as error:
        _logger.debug("nothing of %s.%s in the discovery document: %s", resource, method, error)
        return False


def is_ours(api: Any) -> bool:
    """Return whether a client is one that is made for a mount, which knows `IF_HASH`."""
    return getattr(type(api), "makes_updates_once", False) is True
