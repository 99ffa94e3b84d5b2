# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A small Arvados cluster on loopback: API, Keep and event bus in one process.

For trying arv-mount on a laptop (`arv-mount --local DIR MOUNT_DIR`) and for every test. Unmodified
clients work against it. Records are kept in SQLite, blocks in folders; see docs/localcluster.md.
"""

from .control import ClusterError, LocalCluster

__all__ = ["ClusterError", "LocalCluster"]
