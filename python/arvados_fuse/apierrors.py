# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What an exception of the SDK means to a file system.

An API or Keep server that fails must not look like one that has nothing: only a definite "not found"
is ENOENT, everything else is passed on and becomes EIO.
"""

import errno

import arvados
import arvados.errors
from googleapiclient import errors as apiclient_errors


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that the API answered with, or None where it did not answer."""
    if isinstance(error, apiclient_errors.HttpError):
        return int(error.resp.status)
    return None


def is_not_found(error: BaseException) -> bool:
    """Return whether the cluster said that there is no such object."""
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
    if status == 401:
        return f"the API does not accept the token in ARVADOS_API_TOKEN: {error}"
    if status is not None:
        return f"the API answered {status}: {error}"
    if isinstance(error, (ConnectionError, TimeoutError)):
        return f"the API at {arvados.config.get('ARVADOS_API_HOST')} cannot be reached: {error}"
    if isinstance(error, (apiclient_errors.Error, arvados.errors.ApiError)):
        return f"the API failed: {error}"
    return str(error) or type(error).__name__
