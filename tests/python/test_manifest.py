# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Manifests as the core reads them, against the SDK's reading of the same text.

What the two do differently on purpose is in docs/manifest.md; each difference has its case here.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from arvados._internal import streams
from arvados.arvfile import ArvadosFile
from arvados.collection import Collection
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llfuse._core import ManifestTree, strip_manifest

thorough = settings(
    max_examples=400,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

FOO = "acbd18db4cc2f85cedef654fccc4a4d8+3"
BAR = "37b51d194a7513e45b56f6524f2d51f2+3"
EMPTY = "d41d8cd98f00b204e9800998ecf8427e+0"


class LostData(Exception):
    """The SDK does not find a byte that its blocks hold, and leaves the segment out."""


@contextmanager
def lost_data_seen() -> Iterator[None]:
    """Within, where the SDK's search for a block stumbles over an empty one, LostData is raised."""
    search = streams.first_block

    def checked(ranges: Any, start: int) -> Any:
        found = search(ranges, start)
        if found is None and any(
            r.range_start <= start < r.range_start + r.range_size for r in ranges
        ):
            raise LostData
        return found

    with mock.patch.object(streams, "first_block", checked):
        yield


class NoCluster:
    """In the place of an API client and a Keep client, for collections that are only read."""

    _rootDesc: dict = {}
    keep = None
    num_prefetch_threads = 0


def read_by_sdk(text: str) -> Any:
    """Return the SDK's collection, read as one that comes from the API server."""
    collection = Collection("", api_client=NoCluster(), keep_client=NoCluster())
    collection._import_manifest(text)
    collection._manifest_text = text
    return collection


def contents(collection: Any, above: str = "") -> tuple[list[Any], list[str]]:
    """Return all files (path, size, segments) and the paths of all directories."""
    files, directories = [], []
    for name, item in collection.items():
        path = above + name
        if isinstance(item, ArvadosFile):
            segments = [(s.locator, s.segment_offset, s.range_size) for s in item.segments()]
            files.append((path, item.size(), segments))
        else:
            directories.append(path)
            for found, all_found in zip(contents(item, path + "/"), (files, directories)):
                all_found.extend(found)
    return files, directories


def assert_same(text: str, sdk: Any) -> None:
    tree = ManifestTree(text)
    files, directories = contents(sdk)
    assert sorted(tree.files()) == sorted(files)
    assert sorted(tree.directories()) == sorted(directories)
    assert tree.normalized() == sdk.manifest_text(normalize=True)
    assert tree.stripped() == sdk.portable_manifest_text()
    assert tree.portable_data_hash() == sdk.portable_data_hash()
    assert strip_manifest(text) == sdk.stripped_manifest()
    again = ManifestTree(tree.normalized())
    assert [(path, size) for path, size, _ in again.files()] == [(p, s) for p, s, _ in tree.files()]
    assert again.directories() == tree.directories()
    if all(length for _, _, segments in files for _, _, length in segments):
        # The SDK writes empty blocks within a file first and leaves them out the second time.
        assert again.normalized() == tree.normalized()


# Random manifests: few blocks, names and paths, so that everything meets everything else.


def signature(draw: Any) -> str:
    return (
        f"+A{draw(st.integers(0, 2)):040x}@{draw(st.sampled_from([0, 0x65F00000, 0xFFFFFFFF])):08x}"
    )


@st.composite
def locators(draw: Any) -> tuple[str, int]:
    size = draw(st.sampled_from([0, 1, 2, 3, 5, 64, 1 << 26]))
    seed = draw(st.integers(0, 2))
    digest = hashlib.md5(b"%d %d" % (size, seed)).hexdigest() if size else EMPTY[:32]
    hints = draw(
        st.sampled_from(
            ["", "", "", "sign", "+K@zzzzz", "sign+K@zzzzz-bi6l4-012345678901234", "+Zz"]
        )
    )
    return f"{digest}+{size}{hints.replace('sign', signature(draw))}", size


# No white space but what is escaped: to the SDK, any of Unicode's ends a token.
CHARACTERS = "aaabBcd.\\: \t\n\0\x7f\xa0\xe9\xff\u2028\U0001f600"
names = st.text(CHARACTERS, min_size=1, max_size=4)


@st.composite
def escaped(draw: Any, name: str) -> str:
    """Return the name with all escapes that it needs, and some that it does not."""
    out = ""
    for each in name:
        if each in "\u2028":
            each = "x"  # what cannot be escaped
        must = each.isspace() or each in "\\\0"
        may = ord(each) < 256 and each != "/"
        out += "\\%03o" % ord(each) if must or (may and draw(st.integers(0, 4)) == 0) else each
    return out


@st.composite
def paths(draw: Any, least: int, most: int) -> str:
    few = st.one_of(st.sampled_from(["a", "b", "c", "d"]), names)
    return "/".join(draw(escaped(draw(few))) for _ in range(draw(st.integers(least, most))))


@st.composite
def stream_lines(draw: Any) -> str:
    blocks = draw(st.lists(locators(), min_size=1, max_size=6))
    total = sum(size for _, size in blocks)
    edges = [0, *(sum(size for _, size in blocks[: n + 1]) for n in range(len(blocks)))]
    tokens = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.integers(0, 7)) == 0:
            tokens.append("0:0:" + draw(st.sampled_from([".", "\\056", "d/.", "a/b/\\056"])))
            continue
        ends = st.one_of(st.sampled_from(edges), st.integers(0, total))
        begin, end = sorted([draw(ends), draw(ends)])
        tokens.append(f"{begin}:{end - begin}:{draw(paths(1, 2))}")
    stream = "/".join(["."] + [each for each in [draw(paths(0, 2))] if each])
    separator = draw(st.sampled_from([" ", " ", " ", "  ", "\t"]))
    return separator.join([stream, *(token for token, _ in blocks), *tokens])


