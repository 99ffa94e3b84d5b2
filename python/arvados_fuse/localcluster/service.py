# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the API does with records, whoever carries the requests: get, list, create, change."""

import copy
import hashlib
import json
import secrets
from collections.abc import Callable
from types import NoneType
from typing import Any

from . import clock, query, versions
from .blobsign import Signer, secret_of
from .collection_rules import CollectionRules
from .discovery import ATTRIBUTES, kind_name, singular
from .errors import APIError, forbidden, invalid, not_found
from .permissions import READ, WRITE, Permissions
from .store import TABLES, Record, Store, canonical_time, timestamp

#: Attributes that clients cannot set.
_READ_ONLY = {
    "uuid", "created_at", "modified_at", "modified_by_user_uuid", "etag", "kind", "href",
    "unsigned_manifest_text", "can_write", "can_manage", "file_count", "file_size_total",
    "current_version_uuid", "version", "is_trashed", "id",
}  # fmt: skip

_DEFAULTS: dict[str, dict[str, Any]] = {
    "collections": {
        "name": None, "description": None, "properties": {}, "manifest_text": "",
        "replication_desired": None, "replication_confirmed": None,
        "replication_confirmed_at": None, "storage_classes_desired": ["default"],
        "storage_classes_confirmed": [], "storage_classes_confirmed_at": None,
        "preserve_version": False, "trash_at": None, "delete_at": None, "is_trashed": False,
        "version": 1,
    },
    "groups": {
        "name": None, "description": None, "group_class": None, "properties": {},
        "frozen_by_uuid": None, "trash_at": None, "delete_at": None, "is_trashed": False,
    },
    "users": {
        "email": "", "username": None, "first_name": "", "last_name": "", "identity_url": None,
        "is_admin": False, "is_active": True, "is_invited": True, "prefs": {},
    },
    "links": {
        "link_class": None, "name": "", "tail_uuid": None, "head_uuid": None, "properties": {},
    },
    "api_client_authorizations": {"expires_at": None, "scopes": ["all"]},
    "keep_services": {"read_only": False},
    "logs": {"properties": {}},
}  # fmt: skip

#: Seconds from the trash to the end.
_TRASH_LIFETIME = 14 * 24 * 3600

#: Attributes of users that they cannot set themselves.
_ADMINS_ONLY = {"is_admin", "is_active", "is_invited", "username", "email", "identity_url"}

#: What JSON may hold for an attribute, by its type in the discovery document.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str, NoneType),
    "text": (str, NoneType),
    "datetime": (str, NoneType),
    "integer": (int, NoneType),
    "boolean": (bool, NoneType),
    "Hash": (dict, NoneType),
    "Array": (list, NoneType),
}

#: Tables whose names are unique for an owner.
_UNIQUE_NAMES = ("collections", "groups")


