# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The operations whose handlers in Python are timed."""

#: What the Summary shows from the start, by the name that it labels it with.
OPERATIONS: list[str] = []
