# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`make bench`: ours, the peer and the limit, side by side on the same work.

`__main__` puts a run together: a `cluster` with a `dataset`, the `contestants` that mount it, the
`rows` that measure. `runner` runs them in turn, `results` keeps what they gave, `report` and
`picture` show it, `compare` sets two runs side by side. Nothing here touches a mount within its own
process: a program does, under a time-out.
"""
