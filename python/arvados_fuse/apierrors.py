# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What an exception of the SDK means to a file system.

Libraries have errnos of their own (`ssl.SSLError` 1, `socket.gaierror` -2), and those of a socket say
nothing about a file: to a program on the mount, whatever happened on the way to a server is EIO.

An API or Keep server that fails must not look like one that has nothing: only a definite "not found"
is ENOENT, everything else is passed on and becomes EIO.
"""

import errno
import re
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import arvados
import arvados.errors
import llfuse
from googleapiclient import errors as apiclient_errors
from httplib2.error import HttpLib2Error

from .lazy_imports import is_loaded
from .reports import report


class ServerError(HttpLib2Error):
    """A server that cannot be reached, or an answer that is none. The message names the server and
    what came."""

    def __str__(self) -> str:
        return _without_id(super().__str__())


def _without_id(text: str) -> str:
    """Return what an error says without the request's id, which makes each another one."""
    return re.sub(r"^\[req-\w+\] ", "", text)


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

#: What libraries raise for the same; a library that was not loaded raises nothing.
_CLASSES = [
    ("arvados.errors", "ApiError"),
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
        if is_loaded(module):
            found = getattr(sys.modules[module], name, None)
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
    host = api_host(error)
    # The errors of Keep name its services.
    if host in text or isinstance(error, arvados.errors.KeepRequestError):
        return text
    return f"the API at {host}: {text}"


def report_server_failure(
    error: BaseException, what: str = "Unhandled exception during FUSE operation"
) -> bool:
    """Log what a server did, in one line after `what`, that is counted where it comes again.

    Returns False, and logs nothing, where no server is to blame: that is for a traceback.
    """
    line = line_of(error)
    if line is None:
        return False
    kind = kind_of(error)
    report(f"{what}: {line}", kind=kind and f"{what}: {kind}")
    return True


def kind_of(error: BaseException) -> str | None:
    """Return what errors that come again have in common; None: the line itself tells.

    What a server says beside its status may be another text each time.
    """
    status = http_status(error)
    return None if status is None else f"{api_host(error)} answered {status}"


def api_host(error: Any = None) -> str:
    """Return host and port of the API: the one that `error` came from, if it tells."""
    uri = getattr(error, "uri", None)
    authority = urllib.parse.urlsplit(uri).netloc if isinstance(uri, str) else None
    return authority or arvados.config.get("ARVADOS_API_HOST") or "?"


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that the API answered with, or None where it did not answer."""
    if isinstance(error, apiclient_errors.HttpError):
        return int(error.resp.status)
    return None


def is_not_found(error: BaseException) -> bool:
    """Return whether the cluster said that there is no such object."""
    if isinstance(error, llfuse.FUSEError):
        return error.errno == errno.ENOENT
    return isinstance(error, arvados.errors.NotFoundError) or http_status(error) == 404


def errno_of_refusal(error: BaseException) -> int:
    """Return the errno for a change that the API refused."""
    status = http_status(error)
    if status == 422 and "unique" in str(error).lower():
        return errno.EEXIST
    return {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 409: errno.EEXIST}.get(
        status or 0, errno.EIO
    )


def secret_part(token: str) -> str:
    """Return the part of a token that nobody else may see."""
    return token.rpartition("/")[2]


def explain(error: BaseException) -> str:
    """Say what went wrong, and what to do where that is known."""
    status = http_status(error)
    if isinstance(error, ServerError):
        return str(error)
    if status == 401:
        return (
            f"the API at {api_host(error)} does not accept the token in ARVADOS_API_TOKEN: {error}"
        )
    if status is not None:
        return f"the API at {api_host(error)} answered {status}: {error}"
    if isinstance(error, (ConnectionError, TimeoutError)):
        return f"the API at {api_host()} cannot be reached: {error}"
    if isinstance(error, (apiclient_errors.Error, arvados.errors.ApiError)):
        return f"the API failed: {error}"
    return str(error) or type(error).__name__
