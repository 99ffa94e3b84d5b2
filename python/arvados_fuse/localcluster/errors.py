# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Errors as the API words them."""


class APIError(Exception):
    """Answers a request with an HTTP status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def not_found(what: str) -> APIError:
    """What does not exist, or may not be seen."""
    return APIError(404, f"Path not found: {what}")


def forbidden(message: str = "Permission denied") -> APIError:
    """What may be seen but not changed."""
    return APIError(403, f"#<ArvadosModel::PermissionDeniedError: {message}>")


def invalid(message: str) -> APIError:
    """A request that makes no sense."""
    return APIError(422, message)
