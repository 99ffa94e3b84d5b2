# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A manifest as a tree that can be rearranged, at the price of splitting its text into lines.

A stream stays the line that it was until something in it is asked for or changed. What is written
out again is in normal form: streams by the parts of their names, files by name, blocks in the order
of their first use, segments that follow on each other joined; the same text that the SDK writes.

A path is its parts, as a tuple; the root's is empty.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate

#: Part of a block: its locator, where the part begins, its length (bytes).
Segment = tuple[str, int, int]
#: A file is its segments.
File = list[Segment]
Files = dict[str, File]
#: A directory is the streams in it, by their keys below its own.
Directory = dict[str, Files]
Path = tuple[str, ...]

_EMPTY_BLOCK = "d41d8cd98f00b204e9800998ecf8427e+0"
_ESCAPED = re.compile(r"\\([0-3][0-7]{2}|\\)")
_TO_ESCAPE = re.compile(r"[\\:\000-\040]")
#: Between the parts of a stream's key: less than whatever is in a name, so that keys sort as their
#: parts do. No name has it.
_SLASH = "\0"


class Streams:
    """The streams of a manifest that is valid and without hints."""

    def __init__(self, text: str) -> None:
        self._streams: dict[str, str | Files] = {}
        escaped_slash = "\\057" in text
        for line in text.split("\n")[:-1]:
            name = line[: line.index(" ")]
            key = _key(name)
            # Streams given twice, and files with directories in their names.
            if (
                key in self._streams
                or line.find("/", len(name)) >= 0
                or (escaped_slash and "\\057" in line)
            ):
                self._merge(key, line)
            else:
                self._streams[key] = line
        self._order = sorted(self._streams)

    def _merge(self, key: str, line: str) -> None:
        self._files(key)
        for name, file in _parsed(line).items():
            *inside, base = name.split("/")
            parts = (part for part in (key, *inside) if part not in ("", "."))
            files = self._files(_SLASH.join(parts))
            if base != ".":
                files.setdefault(base, []).extend(file)

    def _files(self, key: str) -> Files:
        """Return the files of a stream, which is made where it is not there and `_order` does not
        have yet."""
        found = self._streams.get(key)
        if not isinstance(found, dict):
            found = {} if found is None else _parsed(found)
            self._streams[key] = found
        return found

    def _made(self, key: str) -> Files:
        if key not in self._streams:
            self._order.insert(bisect_left(self._order, key), key)
        return self._files(key)

    def _below(self, key: str) -> slice:
        """Return where in `_order` a directory's streams are."""
        if not key:
            return slice(0, len(self._order))
        return slice(bisect_left(self._order, key), bisect_left(self._order, key + "\1"))

    def _is_directory(self, key: str) -> bool:
        below = self._below(key)
        return not key or below.start < below.stop

    def _is_file(self, path: Path) -> bool:
        key = _SLASH.join(path[:-1])
        return key in self._streams and path[-1] in self._files(key)

    def file_above(self, path: Path) -> Path | None:
        """Return the path of a file where `path` would need a directory."""
        for depth in range(1, len(path)):
            if not self._is_directory(_SLASH.join(path[:depth])):
                return path[:depth] if self._is_file(path[:depth]) else None
        return None

    def ambiguous(self) -> Path | None:
        """Return a path that is a directory and a file, too."""
        for key in self._order:
            path = tuple(key.split(_SLASH)) if key else ()
            for depth in range(1, len(path) + 1):
                if self._is_file(path[:depth]):
                    return path[:depth]
        return None

    def get(self, path: Path) -> File | Directory | None:
        """Return what is at a path, as it is now."""
        key = _SLASH.join(path)
        if self._is_directory(key):
            skip = len(key) + 1 if key else 0
            return {at[skip:]: dict(self._files(at)) for at in self._order[self._below(key)]}
        return self._files(_SLASH.join(path[:-1]))[path[-1]] if self._is_file(path) else None

    def remove(self, path: Path) -> None:
        """Remove what is at a path, if anything is. The directory that it was in stays."""
        if self._take_out(path) and not self._is_directory(parent := _SLASH.join(path[:-1])):
            self._made(parent)

    def _take_out(self, path: Path) -> bool:
        below = self._below(_SLASH.join(path))
        keys = self._order[below]
        for key in keys:
            del self._streams[key]
        del self._order[below]
        if keys or not path or not self._is_file(path):
            return bool(keys)
        del self._files(_SLASH.join(path[:-1]))[path[-1]]
        return True

    def put(self, path: Path, what: File | Directory) -> None:
        """Have that at a path, instead of what is there, and the directories above it. There is no
        file above it, and the root is no file."""
        self._take_out(path)
        if isinstance(what, list):
            self._made(_SLASH.join(path[:-1]))[path[-1]] = what
            return
        key = _SLASH.join(path)
        streams: Directory = {}
        for name, files in (what or {"": {}}).items():
            streams[_SLASH.join(filter(None, (key, name)))] = dict(files)
        self._streams.update(streams)
        at = bisect_left(self._order, key)
        self._order[at:at] = sorted(streams)

    def using(self, blocks: set[str]) -> Iterator[Files]:
        """Iterate over the files of the streams that have any of these blocks; what is changed in
        them is changed here."""
        for key in self._order:
            found = self._streams[key]
            if not isinstance(found, str) or not blocks.isdisjoint(found.split(" ")):
                yield self._files(key)

    def text(self) -> str:
        """Return the manifest."""
        lines = []
        for at, key in enumerate(self._order):
            stream = self._streams[key]
            if isinstance(stream, str):
                lines.append(stream)
            elif stream:
                lines.append(_line(key, stream))
            elif key and not "".join(self._order[at + 1 : at + 2]).startswith(key + _SLASH):
                lines.append(f"{_name(key)} {_EMPTY_BLOCK} 0:0:\\056")
        return "".join(f"{line}\n" for line in lines)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda m: "\\" if m[1] == "\\" else chr(int(m[1], 8)), text)


