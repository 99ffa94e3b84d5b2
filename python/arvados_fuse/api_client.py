# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API client of a mount: the core's in `arv-mount`, the SDK's in other programs.

Either waits for a bounded time, says so, and keeps the token at home.
"""

from typing import Any

import arvados.safeapi

from . import lazy_imports

_SDK_CLIENT = arvados.safeapi.ThreadSafeApiCache


def make_client(time_limit: float, **kwargs: Any) -> Any:
    """Return a client whose requests take no longer than that, in seconds; arguments as for the SDK's.

    It is of the SDK's own kind where a program put another in its place, or has what that needs.
    """
    if arvados.safeapi.ThreadSafeApiCache is not _SDK_CLIENT:
        return arvados.safeapi.ThreadSafeApiCache(**kwargs)
    if lazy_imports.is_waiting("googleapiclient.discovery"):
        from .native_client import NativeClient

        return NativeClient(time_limit=time_limit, **kwargs)
    from .sdk_client import MountClient

    return MountClient(time_limit=time_limit, **kwargs)
