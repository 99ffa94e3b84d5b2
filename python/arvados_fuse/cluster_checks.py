# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the command line names and the cluster may not have, looked up in what the cluster tells.

A cluster that does not tell (an older API, a client that is a mock) is taken to have it.
"""

from collections.abc import Iterable
from typing import Any

import arvados.util

#: Tables that mounts list, under the names that qualify columns, and their schemas.
_SCHEMAS = {
    "collections": "Collection",
    "groups": "Group",
    "links": "Link",
    "users": "User",
}
#: Columns that filters may name and no record shows.
_NOT_SHOWN = {"any", "file_names"}


def _columns(api: Any) -> dict[str, set[str]]:
    """Return the columns of each table that the cluster describes."""
    document = getattr(api, "_rootDesc", None)
    schemas = document.get("schemas") if isinstance(document, dict) else None
    columns = {}
    for table, schema in _SCHEMAS.items():
        described = (schemas or {}).get(schema) or {}
        if described.get("properties"):
            columns[table] = {"uuid", *described["properties"], *_NOT_SHOWN}
    return columns


def check_filters(api: Any, filters: Iterable[Any] | None) -> None:
    """Raise ValueError for a filter that names a table or column which the cluster does not have.

    Such a filter would be left out of every request, or have every listing fail.
    """
    columns = _columns(api)
    if not columns:
        return
    for each in filters or ():
        if isinstance(each, str) or each[0].startswith("("):
            # An expression, which names columns in ways of its own.
            continue
        table, dot, column = each[0].partition(".")
        if not dot or not column:
            if not any(each[0] in known for known in columns.values()):
                raise ValueError(f"--filters: the cluster knows no column {each[0]!r}")
        elif table == "properties":
            raise ValueError(
                f"--filters: {each[0]!r} needs the table that it is about: "
                f"'collections.{each[0]}' or 'groups.{each[0]}'"
            )
        elif table not in _SCHEMAS:
            raise ValueError(
                f"--filters: {each[0]!r} is about no table that is mounted: give one of "
                + ", ".join(sorted(_SCHEMAS))
            )
        elif table in columns and column.partition(".")[0] not in columns[table]:
            raise ValueError(f"--filters: the cluster knows no column {column!r} of {table}")


def check_storage_classes(api: Any, classes: Iterable[str] | None) -> None:
    """Raise ValueError for a storage class that the cluster does not have: nothing could be
    written."""
    if not classes:
        return
    known = arvados.util.get_config_once(api).get("StorageClasses")
    if not isinstance(known, dict) or not known:
        return
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise ValueError(
            f"--storage-classes: the cluster has no class {', '.join(map(repr, unknown))}, "
            f"but {', '.join(map(repr, sorted(known)))}"
        )