def _escaped(text: str) -> str:
    return _TO_ESCAPE.sub(lambda m: f"\\{ord(m[0]):03o}", text)


def _key(name: str) -> str:
    """Return the key of a stream from its name in the text."""
    if "\\" in name:
        name = _unescaped(name)
    if "//" in name or "/." in name or name.endswith("/"):
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
        return name.replace("/", _SLASH)
    return name[2:].replace("/", _SLASH)


def _name(key: str) -> str:
    """Return the name that a stream has in the text."""
    return _escaped("/".join((".", *key.split(_SLASH)))) if key else "."


def _size(locator: str) -> int:
    return int(locator.split("+", 2)[1])


def _parsed(line: str) -> Files:
    """Return the files of a stream; empty ones named `.` say only that it is there."""
    words = line.split(" ")
    count = 1
    while ":" not in words[count]:
        count += 1
    blocks = [block for block in words[1:count] if not block.endswith("+0")]
    # Where each begins, and where the last one ends.
    starts = [0, *accumulate(map(_size, blocks))]
    files: Files = {}
    for word in words[count:]:
        first, length, name = word.split(":", 2)
        if "\\" in name:
            name = _unescaped(name)
        begin = int(first)
        end = begin + int(length)
        file: File = []
        index = bisect_right(starts, begin) - 1
        while begin < end:
            following = starts[index + 1]
            size = (end if end < following else following) - begin
            file.append((blocks[index], begin - starts[index], size))
            begin += size
            index += 1
        if name in files:
            file = files[name] + file
        files[name] = file
    files.pop(".", None)
    return files


def _line(key: str, files: Files) -> str:
    """Return a stream in normal form."""
    ordered = sorted(files.items())
    starts: dict[str, int] = {}
    length = 0
    for _, file in ordered:
        for block, _, _ in file:
            if block not in starts:
                starts[block] = length
                length += _size(block)
    words = [_name(key), *(starts or (_EMPTY_BLOCK,))]
    for name, file in ordered:
        name = _escaped(name)
        begin = end = -1
        for block, offset, size in file:
            first = starts[block] + offset
            if first != end:
                if begin >= 0:
                    words.append(f"{begin}:{end - begin}:{name}")
                begin = end = first
            end += size
        words.append(f"{begin}:{end - begin}:{name}" if file else f"0:0:{name}")
    return " ".join(words)
