# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The objects that the released suites find in a cluster, by the names they have there.

`fixtures/KIND.json` has an object a line, with its uuid's last fifteen letters as `id`, and references
to others (`owner`, `head`, `tail`) as `KIND/NAME`; what follows from the rest is left out.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

CLUSTER_ID = "zzzzz"
FOLDER = Path(__file__).resolve().parent / "fixtures"

#: Kinds, with the part of a uuid that says which.
KINDS = {
    "users": "tpzed",
    "groups": "j7d0g",
    "collections": "4zz18",
    "links": "o0j2j",
    "api_client_authorizations": "gj3su",
}
_SYSTEM_USER = "users/system_user"
_LONG_AGO = "2014-01-01T00:00:00.000000000Z"


@functools.lru_cache(None)
def _written(kind: str) -> dict[str, dict[str, Any]]:
    return json.loads((FOLDER / f"{kind}.json").read_text())


def _uuid(reference: str | None) -> str | None:
    if reference is None or "/" not in reference:
        return reference
    kind, _, name = reference.partition("/")
    return f"{CLUSTER_ID}-{KINDS[kind]}-{_written(kind)[name]['id']}"


def _time(written: str) -> str:
    """Return a time as the API writes it, with nine digits of fraction."""
    seconds, _, fraction = written.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}Z"


def _whole(kind: str, name: str, written: dict[str, Any]) -> dict[str, Any]:
    record = {key: value for key, value in written.items() if key not in ("id", "owner")}
    record["uuid"] = _uuid(f"{kind}/{name}")
    record["owner_uuid"] = _uuid(written.get("owner", _SYSTEM_USER))
    for end in ("head", "tail"):
        if kind == "links":
            record[f"{end}_uuid"] = _uuid(record.pop(end, None))
    record.setdefault("modified_at", _LONG_AGO)
    for attribute in ("modified_at", "trash_at", "delete_at", "expires_at"):
        if record.get(attribute):
            record[attribute] = _time(record[attribute])
    record["created_at"] = record["modified_at"]
    record["modified_by_user_uuid"] = _uuid(_SYSTEM_USER)
    if kind == "collections":
        text = record["manifest_text"].encode()
        record["portable_data_hash"] = f"{hashlib.md5(text).hexdigest()}+{len(text)}"
        record["current_version_uuid"] = record["uuid"]
    return record


def records(kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind by name, each time anew: tests change them."""
    whole = {name: _whole(kind, name, written) for name, written in _written(kind).items()}
    return json.loads(json.dumps(whole))


def blocks() -> list[bytes]:
    """Return the contents that are in Keep."""
    return [text.encode() for text in _written("blocks")]


def tokens() -> dict[str, str]:
    """Return the tokens by name."""
    written = _written("api_client_authorizations")
    return {name: auth["api_token"] for name, auth in written.items()}
