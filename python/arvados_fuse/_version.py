# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The installed version, as the wheel has it."""

from llfuse import _core

# Cargo's spelling of it; asked of the wheel's metadata, it would take some milliseconds.
__version__ = _core.__version__.replace("-post.", ".post")
