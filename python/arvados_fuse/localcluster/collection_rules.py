# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What is special about collections: manifests, hashes, signatures, files replaced in place."""

import re
from typing import TYPE_CHECKING, Any

from . import query
from .blobsign import LOCATOR
from .errors import APIError, forbidden, invalid
from .manifest import Manifest, offline_collection
from .permissions import READ
from .store import Record

if TYPE_CHECKING:
    from .service import Service

_HASH = re.compile(r"[0-9a-f]{32}\+\d+")


class CollectionRules:
    """The rules, over the records of a service."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def by_hash(self, locator: str, user: Record) -> Record | None:
        """Return a collection that has these contents and that the user may read."""
        found = _HASH.match(locator)
        if found is None:
            return None
        store, permissions = self._service.store, self._service.permissions
        for record in store.by_hash(found[0]):
            if not store.trashed(record) and permissions.can(user, record, READ):
                return record
        return None

    def present(self, shown: Record, token: str, *, full: bool) -> None:
        """Make a record ready for a client: its manifest signed, or left out of lists."""
        text = shown.get("manifest_text", "")
        if full:
            shown["unsigned_manifest_text"] = text
            shown["manifest_text"] = self._service.signer.sign_manifest(text, token)
        else:
            shown.pop("manifest_text", None)
            shown.pop("unsigned_manifest_text", None)

    def assign(
        self, record: Record, attributes: Record, user: Record, token: str, params: dict[str, Any]
    ) -> None:
        """Take over a manifest, or files named by `replace_files`."""
        # An update that does not ask for it asks against it.
        record["preserve_version"] = bool(attributes.get("preserve_version"))
        text = attributes.get("manifest_text")
        replace = query.parameter(params, "replace_files") or attributes.get("replace_files")
        if query.parameter(params, "replace_segments"):
            raise invalid("replace_segments is not supported by this cluster")
        if replace:
            text = self._replaced(record, text, replace, user, token)
        if text is None:
            if "portable_data_hash" not in record:
                text = ""
            else:
                return
        manifest = Manifest(text)
        # What is there already may be sent back as it is: without signatures.
        if not replace and manifest.text != record.get("manifest_text"):
            self._check_signatures(manifest, user, token)
        claimed = attributes.get("portable_data_hash")
        if claimed and claimed != manifest.portable_data_hash:
            raise invalid(
                f"Portable data hash {claimed} does not match computed hash "
                f"{manifest.portable_data_hash}"
            )
        record["manifest_text"] = manifest.text
        record["portable_data_hash"] = manifest.portable_data_hash
        record["file_count"] = manifest.file_count
        record["file_size_total"] = manifest.size

    def complete(self, record: Record) -> None:
        """Give a record what follows from its manifest, where it lacks it."""
        if {"portable_data_hash", "file_count", "file_size_total"} <= record.keys():
            return
        manifest = Manifest(record.get("manifest_text", ""))
        record.setdefault("portable_data_hash", manifest.portable_data_hash)
        record.setdefault("file_count", manifest.file_count)
        record.setdefault("file_size_total", manifest.size)

    def _check_signatures(self, manifest: Manifest, user: Record, token: str) -> None:
        signer = self._service.signer
        if not signer.enabled:
            return
        unsigned = {
            locator[:32]
            for locator in manifest.given_locators
            if not signer.valid(locator, token) and not locator.endswith("+0")
        }
        unsigned.discard("d41d8cd98f00b204e9800998ecf8427e")
        if unsigned and not user["is_admin"]:
            raise forbidden(f"Locator {sorted(unsigned)[0]} has no valid signature")

    def _replaced(
        self, record: Record, text: str | None, replace: dict[str, str], user: Record, token: str
    ) -> str:
        """Return the manifest with files and directories replaced: `{target: source}`, where a
        source is empty (remove), `current/PATH`, `manifest_text/PATH` or `PDH/PATH`."""
        if not isinstance(replace, dict):
            raise invalid("replace_files must be an object")
        old_text = record.get("manifest_text", "")
        old = offline_collection(old_text)
        given = offline_collection(text or "")
        if text:
            self._check_signatures(Manifest(text), user, token)
        new = offline_collection(old_text)
        for target in sorted(replace):
            if not target.startswith("/"):
                raise invalid(f"replace_files target {target!r} does not start with /")
            path, source = target[1:], replace[target]
            if path and new.exists(path):
                new.remove(path, recursive=True)
            elif not path:
                new = offline_collection("")
            if not source:
                continue
            origin, _, inside = source.partition("/")
            if origin == "current":
                container = old
            elif origin == "manifest_text":
                container = given
            else:
                found = self.by_hash(origin, user)
                if found is None:
                    raise APIError(404, f"collection {origin} not found")
                container = offline_collection(found["manifest_text"])
            if not path and not inside:
                new = offline_collection(container.manifest_text(strip=True))
                continue
            if inside and not container.exists(inside):
                raise APIError(404, f"{source} not found")
            new.copy(inside or ".", path, source_collection=container, overwrite=True)
        return LOCATOR.sub(lambda m: f"{m[1]}+{m[2]}", new.manifest_text(strip=True))
