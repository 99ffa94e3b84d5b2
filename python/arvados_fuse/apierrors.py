# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What an exception of the SDK means to a file system.

An API or Keep server that fails must not look like one that has nothing: only a definite "not found"
is ENOENT, everything else is passed on and becomes EIO.
"""

import errno
import http.client
import re
import ssl
from typing import Any

import arvados
import arvados.errors
import httplib2
import llfuse
from googleapiclient import errors as apiclient_errors

from .counted_log import counted


class ServerError(httplib2.HttpLib2Error):
    """A server that cannot be reached, or an answer that is none. The message names the server and
    what came."""

    def __str__(self) -> str:
        return _without_id(super().__str__())


def _without_id(text: str) -> str:
    """Return what an error says without the request's id, which makes each another one."""
    return re.sub(r"^\[req-\w+\] ", "", text)


#: What a server, or the network before it, is to blame for.
_SERVER_FAILURES = (
    ServerError,
    apiclient_errors.Error,
    arvados.errors.ApiError,
    httplib2.HttpLib2Error,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
)


def report_server_failure(error: BaseException) -> bool:
    """Log what a server did, in one line that is counted where it comes again.

    Returns False, and logs nothing, where no server is to blame: that is for a traceback.
    """
    if not isinstance(error, _SERVER_FAILURES):
        return False
    counted.error(f"Unhandled exception during FUSE operation: {explain(error)}", _key(error))
    return True


def _key(error: BaseException) -> str:
    # What a server says beside its status may be another text each time.
    status = http_status(error)
    return explain(error) if status is None else f"{api_host(error)} answered {status}"


def api_host(error: Any = None) -> str:
    """Return host and port of the API: the one that `error` came from, if it tells."""
    uri = getattr(error, "uri", None)
    authority = httplib2.parse_uri(uri)[1] if isinstance(uri, str) else None
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