manifests = st.lists(stream_lines(), min_size=1, max_size=5).map(
    lambda lines: "\n".join(lines) + "\n"
)


@thorough
@given(manifests)
def test_random_manifests_are_read_as_the_sdk_reads_them(text: str) -> None:
    with lost_data_seen():
        try:
            sdk = read_by_sdk(text)
        except LostData:
            assume(False)
        except Exception:  # a file that is a directory as well, and the like
            with pytest.raises(ValueError, match=r"manifest line \d+: "):
                ManifestTree(text)
            return
    try:
        assert_same(text, sdk)
    except ValueError as error:
        assert stricter(error), error


def stricter(error: ValueError) -> bool:
    """Whether this is a text that the SDK takes and the core refuses, as docs/manifest.md says."""
    reasons = (
        "reaches past the",
        "nothing follows the stream's name",
        "empty name in the path",
        "white space at the end",
        "followed by something other than hints",
        "larger than any block",
        "both a file and a directory",
        "too large",
    )
    return any(reason in str(error) for reason in reasons)


@st.composite
def spoilt(draw: Any) -> str:
    """Return a manifest with a few characters, tokens or lines lost, doubled or replaced."""
    text = draw(manifests)
    others = [*"0:+\\/. \nax", "", "//", ":", "0:0:a", "0:1:a/b", FOO, EMPTY + "+Zz"]
    for _ in range(draw(st.integers(1, 3))):
        unit = draw(st.sampled_from(["", " ", "\n"]))
        parts = text.split(unit) if unit else list(text) or [""]
        at = draw(st.integers(0, len(parts) - 1))
        here, other = parts[at], draw(st.sampled_from(others))
        parts[at : at + 1] = draw(st.sampled_from([[], [other], [here, here], [other, here]]))
        text = unit.join(parts)
    return text


@thorough
@given(spoilt())
def test_malformed_manifests_are_refused_as_the_sdk_refuses_them(text: str) -> None:
    with lost_data_seen():
        try:
            sdk = read_by_sdk(text)
        except LostData:
            assume(False)
        except Exception:
            with pytest.raises(ValueError, match=r"manifest line \d+: "):
                ManifestTree(text)
            return
    try:
        ManifestTree(text)
    except ValueError as error:
        assert stricter(error), error
        return
    try:
        sdk.manifest_text(normalize=True)
    except ValueError:  # it cannot write every hint that it reads
        return
    # Of a block's length, the core keeps what it is, not how it was written.
    assume(re.search(r"\+0\d", text) is None)
    assert_same(text, sdk)


