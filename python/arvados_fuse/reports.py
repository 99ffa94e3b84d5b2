# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Which exceptions tell of a server or the network, and the one line that the log gets of them.

Libraries have errnos of their own (`ssl.SSLError` 1, `socket.gaierror` -2), and those of a socket say
nothing about a file: to a program on the mount, whatever happened on the way to a server is EIO.
"""

import errno
import sys
from collections.abc import Iterator

import arvados
import arvados.errors
from llfuse import _core

from arvados_fuse.apierrors import explain

#: Errnos of connections, which no file has.
_NETWORK = {
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EADDRNOTAVAIL,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.EPROTO,
    errno.ETIMEDOUT,
}

#: What libraries raise for the same; a library that nobody imported raises nothing.
_CLASSES = [
    ("arvados.errors", "HttpError"),
    ("arvados.errors", "KeepRequestError"),
    ("arvados.errors", "NoKeepServersError"),
    ("google.auth.exceptions", "TransportError"),
    ("googleapiclient.errors", "Error"),
    ("http.client", "HTTPException"),
    ("httplib2.error", "HttpLib2Error"),
    ("pycurl", "error"),
    ("requests.exceptions", "RequestException"),
    ("socket", "gaierror"),
    ("socket", "herror"),
    ("ssl", "SSLError"),
    ("urllib3.exceptions", "HTTPError"),
]


def _classes() -> Iterator[type]:
    for module, name in _CLASSES:
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type):
            yield found


def is_server_fault(error: BaseException) -> bool:
    """Return whether an exception tells of a server or the network, not of a file or a defect."""
    if isinstance(error, (ConnectionError, TimeoutError, *_classes())):
        return True
    return isinstance(error, OSError) and error.errno in _NETWORK


def line_of(error: BaseException) -> str | None:
    """Return what the log is to say of an exception that tells of a server or the network, or None for
    any other."""
    if not is_server_fault(error):
        return None
    text = " ".join(explain(error).split())
    host = arvados.config.get("ARVADOS_API_HOST")
    # The errors of Keep name its services.
    if not host or host in text or isinstance(error, arvados.errors.KeepRequestError):
        return text
    return f"the API at {host}: {text}"


def report(message: str, level: str = "error") -> None:
    """Write a line to the log of `arvados.arvados_fuse`; one like another of the last minute is only
    counted, and told with the next."""
    _core.report(message, level)
