# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The discovery document, from which clients build their methods, and the attributes of records."""

from typing import Any

from . import query
from .store import TABLES

_STRING = {"type": "string", "location": "query", "required": False}
_PATH = {"uuid": {"type": "string", "location": "path", "required": True}}

_LIST_PARAMETERS = {
    "filters": {**_STRING, "type": "array"},
    "where": {**_STRING, "type": "object"},
    "order": {**_STRING, "type": "array"},
    "select": {**_STRING, "type": "array"},
    "distinct": {**_STRING, "type": "boolean", "default": "false"},
    "limit": {**_STRING, "type": "integer", "default": "100"},
    "offset": {**_STRING, "type": "integer", "default": "0"},
    "count": {**_STRING, "default": "exact"},
    "cluster_id": _STRING,
    "bypass_federation": {**_STRING, "type": "boolean"},
    "include_trash": {**_STRING, "type": "boolean", "default": "false"},
    "include_old_versions": {**_STRING, "type": "boolean", "default": "false"},
}
_CREATE_PARAMETERS = {
    "select": {**_STRING, "type": "array"},
    "ensure_unique_name": {**_STRING, "type": "boolean", "default": "false"},
    "cluster_id": _STRING,
}
_UPDATE_PARAMETERS = {
    **_PATH,
    "select": {**_STRING, "type": "array"},
    "bypass_federation": {**_STRING, "type": "boolean"},
}
_STRINGS = {
    **_STRING, "type": "object", "properties": {}, "additionalProperties": {"type": "string"}
}  # fmt: skip
#: Of `collections.create` and `collections.update`.
_REPLACE_PARAMETERS = {"replace_files": _STRINGS, "replace_segments": _STRINGS}
_GET_PARAMETERS = {
    **_PATH,
    "select": {**_STRING, "type": "array"},
    "include_trash": {**_STRING, "type": "boolean", "default": "false"},
}
_CONTENTS_PARAMETERS = {
    **_LIST_PARAMETERS,
    "uuid": {"type": "string", "location": "query", "required": False, "default": ""},
    "recursive": {**_STRING, "type": "boolean", "default": "false"},
    "include": {**_STRING, "type": "array"},
    "exclude_home_project": {**_STRING, "type": "boolean", "default": "false"},
}

_COMMON = {
    "uuid": "string",
    "owner_uuid": "string",
    "created_at": "datetime",
    "modified_at": "datetime",
    "modified_by_user_uuid": "string",
    "etag": "string",
    "kind": "string",
}

#: Attributes of each table's records, and their types.
ATTRIBUTES: dict[str, dict[str, str]] = {
    "collections": {
        **_COMMON,
        "name": "string",
        "description": "string",
        "properties": "Hash",
        "portable_data_hash": "string",
        "manifest_text": "text",
        "unsigned_manifest_text": "text",
        "replication_desired": "integer",
        "replication_confirmed": "integer",
        "replication_confirmed_at": "datetime",
        "storage_classes_desired": "Array",
        "storage_classes_confirmed": "Array",
        "storage_classes_confirmed_at": "datetime",
        "current_version_uuid": "string",
        "version": "integer",
        "preserve_version": "boolean",
        "file_count": "integer",
        "file_size_total": "integer",
        "trash_at": "datetime",
        "delete_at": "datetime",
        "is_trashed": "boolean",
    },
    "groups": {
        **_COMMON,
        "name": "string",
        "description": "string",
        "group_class": "string",
        "properties": "Hash",
        "frozen_by_uuid": "string",
        "trash_at": "datetime",
        "delete_at": "datetime",
        "is_trashed": "boolean",
        "can_write": "boolean",
        "can_manage": "boolean",
    },
    "users": {
        **_COMMON,
        "email": "string",
        "username": "string",
        "full_name": "string",
        "first_name": "string",
        "last_name": "string",
        "identity_url": "string",
        "is_admin": "boolean",
        "is_active": "boolean",
        "is_invited": "boolean",
        "prefs": "Hash",
        "can_write": "boolean",
        "can_manage": "boolean",
    },
    "links": {
        **_COMMON,
        "link_class": "string",
        "name": "string",
        "tail_uuid": "string",
        "head_uuid": "string",
        "tail_kind": "string",
        "head_kind": "string",
        "properties": "Hash",
    },
    "api_client_authorizations": {
        **_COMMON,
        "api_token": "string",
        "user_id": "integer",
        "expires_at": "datetime",
        "scopes": "Array",
    },
    "keep_services": {
        **_COMMON,
        "service_host": "string",
        "service_port": "integer",
        "service_ssl_flag": "boolean",
        "service_type": "string",
        "read_only": "boolean",
    },
    "logs": {
        **_COMMON,
        "id": "integer",
        "event_type": "string",
        "event_at": "datetime",
        "object_uuid": "string",
        "object_owner_uuid": "string",
        "object_kind": "string",
        "summary": "string",
        "properties": "Hash",
    },
}

for _kind, _attributes in ATTRIBUTES.items():
    query.ATTRIBUTES[_kind] = set(_attributes)

