# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`replace_segments` of an update or a create: the same bytes from other blocks, wherever they are
in the collection, `{"LOCATOR OFFSET LENGTH": "LOCATOR OFFSET LENGTH"}`.

The rules and their statuses are those of Arvados' controller (lib/controller/localdb/collection.go).
"""

from .blobsign import LOCATOR, bare
from .errors import APIError
from .streams import Segment, Streams


def replace_segments(current: str, wanted: dict[str, str]) -> tuple[str, set[str]]:
    """Return the manifest that comes of `current` (which has no hints), and the locators that came
    into it, as they were given.

    A segment that is no whole one of a file is not replaced, and neither is any other that would be
    in the same new block: of two clients that pack the same files, one has its way as a whole.
    APIError 400 where a replacement that would be made is none.
    """
    pairs = [(_parsed(old), _parsed(new)) for old, new in wanted.items()]
    olds = [(bare(locator), offset, length) for (locator, offset, length), _ in pairs]
    streams = Streams(current)
    touched = list(streams.using({block for block, _, _ in olds}))
    there = {segment for files in touched for file in files.values() for segment in file}
    skipped = {bare(new[0]) for old, (_, new) in zip(olds, pairs) if old not in there}
    exchange: dict[Segment, Segment] = {}
    used: set[str] = set()
    for old, (_, new) in zip(olds, pairs):
        locator, offset, length = new
        if bare(locator) not in skipped:
            _check(old, new)
            exchange[old] = (bare(locator), offset, length)
            used.add(locator)
    if not exchange:
        return current, used
    for files in touched:
        for name, file in files.items():
            files[name] = [exchange.get(segment, segment) for segment in file]
    return streams.text(), used


def _parsed(text: str) -> Segment:
    words = text.split()
    try:
        locator, offset, length = words
        return locator, int(offset), int(length)
    except ValueError as error:
        raise APIError(500, f"transcode: {text!r} is no segment of a block") from error


def _check(old: Segment, new: Segment) -> None:
    locator, offset, length = new
    if length != old[2]:
        why = f"mismatched length: replacing segment length {old[2]} with segment length {length}"
    elif not (found := LOCATOR.fullmatch(locator)):
        why = "invalid replacement locator"
    elif offset < 0 or offset + length > int(found[2]):
        why = f"invalid replacement: offset {offset} + length {length} > block size {found[2]}"
    else:
        return
    raise APIError(400, f"replace_segments: {why}")
