# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The kinds of directory, under the name that programs import them from."""

from arvados.util import (
    collection_uuid_pattern,
    group_uuid_pattern,
    link_uuid_pattern,
    portable_data_hash_pattern,
    user_uuid_pattern,
    uuid_pattern,
)

from .collection_base import CollectionDirectoryBase
from .collection_dir import CollectionDirectory
from .directory import Directory
from .fresh import FreshBase, check_update, convertTime, use_counter
from .fusefile import FuncToJSONFile, FuseArvadosFile, ObjectFile, StringFile
from .magic_dir import MagicDirectory
from .project_dir import ProjectDirectory
from .shared_dir import SharedDirectory
from .tag_dirs import TagDirectory, TagsDirectory
from .tmp_collection_dir import TmpCollectionDirectory

__all__ = [
    "CollectionDirectory",
    "CollectionDirectoryBase",
    "Directory",
    "FreshBase",
    "FuncToJSONFile",
    "FuseArvadosFile",
    "MagicDirectory",
    "ObjectFile",
    "ProjectDirectory",
    "SharedDirectory",
    "StringFile",
    "TagDirectory",
    "TagsDirectory",
    "TmpCollectionDirectory",
    "check_update",
    "collection_uuid_pattern",
    "convertTime",
    "group_uuid_pattern",
    "link_uuid_pattern",
    "portable_data_hash_pattern",
    "use_counter",
    "user_uuid_pattern",
    "uuid_pattern",
]