_SINGULAR = {
    "collections": "collection",
    "groups": "group",
    "users": "user",
    "links": "link",
    "api_client_authorizations": "api_client_authorization",
    "keep_services": "keep_service",
    "logs": "log",
}


def singular(kind: str) -> str:
    """Return the name under which a request carries a record of that table."""
    return _SINGULAR[kind]


def _class_name(kind: str) -> str:
    return "".join(word.capitalize() for word in _SINGULAR[kind].split("_"))


def kind_name(kind: str) -> str:
    """Return the `kind` attribute of that table's records."""
    name = _class_name(kind)
    return "arvados#" + name[0].lower() + name[1:]


def _method(kind: str, name: str, verb: str, path: str, parameters: dict, body: bool) -> dict:
    method: dict[str, Any] = {
        "id": f"arvados.{kind}.{name}",
        "path": path,
        "httpMethod": verb,
        "description": f"{name} {kind}",
        "parameters": parameters,
        "response": {"$ref": _class_name(kind) + ("List" if name == "list" else "")},
        "scopes": ["https://api.arvados.org/auth/arvados"],
    }
    if body:
        method["request"] = {
            "required": True,
            "properties": {_SINGULAR[kind]: {"$ref": _class_name(kind)}},
        }
    return method


def _resource(kind: str, replace_files: bool) -> dict[str, Any]:
    one = kind + "/{uuid}"
    replace = _REPLACE_PARAMETERS if kind == "collections" and replace_files else {}
    methods = {
        "get": _method(kind, "get", "GET", one, _GET_PARAMETERS, False),
        "list": _method(kind, "list", "GET", kind, _LIST_PARAMETERS, False),
        "create": _method(kind, "create", "POST", kind, {**_CREATE_PARAMETERS, **replace}, True),
        "update": _method(kind, "update", "PUT", one, {**_UPDATE_PARAMETERS, **replace}, True),
        "delete": _method(kind, "delete", "DELETE", one, _PATH, False),
    }
    if kind in ("collections", "groups"):
        for name in ("trash", "untrash"):
            parameters = {**_PATH, "ensure_unique_name": {**_STRING, "type": "boolean"}}
            methods[name] = _method(kind, name, "POST", f"{one}/{name}", parameters, False)
    if kind == "groups":
        for name in ("contents", "shared"):
            methods[name] = _method(
                kind, name, "GET", f"{kind}/{name}", _CONTENTS_PARAMETERS, False
            )
    if kind in ("users", "api_client_authorizations"):
        methods["current"] = _method(kind, "current", "GET", f"{kind}/current", {}, False)
    if kind == "keep_services":
        methods["accessible"] = _method(kind, "accessible", "GET", f"{kind}/accessible", {}, False)
    return {"methods": methods}


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for kind, attributes in ATTRIBUTES.items():
        name = _class_name(kind)
        schemas[name] = {
            "id": name,
            "type": "object",
            "description": name,
            "uuidPrefix": TABLES[kind],
            "properties": {a: {"type": t} for a, t in attributes.items()},
        }
        schemas[name + "List"] = {
            "id": name + "List",
            "type": "object",
            "description": name + " list",
            "properties": {
                "kind": {"type": "string"},
                "items": {"type": "array", "items": {"$ref": name}},
            },
        }
    return schemas


def document(
    *, cluster_id: str, api_url: str, websocket_url: str, signature_ttl: int, replication: int,
    replace_files: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the discovery document of a cluster; `api_url` ends with a slash."""
    resources = {kind: _resource(kind, replace_files) for kind in ATTRIBUTES}
    resources["configs"] = {
        "methods": {
            "get": {
                "id": "arvados.configs.get",
                "path": "config",
                "httpMethod": "GET",
                "description": "get public config",
                "parameters": {},
                "parameterOrder": [],
                "response": {},
                "scopes": [],
            }
        }
    }
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "arvados:v1",
        "name": "arvados",
        "version": "v1",
        "revision": "20240627",
        "source_version": "local",
        "packageVersion": "local",
        "title": "Arvados API",
        "description": "A cluster on this machine",
        "documentationLink": "",
        "defaultCollectionReplication": replication,
        "protocol": "rest",
        "baseUrl": api_url + "arvados/v1/",
        "basePath": "/arvados/v1/",
        "rootUrl": api_url,
        "servicePath": "arvados/v1/",
        "batchPath": "batch",
        "uuidPrefix": cluster_id,
        "blobSignatureTtl": signature_ttl,
        "maxRequestSize": 128 * 1024 * 1024,
        "maxItemsPerResponse": query.MAX_LIMIT,
        "maxResponseSize": 512 * 1024 * 1024,
        "defaultTrashLifetime": 14 * 24 * 3600,
        "dockerImageFormats": ["v2"],
        "crunchLogBytesPerEvent": 4096,
        "websocketUrl": websocket_url,
        "keepWebServiceUrl": "",
        "workbenchUrl": "",
        "remoteHosts": {},
        "remoteHostsViaDNS": False,
        "parameters": {},
        "auth": {"oauth2": {"scopes": {}}},
        "schemas": _schemas(),
        "resources": resources,
    }