@pytest.mark.parametrize(
    "text",
    [
        f". {FOO}\n.. 0:3",
        f". {FOO} 0:3:a {BAR} 3:3:b\n",
        f". {FOO} 0:3:a\n./b\n. {FOO} 0:3:a\n",
        f". {FOO} x:3:a\n",
        f". {FOO} 0:-3:a\n",
        f". {FOO} 0:3:\n",
        f". {FOO.upper()} 0:3:a\n",
        f". {FOO[:32]} 0:3:a\n",
        ". 0:3:a\n",
        f". {FOO} 0:3:a/b 0:3:a\n",
        f". {FOO} 0:3:a 0:3:a/b\n",
        f"./a {FOO} 0:3:b\n./a/b/c {FOO} 0:3:d\n",
        f"./a/b {FOO} 0:3:c\n. {FOO} 0:3:a\n",
        f". {FOO} 0:3:a//b\n",
        f". {FOO} 0:3:/a\n",
        f"/ {FOO} 0:3:a\n",
        f". {FOO} 0:3:a/\n",
        f". {FOO} 0:3:a\r\n. {FOO} 0:3:b\r\n",
        f". {FOO} 0:3:a \n. {FOO} 0:3:b\n",
    ],
)
def test_both_refuse(text: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  (the SDK has many kinds)
        read_by_sdk(text)
    with pytest.raises(ValueError, match=r"manifest line \d+: "):
        ManifestTree(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f". {FOO} 0:3:a",
        f"  . {FOO} 0:3:a \n\n",
        f"./ {FOO} 0:3:a\n",
        f"foo/ {FOO} 0:3:a\nbar 0:0:.\n",
        f"./a/ {FOO} 0:3:b\n. 0:0:c\n",
        f". {FOO} 9:0:a\n",
        f". {FOO} 0:3:./a 0:3:../b\n./. {FOO} 0:3:a\n",
        f". {FOO} 0:3:a\\b\\08 0:3:\\377\\400\n",
        f". {FOO} 0:3:a:b 0:0:a/b/. 0:0:c/. 0:3:c/d\n".replace("a/b", "x/y"),
        f". {EMPTY} {FOO} {EMPTY} 0:3:a\n",
        f". {FOO} {EMPTY} {BAR} 0:6:a\n",
        f". {FOO} {BAR} 3:3:b 0:3:a 1:4:b 0:0:b\n. {BAR} 0:1:b\n",
        f". {FOO} 007:0:a\n",
        f". {EMPTY}+0x+K@zzzzz 0:0:.\n",
    ],
)
def test_both_accept(text: str) -> None:
    assert_same(text, read_by_sdk(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f". {FOO} 1:3:a\n", "past the 3 bytes of its stream"),
        (f". {FOO} 4:1:a\n", "past the 3 bytes of its stream"),
        (f"./a//b {FOO} 0:0:.\n", "empty name"),
        (f". {FOO} 0:3:a\n./a {FOO} 0:0:.\n", "both a file and a directory"),
        (f". {FOO}x 0:3:a\n", "other than hints"),
        (f". {FOO}+ 0:3:a\n", "other than hints"),
        (f". {FOO[:32]}+4294967296 0:3:a\n", "larger than any block"),
        (f". {FOO} 0:99999999999999999999:a\n", "too large"),
        (f".\n {FOO} 0:3:a\n", "nothing follows the stream's name"),
        (f". {FOO} 0:3:a\n./b", "nothing follows the stream's name"),
    ],
)
def test_refused_though_the_sdk_takes_it(text: str, reason: str) -> None:
    read_by_sdk(text)
    with pytest.raises(ValueError, match=f"manifest line [12]: .*{reason}"):
        ManifestTree(text)


def test_white_space_beyond_ascii_is_part_of_a_name() -> None:
    """The SDK writes such names unescaped, and then refuses what it wrote."""
    written = read_by_sdk(f". {FOO} 0:3:a\\240b\n").manifest_text(normalize=True)
    with pytest.raises(Exception, match="Invalid manifest format"):
        read_by_sdk(written)
    assert ManifestTree(written).files() == [("a\xa0b", 3, [(FOO, 0, 3)])]


def test_bytes_after_an_empty_block_are_found() -> None:
    """The SDK's search stumbles over an empty block that begins where a file does, and loses it."""
    text = f". {FOO} {EMPTY} {BAR} 3:3:a\n"
    assert contents(read_by_sdk(text))[0] == [("a", 0, [])]
    assert ManifestTree(text).files() == [("a", 3, [(BAR, 0, 3)])]


def test_a_size_is_written_without_leading_zeros() -> None:
    digest = FOO[:32]
    text = f". {digest}+03 0:3:a\n"
    assert ManifestTree(text).normalized() == f". {digest}+3 0:3:a\n"
    assert ManifestTree(text).portable_data_hash() == read_by_sdk(text).portable_data_hash()
