# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("arvados_fuse")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
