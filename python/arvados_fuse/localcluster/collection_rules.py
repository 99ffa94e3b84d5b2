# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What is special about collections: manifests, hashes, signatures, parts that are replaced."""

import re
from collections.abc import Iterable
from types import NoneType
from typing import TYPE_CHECKING, Any

from . import manifest, query
from .blobsign import bare
from .errors import APIError, forbidden, invalid, not_found
from .permissions import READ
from .replace_files import replace_files
from .replace_segments import replace_segments
from .store import Record

if TYPE_CHECKING:
    from .service import Service

_HASH = re.compile(r"[0-9a-f]{32}\+\d+")
_EMPTY_BLOCK = "d41d8cd98f00b204e9800998ecf8427e+"


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
        """Take over a manifest, or the changes to one that the parameters ask for."""
        # An update that does not ask for it asks against it.
        record["preserve_version"] = bool(attributes.get("preserve_version"))
        text = self._new_text(record, attributes.get("manifest_text"), user, token, params)
        if text is None:
            if "portable_data_hash" in record:
                return
            text = ""
        described = manifest.described(text)
        claimed, computed = attributes.get("portable_data_hash"), described["portable_data_hash"]
        if claimed and claimed != computed:
            raise invalid(f"Portable data hash {claimed} does not match computed hash {computed}")
        record.update(described, manifest_text=text)

    def complete(self, record: Record) -> None:
        """Give a record what follows from its manifest, where it lacks it."""
        if {"portable_data_hash", "file_count", "file_size_total"} <= record.keys():
            return
        text = manifest.Manifest(record.get("manifest_text", "")).text
        for name, value in manifest.described(text).items():
            record.setdefault(name, value)

    def _new_text(
        self, record: Record, given: str | None, user: Record, token: str, params: dict[str, Any]
    ) -> str | None:
        """Return the manifest, without hints, that a request asks for; None where it asks for none."""
        files = self._exchanged(params, "replace_files")
        segments = self._exchanged(params, "replace_segments")
        text = None
        if files:
            text = self._with_files(record, given or "", files, user, token)
        elif given is not None:
            checked = manifest.Manifest(given)
            text = checked.text
            # What is there already may be sent back as it is: without signatures.
            if text != record.get("manifest_text"):
                self._check_signatures(checked.given_locators, user, token)
        if segments:
            text = self._current(record) if text is None else text
            text, locators = replace_segments(text, segments)
            self._check_signatures(locators, user, token)
        return text

    def _exchanged(self, params: dict[str, Any], name: str) -> dict[str, str]:
        """Return a parameter that maps what is replaced to what replaces it. As a server that does
        not know it, one without them does not look at it."""
        if not self._service.replace_files:
            return {}
        wanted = query.parameter(params, name) or {}
        if not isinstance(wanted, dict) or not all(
            isinstance(value, (str, NoneType)) for value in wanted.values()
        ):
            raise APIError(500, f"transcode: {name} must map strings to strings")
        return {key: value or "" for key, value in wanted.items()}

    @staticmethod
    def _current(record: Record) -> str:
        # Fixtures may have hints.
        return manifest.without_hints(record.get("manifest_text", ""))

    def _with_files(
        self, record: Record, given: str, wanted: dict[str, str], user: Record, token: str
    ) -> str:
        def saved(portable_data_hash: str) -> str:
            found = self.by_hash(portable_data_hash, user)
            if found is None:
                raise not_found(portable_data_hash)
            return self._current(found)

        old = self._service.store.get("collections", record["uuid"])
        if "/" not in wanted and old is not None and self._service.store.trashed(old):
            raise not_found(record["uuid"])
        text, given_blocks = replace_files(self._current(record), given, wanted, saved)
        if given_blocks:
            locators = manifest.Manifest(given).given_locators
            used = [locator for locator in locators if bare(locator) in given_blocks]
            self._check_signatures(used, user, token)
        return text

    def _check_signatures(self, locators: Iterable[str], user: Record, token: str) -> None:
        signer = self._service.signer
        if not signer.enabled or user["is_admin"]:
            return
        for locator in locators:
            # There is nothing in the empty block that anybody could be kept from.
            if not signer.valid(locator, token) and not locator.startswith(_EMPTY_BLOCK):
                raise forbidden(f"Locator {locator[:32]} has no valid signature")
