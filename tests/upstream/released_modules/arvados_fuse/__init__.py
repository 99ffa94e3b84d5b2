# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The installed release with the middle taken out: its modules drive our Operations, Inodes and InodeCache.

For a test run that has this folder first in its path, then ours, in an environment where the release is
installed. Every module that the release has is the release's own; `operations`, `handles` and
`inode_cache`, which it has not, are ours, and so is `llfuse`.

There is no `__all__`, and modules are imported that nothing here uses: `command` takes all of its
names from the package by `import *`, the standard library's included.
"""

# ruff: noqa: F401

import collections
import errno
import functools
import importlib.metadata
import itertools
import logging
import os
import queue
import stat
import threading
import time
import typing
from pathlib import Path

import arvados
import arvados.events
import arvados.keep
import llfuse
from llfuse._core import Inodes

__path__ = [
    str(importlib.metadata.distribution("arvados_fuse").locate_file("arvados_fuse")),
    str(Path(llfuse.__file__).resolve().parents[1] / "arvados_fuse"),
]

from .fusedir import (  # noqa: E402
    CollectionDirectory,
    CollectionDirectoryBase,
    Directory,
    MagicDirectory,
    ProjectDirectory,
    SharedDirectory,
    TagsDirectory,
    TmpCollectionDirectory,
)
from .fusefile import File, FuseArvadosFile, StringFile  # noqa: E402
from .handles import DirectoryHandle, FileHandle, Handle  # noqa: E402
from .inode_cache import InodeCache  # noqa: E402
from .operations import Operations, catch_exceptions  # noqa: E402
