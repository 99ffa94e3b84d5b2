# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Manifests as the API handles them: checked, stripped of hints, hashed, counted.

Their order stays: who saves the same manifest to two clusters finds the same hash in both.
"""

import hashlib
import re
from typing import Any

from .errors import invalid

_LOCATOR = re.compile(r"[0-9a-f]{32}\+\d+(\+[A-Z][A-Za-z0-9@_-]*)*")
_HINTS = re.compile(r"( [0-9a-f]{32}\+\d+)(?:\+[A-Z][A-Za-z0-9@_-]*)+")
_FILE = re.compile(r"(\d+):(\d+):(\S+)")


class Manifest:
    """A manifest without hints: `text`, `portable_data_hash`, `locators`, `file_count`, `size`."""

    def __init__(self, text: str) -> None:
        """Raises APIError 422, naming the line, where the text is no manifest."""
        self.given_locators: list[str] = []
        self.file_count = 0
        self.size = 0
        self._check(text)
        self.text = _HINTS.sub(r"\1", text)
        data = self.text.encode()
        self.portable_data_hash = f"{hashlib.md5(data).hexdigest()}+{len(data)}"

    def _check(self, text: str) -> None:
        if text and not text.endswith("\n"):
            raise invalid("Manifest invalid: last line does not end with newline")
        seen: set[tuple[str, str]] = set()
        for number, line in enumerate(text.split("\n")[:-1], 1):
            self._check_stream(number, line, seen)

    def _check_stream(self, number: int, line: str, seen: set[tuple[str, str]]) -> None:
        def bad(why: str) -> Exception:
            return invalid(f"Manifest invalid for stream {number}: {why}")

        words = line.split(" ")
        stream = words[0]
        if stream != "." and not stream.startswith("./"):
            raise bad("missing or invalid stream name")
        locators, length, at = 0, 0, 1
        while at < len(words) and _LOCATOR.fullmatch(words[at]):
            self.given_locators.append(words[at])
            length += int(words[at].split("+")[1])
            locators += 1
            at += 1
        if not locators:
            raise bad("missing block locator")
        if at == len(words):
            raise bad("no files in stream")
        for word in words[at:]:
            file = _FILE.fullmatch(word)
            if file is None:
                raise bad(f"invalid file token {word!r}")
            if int(file[1]) + int(file[2]) > length:
                raise bad(f"file token {word!r} goes past the end of the stream")
            self.size += int(file[2])
            if file[3] not in (".", "\\056") and (stream, file[3]) not in seen:
                seen.add((stream, file[3]))
                self.file_count += 1


class _NoCluster:
    """In the place of an API client, for collections that are only rearranged."""

    _rootDesc: dict = {}
    keep = None
    num_prefetch_threads = 0


def offline_collection(text: str) -> Any:
    """Return the SDK's collection object for a manifest, without a cluster behind it."""
    from arvados.collection import Collection

    return Collection(text, api_client=_NoCluster(), keep_client=_NoCluster())
