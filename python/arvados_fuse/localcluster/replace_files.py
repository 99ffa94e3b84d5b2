# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`replace_files` of an update or a create: parts of a collection exchanged, `{TARGET: SOURCE}`.

The rules and their statuses are those of Arvados' controller (lib/controller/localdb/collection.go),
which answers 500 where it did not think of an error.
"""

import posixpath
import re
from collections.abc import Callable, Iterator

from .errors import APIError
from .manifest import Manifest
from .streams import Directory, File, Path, Streams

_HASH = re.compile(r"[0-9a-f]{32}\+\d+")
_GIVEN = "manifest_text"
_CURRENT = "current"


def replace_files(
    current: str, given: str, wanted: dict[str, str], saved: Callable[[str], str]
) -> tuple[str, set[str]]:
    """Return the manifest that comes of `current`, and the blocks in it that are from `given`.

    `given` is the manifest in the request; `saved` returns that of a portable data hash. None of
    them but `given` has hints. APIError 400 or 500 where the request breaks a rule.
    """
    if given and not any(source.startswith(f"{_GIVEN}/") for source in wanted.values()):
        raise _bad(
            "invalid request: attrs['manifest_text'] was provided, but would not be used because "
            "it is not referenced by any 'replace_files' entry"
        )
    targets = {target: _target(target, wanted) for target in sorted(wanted)}
    # Who replaces the root begins with an empty collection, and finds nothing in the current one.
    result = Streams("" if "/" in wanted else current)
    sources = _Sources(result, given, wanted, saved)
    for target, path in targets.items():
        if path and not wanted[target]:
            _remove(result, target, path)
    for target, path in targets.items():
        if wanted[target]:
            _put(result, target, path, sources.get(target, wanted[target]))
    return result.text(), sources.given_blocks


def _bad(message: str) -> APIError:
    return APIError(400, message)


def _target(target: str, wanted: dict[str, str]) -> Path:
    """Return the path of a target; APIError 400 where it is none, or inside another one."""
    if target == "/":
        return ()
    parts = target.split("/")
    if len(parts) < 2 or parts[0] or not {"", ".", ".."}.isdisjoint(parts[1:]):
        raise _bad(f"invalid replace_files target: {target!r}")
    for depth in range(1, len(parts)):
        outer = "/".join(parts[:depth]) or "/"
        if wanted.get(outer):
            raise _bad(
                f"replace_files: cannot operate on target {target!r} inside non-empty target "
                f"{outer!r}"
            )
    return tuple(parts[1:])


def _remove(result: Streams, target: str, path: Path) -> None:
    if result.file_above(path):
        raise APIError(500, f"RemoveAll({target}): not a directory")
    result.remove(path)


def _put(result: Streams, target: str, path: Path, what: File | Directory) -> None:
    file = result.file_above(path)
    if file and len(file) < len(path) - 1:
        raise _bad(f"error creating parent dirs for {target!r}: not a directory")
    if file:
        raise APIError(500, f"error splicing snapshot onto path {target!r}: not a directory")
    if not path and isinstance(what, list):
        raise APIError(
            500,
            f"error splicing snapshot onto path {target!r}: "
            "cannot replace a top-level directory with a file",
        )
    result.put(path, what)


class _Missing(Exception):
    """There is nothing at a path, or a file (`not_a_directory`) above it."""

    def __init__(self, *, not_a_directory: bool) -> None:
        super().__init__("not a directory" if not_a_directory else "file does not exist")
        self.not_a_directory = not_a_directory


def _found(streams: Streams, name: str) -> File | Directory:
    """Return what a source names, which need not be canonical; _Missing where there is nothing."""
    clean = posixpath.normpath("/" + name)
    path = tuple(part for part in clean.split("/") if part)
    if streams.file_above(path):
        raise _Missing(not_a_directory=True)
    found = streams.get(path)
    if found is None:
        raise _Missing(not_a_directory=False)
    if isinstance(found, list) and name.endswith(("/", "/.")):
        raise _Missing(not_a_directory=True)
    return found


class _Sources:
    """What sources name. Those in the current collection are looked up before it changes: two
    files may change places."""

    def __init__(
        self, current: Streams, given: str, wanted: dict[str, str], saved: Callable[[str], str]
    ) -> None:
        self._given = given
        self._saved = saved
        self._loaded: dict[str, Streams] = {}
        self._current = {
            source: self._in_current(current, source)
            for source in wanted.values()
            if source.startswith(f"{_CURRENT}/")
        }
        self.given_blocks: set[str] = set()

    @staticmethod
    def _in_current(current: Streams, source: str) -> File | Directory:
        try:
            return _found(current, source.partition("/")[2])
        except _Missing as error:
            if error.not_a_directory:
                raise APIError(500, f"{source}: {error}") from error
            raise _bad(f"replace_files: nonexistent source {source!r}") from error

    def get(self, target: str, source: str) -> File | Directory:
        """Return what a source names."""
        origin, _, name = source.partition("/")
        if origin == _CURRENT:
            if source not in self._current:
                raise APIError(500, f"internal error: current[{source}] == nil")
            return self._current[source]
        if origin not in self._loaded:
            self._loaded[origin] = self._load(target, source, origin)
        try:
            found = _found(self._loaded[origin], name)
        except _Missing as error:
            raise _bad(
                f"error getting snapshot of {name or '/'!r} from {origin!r}: {error}"
            ) from error
        if origin == _GIVEN:
            self.given_blocks.update(_blocks(found))
        return found

    def _load(self, target: str, source: str, origin: str) -> Streams:
        if origin == _GIVEN:
            try:
                streams = Streams(Manifest(self._given).text)
            except APIError as error:
                raise _bad(f"replace_files: malformed manifest_text: {error}") from error
            twice = streams.ambiguous()
            if twice:
                name = "/".join(twice)
                raise _bad(f"replace_files: malformed manifest_text: {name!r} is a directory")
            return streams
        if _HASH.fullmatch(origin):
            return Streams(self._saved(origin))
        raise _bad(
            f'invalid source {source!r} for replace_files[{target!r}]: must be "" or "SRC" or '
            '"SRC/path" where SRC is "current", "manifest_text", or a portable data hash'
        )


def _blocks(what: File | Directory) -> Iterator[str]:
    files = [what] if isinstance(what, list) else [f for s in what.values() for f in s.values()]
    return (block for file in files for block, _, _ in file)
