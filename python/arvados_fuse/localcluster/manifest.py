# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Manifests as the API handles them: checked, stripped of hints; hashed, counted.

Their order stays: who saves the same manifest to two clusters finds the same hash in both.
"""

import hashlib
import re

from .errors import invalid
from .store import Record

_LOCATOR = re.compile(r"[0-9a-f]{32}\+\d+(\+[A-Z][A-Za-z0-9@_-]*)*")
_HINTS = re.compile(r"( [0-9a-f]{32}\+\d+)(?:\+[A-Z][A-Za-z0-9@_-]*)+")
_FILE = re.compile(r"(\d+):(\d+):(\S+)")
_FILES = re.compile(r" \d+:(\d+):(\S+)")
_DIRECTORY = {".", "\\056"}


class Manifest:
    """A valid manifest: its `text` without hints, and the `given_locators` with theirs."""

    def __init__(self, text: str) -> None:
        """Raises APIError 422, naming the line, where the text is no manifest."""
        self.given_locators: list[str] = []
        self._check(text)
        self.text = without_hints(text)

    def _check(self, text: str) -> None:
        if text and not text.endswith("\n"):
            raise invalid("Manifest invalid: last line does not end with newline")
        for number, line in enumerate(text.split("\n")[:-1], 1):
            self._check_stream(number, line)

    def _check_stream(self, number: int, line: str) -> None:
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


def without_hints(text: str) -> str:
    """Return a manifest whose locators are hash and size."""
    return _HINTS.sub(r"\1", text)


def described(text: str) -> Record:
    """Return the attributes of a collection that follow from its manifest, a valid one without
    hints."""
    data = text.encode()
    size = count = 0
    streams: dict[str, set[str]] = {}
    for line in text.split("\n")[:-1]:
        files = streams.setdefault(line[: line.index(" ")], set())
        before = len(files)
        for length, name in _FILES.findall(line):
            size += int(length)
            files.add(name)
        files -= _DIRECTORY
        count += len(files) - before
    return {
        "portable_data_hash": f"{hashlib.md5(data).hexdigest()}+{len(data)}",
        "file_count": count,
        "file_size_total": size,
    }
