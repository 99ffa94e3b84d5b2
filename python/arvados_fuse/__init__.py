# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Arvados Keep as a file system: `arv-mount` on a Rust core.

The way of a request: the kernel asks; the FUSE loop (`llfuse`, in Rust) hands the request to the
mount's one `Operations` object; that finds the entry in `Inodes` (numbers to objects) or among the
open handles, and the entry, a `File` or `Directory` of some kind, has the answer. `InodeCache` counts
what loaded entries weigh; the least recently used ones are cleared when it is too much. Directories
refresh themselves when they are stale, or when the event bus told that something changed.

All of it can be extended as before: subclass `Operations`, `Directory` or `File`, or replace a method
on a class or an object. What nobody overrides is answered in Rust, mostly without the GIL;
`docs/architecture.md` says when.
"""

from .gc_tuning import patient
from .lazy_imports import in_arv_mount
from .source_lines import not_kept

with patient(), not_kept(), in_arv_mount():
    # The first to import the SDK, which reads the user's settings meanwhile.
    from . import settings  # noqa: F401

    # isort: split
    import arvados
    import arvados.events
    import arvados.keep

import llfuse
from llfuse import _core

from ._version import __version__
from .fresh import FreshBase
from .fusedir import (
    CollectionDirectory,
    CollectionDirectoryBase,
    Directory,
    MagicDirectory,
    ProjectDirectory,
    SharedDirectory,
    TagDirectory,
    TagsDirectory,
    TmpCollectionDirectory,
)
from .fusefile import File, FuncToJSONFile, FuseArvadosFile, ObjectFile, StringFile
from .handles import DirectoryHandle, FileHandle, Handle
from .inode_cache import InodeCache
from .operations import Operations, catch_exceptions

Inodes = _core.Inodes

__all__ = [
    "CollectionDirectory",
    "CollectionDirectoryBase",
    "Directory",
    "DirectoryHandle",
    "File",
    "FileHandle",
    "FreshBase",
    "FuncToJSONFile",
    "FuseArvadosFile",
    "Handle",
    "InodeCache",
    "Inodes",
    "MagicDirectory",
    "ObjectFile",
    "Operations",
    "ProjectDirectory",
    "SharedDirectory",
    "StringFile",
    "TagDirectory",
    "TagsDirectory",
    "TmpCollectionDirectory",
    "__version__",
    "arvados",
    "catch_exceptions",
    "llfuse",
]