class Service:
    """The records of a cluster, as its users may see and change them."""

    def __init__(self, store: Store, signer: Signer, *, replace_files: bool = True) -> None:
        self.store = store
        self.signer = signer
        #: Whether it knows `replace_files` and `replace_segments`.
        self.replace_files = replace_files
        self.permissions = Permissions(store)
        self.collections = CollectionRules(self)
        #: Called with each new log record.
        self.on_log: Callable[[Record], None] = lambda log: None

    # Who asks

    def authenticate(self, token: str | None) -> tuple[Record, Record]:
        """Return the user and the authorization of a token; APIError 401 without a good one."""
        if token:
            secret = secret_of(token)
            for auth in self.store.all("api_client_authorizations"):
                if secrets.compare_digest(auth["api_token"], secret) and not _past(
                    auth.get("expires_at")
                ):
                    user = self.store.get("users", auth["owner_uuid"])
                    if user is not None:
                        return user, auth
        raise APIError(401, "Not logged in")

    def create_user(self, name: str, admin: bool = False) -> tuple[Record, str]:
        """Make a user, and a token for it (`v2/UUID/SECRET`)."""
        root = f"{self.store.cluster_id}-tpzed-000000000000000"
        first, _, last = name.partition(" ")
        user = self._new("users", root, root)
        user.update(
            email=f"{name.replace(' ', '.')}@example.com",
            username=name.replace(" ", "").lower(),
            first_name=first,
            last_name=last or "User",
            is_admin=admin,
        )
        self._save("users", user, user["uuid"])
        auth = self._new("api_client_authorizations", user["uuid"], user["uuid"])
        auth["api_token"] = secrets.token_hex(25)
        self._save("api_client_authorizations", auth, user["uuid"])
        return user, f"v2/{auth['uuid']}/{auth['api_token']}"

    def load(self, kind: str, record: Record) -> None:
        """Keep a record as it is given, with defaults for what it lacks; nobody's rights are asked."""
        user = record.get("modified_by_user_uuid") or f"{self.store.cluster_id}-tpzed-{'0' * 15}"
        whole = self._new(kind, record.get("owner_uuid") or user, user) | record
        if kind == "collections":
            self.collections.complete(whole)
            whole.setdefault("current_version_uuid", whole["uuid"])
        self.store.put(kind, whole)

    # Reading

    def shown(self, kind: str, record: Record, user: Record, token: str, *, full: bool) -> Record:
        """Return a record as a client sees it; with `full`, including what lists leave out."""
        shown = dict(record, kind=kind_name(kind))
        shown["etag"] = hashlib.md5(record["modified_at"].encode()).hexdigest()
        if kind == "collections":
            self.collections.present(shown, token, full=full)
        if kind in ("groups", "users"):
            shown.update(self.permissions.describe(user, record))
        if kind == "users":
            shown["full_name"] = f"{record['first_name']} {record['last_name']}".strip()
        if kind == "links":
            shown["head_kind"] = _kind_of(record.get("head_uuid"))
            shown["tail_kind"] = _kind_of(record.get("tail_uuid"))
        if kind == "api_client_authorizations" and not full:
            shown.pop("api_token", None)
        return shown

    def readable(self, kind: str, user: Record, record: Record) -> bool:
        """Return whether a user may see a record."""
        if user["is_admin"]:
            return True
        if kind == "users":
            return self.permissions.may_see_user(user, record)
        if kind == "keep_services":
            return True
        if kind == "links":
            if user["uuid"] in (record.get("tail_uuid"), record["owner_uuid"]):
                return True
            head = self.find(record.get("head_uuid") or "")
            return head is not None and self.permissions.can(user, head[1], READ)
        if kind == "logs":
            return self.may_hear(user, record)
        return self.permissions.can(user, record, READ)

    def may_hear(self, user: Record, log: Record) -> bool:
        """Return whether a user may be told what a log record tells."""
        about = {"uuid": log["object_uuid"], "owner_uuid": log["object_owner_uuid"]}
        return self.permissions.can(user, about, READ)

    def find(self, uuid: str) -> tuple[str, Record] | None:
        """Return the table and the record of a uuid."""
        for kind, infix in TABLES.items():
            if uuid[6:11] == infix:
                record = self.store.get(kind, uuid)
                return None if record is None else (kind, record)
        return None

    def get(self, kind: str, uuid: str, user: Record, *, trashed: bool = False) -> Record:
        """Return a record that the user may see; APIError 404 otherwise."""
        record = self.store.get(kind, uuid)
        if record is None and kind == "collections":
            record = self.collections.by_hash(uuid, user)
        if (
            record is None
            or not self.readable(kind, user, record)
            or (self.store.trashed(record) and not trashed)
        ):
            raise not_found(uuid)
        return record

    def list(
        self,
        kind: str,
        user: Record,
        params: dict[str, Any],
        *,
        only: Callable[[Record], bool] = lambda record: True,
    ) -> list[Record]:
        """Return the records of a table that the user may see and that pass the filters."""
        passes = query.matcher(kind, query.parameter(params, "filters"))
        trashed = query.parameter(params, "include_trash") in (True, "true")
        past = query.parameter(params, "include_old_versions") in (True, "true")
        return [
            record
            for record in self.store.all(kind)
            if (trashed or not self.store.trashed(record))
            and (past or not versions.is_past(record))
            and only(record)
            and passes(self._filterable(kind, record))
            and self.readable(kind, user, record)
        ]

    def _filterable(self, kind: str, record: Record) -> Record:
        if kind == "links":
            return dict(
                record,
                head_kind=_kind_of(record.get("head_uuid")),
                tail_kind=_kind_of(record.get("tail_uuid")),
            )
        return record

    # Changing

    def _new(self, kind: str, owner_uuid: str, user_uuid: str) -> Record:
        now = timestamp()
        record = {
            "uuid": self.store.new_uuid(kind),
            "owner_uuid": owner_uuid,
            "created_at": now,
            "modified_at": now,
            "modified_by_user_uuid": user_uuid,
        }
        record.update(json.loads(json.dumps(_DEFAULTS[kind])))
        return record

    def create(
        self, kind: str, attributes: Record, user: Record, token: str, params: dict[str, Any]
    ) -> Record:
        """Make a record with those attributes."""
        record = self._new(kind, attributes.get("owner_uuid") or user["uuid"], user["uuid"])
        self._check_owner(record["owner_uuid"], user)
        self._assign(kind, record, attributes, user, token, params)
        if kind == "collections":
            record["current_version_uuid"] = record["uuid"]
        if kind == "groups":
            self._check_group(record)
        if kind == "links":
            self._check_link(record, user)
        if kind == "api_client_authorizations":
            record["api_token"] = secrets.token_hex(25)
        if kind == "users" and not user["is_admin"]:
            raise forbidden()
        unique = query.parameter(params, "ensure_unique_name") in (True, "true")
        self._check_name(kind, record, ensure_unique=unique)
        self._save(kind, record, user["uuid"])
        self._log("create", kind, {}, record, user)
        return record

    def update(
        self, kind: str, uuid: str, attributes: Record, user: Record, token: str,
        params: dict[str, Any],
    ) -> Record:  # fmt: skip
        """Change attributes of a record."""
        old = self.get(kind, uuid, user, trashed=True)
        self._check_writable(kind, old, user)
        record = copy.deepcopy(old)
        owner = attributes.get("owner_uuid")
        if owner and owner != old["owner_uuid"]:
            self._check_owner(owner, user)
            self._check_circle(uuid, owner)
            record["owner_uuid"] = owner
        self._assign(kind, record, attributes, user, token, params)
        if kind == "groups":
            self._check_group(record)
        self._check_name(kind, record)
        with self.store.at_once():
            if kind == "collections":
                versions.supersede(self.store, old, record)
            record["modified_at"] = timestamp()
            record["modified_by_user_uuid"] = user["uuid"]
            self._save(kind, record, user["uuid"])
            self._log("update", kind, old, record, user)
        return record

    def delete(self, kind: str, uuid: str, user: Record) -> Record:
        """Delete a record; collections and projects go to the trash."""
        record = self.get(kind, uuid, user)
        self._check_writable(kind, record, user)
        if kind == "users" and not user["is_admin"]:
            raise forbidden()
        if kind == "collections" or (kind == "groups" and record["group_class"] != "role"):
            return self.set_trashed(kind, uuid, user, True)
        self.store.remove(kind, uuid)
        self.permissions.changed()
        self._log("delete", kind, record, record, user)
        return record

    def set_trashed(self, kind: str, uuid: str, user: Record, trashed: bool) -> Record:
        """Put a record into the trash, or take it out."""
        old = self.get(kind, uuid, user, trashed=True)
        self._check_writable(kind, old, user)
        now = timestamp()
        later = timestamp(clock.now() + _TRASH_LIFETIME)
        record = dict(
            old,
            is_trashed=trashed,
            trash_at=now if trashed else None,
            delete_at=later if trashed else None,
            modified_at=now,
            modified_by_user_uuid=user["uuid"],
        )
        if not trashed:
            self._check_name(kind, record)
        if kind == "collections":
            versions.supersede(self.store, old, record)
        self._save(kind, record, user["uuid"])
        self._log("update", kind, old, record, user)
        return record

    def _assign(
        self, kind: str, record: Record, attributes: Record, user: Record, token: str,
        params: dict[str, Any],
    ) -> None:  # fmt: skip
        for name, value in attributes.items():
            if name not in ATTRIBUTES[kind]:
                raise invalid(f"unknown attribute '{name}' for {singular(kind)}.")
            if not isinstance(value, _TYPES[ATTRIBUTES[kind][name]]):
                raise invalid(f"{name} must be a {ATTRIBUTES[kind][name]}, not {value!r}")
            if name in _ADMINS_ONLY and value != record.get(name) and not user["is_admin"]:
                raise forbidden()
            if name not in _READ_ONLY and name not in ("owner_uuid", "manifest_text"):
                if ATTRIBUTES[kind][name] == "datetime" and value is not None:
                    value = canonical_time(value)
                record[name] = value
        if "trash_at" in attributes:
            self._plan_trash(record, attributes)
        if kind == "collections":
            self.collections.assign(record, attributes, user, token, params)

    @staticmethod
    def _plan_trash(record: Record, attributes: Record) -> None:
        """Follow a new `trash_at`: what is not deleted at a time of its own is two weeks later."""
        when = record["trash_at"]
        if not attributes.get("delete_at"):
            record["delete_at"] = canonical_time(when, after=_TRASH_LIFETIME) if when else None
        record["is_trashed"] = _past(when)

    def _check_owner(self, owner_uuid: str, user: Record) -> None:
        found = self.find(owner_uuid)
        if owner_uuid == f"{self.store.cluster_id}-tpzed-000000000000000" and user["is_admin"]:
            return
        if found is None or found[0] not in ("users", "groups"):
            raise invalid(f"Owner uuid {owner_uuid} is not that of a user or group")
        if found[0] == "groups" and found[1]["group_class"] != "project":
            raise invalid(f"Owner uuid {owner_uuid} must be a project")
        if not self.permissions.can(user, found[1], WRITE):
            raise forbidden()

    def _check_circle(self, uuid: str, owner_uuid: str) -> None:
        at = self.store.get("groups", owner_uuid)
        seen: set[str] = set()
        while at is not None and at["uuid"] not in seen:
            if at["uuid"] == uuid:
                raise invalid(f"Owner uuid {owner_uuid} would make an ownership cycle")
            seen.add(at["uuid"])
            at = self.store.get("groups", at["owner_uuid"])

    def _check_writable(self, kind: str, record: Record, user: Record) -> None:
        if kind in ("keep_services", "logs") and not user["is_admin"]:
            raise forbidden()
        if not self.permissions.can(user, record, WRITE):
            raise forbidden()

    def _check_group(self, record: Record) -> None:
        if record["group_class"] not in ("project", "role", "filter"):
            raise invalid("Group class value must be 'project', 'role' or 'filter'")
        if not record["name"]:
            raise invalid("Name can't be blank")

    def _check_link(self, record: Record, user: Record) -> None:
        if not record["link_class"]:
            raise invalid("Link class can't be blank")
        if record["link_class"] == "permission":
            head = self.find(record["head_uuid"] or "")
            if head is None:
                raise invalid(f"Head uuid {record['head_uuid']} does not exist")
            if not self.permissions.describe(user, head[1])["can_manage"]:
                raise forbidden()

    def _check_name(self, kind: str, record: Record, *, ensure_unique: bool = False) -> None:
        if kind not in _UNIQUE_NAMES or not record.get("name") or record.get("is_trashed"):
            return
        if record.get("group_class") == "role":
            return
        named = self.store.named(kind, record["owner_uuid"], record["name"])
        if not any(
            other["uuid"] != record["uuid"]
            and not other["is_trashed"]
            and not versions.is_past(other)
            for other in named
        ):
            return
        if not ensure_unique:
            raise invalid(
                "#<ActiveRecord::RecordNotUnique: duplicate key value violates unique constraint: "
                f"name {record['name']!r} is not unique for owner {record['owner_uuid']}>"
            )
        record["name"] = f"{record['name']} ({timestamp()})"

    def _save(self, kind: str, record: Record, user_uuid: str) -> None:
        self.store.put(kind, record)
        if kind in ("links", "groups", "users"):
            self.permissions.changed()

    def _log(self, event: str, kind: str, old: Record, new: Record, user: Record) -> None:
        if kind in ("api_client_authorizations", "logs"):
            return
        log = self._new("logs", user["uuid"], user["uuid"])
        log.update(
            id=self.store.last_log_id + 1,
            event_type=event,
            event_at=timestamp(),
            object_uuid=new["uuid"],
            object_owner_uuid=new["owner_uuid"],
            object_kind=kind_name(kind),
            summary=f"{event} of {new['uuid']}",
            properties={
                "old_attributes": _told(old) if old else None,
                "new_attributes": _told(new) if event != "delete" else None,
            },
        )
        self.store.put("logs", log)
        self.on_log(log)


def _told(record: Record) -> Record:
    """Return what events tell of a record: all but the manifest."""
    return {k: v for k, v in record.items() if k not in ("manifest_text", "api_token")}


def _past(when: str | None) -> bool:
    return when is not None and when < timestamp()


def _kind_of(uuid: str | None) -> str | None:
    if not uuid:
        return None
    for kind, infix in TABLES.items():
        if uuid[6:11] == infix:
            return kind_name(kind)
    return None
