# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the local cluster makes of manifests: what the SDK writes."""

import random

import arvados.collection
from arvados_fuse.localcluster.streams import Streams

EMPTY = "d41d8cd98f00b204e9800998ecf8427e+0"
A, B, C = ("a" * 32 + "+1", "b" * 32 + "+2", "c" * 32 + "+3")


class NoCluster:
    """In the place of an API client, for manifests that are only read and written."""

    _rootDesc: dict = {}
    keep = None
    num_prefetch_threads = 0


def normal(text: str) -> str:
    """Return a manifest as the SDK writes it."""
    collection = arvados.collection.Collection(
        text, api_client=NoCluster(), keep_client=NoCluster()
    )
    return collection.manifest_text(normalize=True)


# The tree of a manifest

NAMES = ["a", "b", "a b", "a:b", "a\\b", "aa", ".a", "a.", "é", "a-", "\x01", "B", "a0"]
LOCATORS = [f"{number:032x}+{size}" for number, size in enumerate((1, 2, 3, 7, 10, 100))]

#: A directory by name, a file as its segments.
Tree = dict[str, "Tree | list[tuple[str, int, int]]"]


def random_file(chance: random.Random) -> list[tuple[str, int, int]]:
    file = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        block = chance.choice(LOCATORS)
        size = int(block.partition("+")[2])
        offset = chance.choice((0, chance.randrange(size)))
        file.append((block, offset, chance.choice((size - offset, 1))))
    return file


def random_tree(chance: random.Random, depth: int = 3) -> Tree:
    tree: Tree = {}
    for name in chance.sample(NAMES, chance.choice((0, 1, 2, 3, 5))):
        deeper = depth > 0 and chance.random() < 0.4
        tree[name] = random_tree(chance, depth - 1) if deeper else random_file(chance)
    return tree


def escaped(name: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in "\\:" or c <= " " else c for c in name)


def written(tree: Tree, chance: random.Random, path: str = ".") -> list[str]:
    """Return a tree's streams, as no program would write them."""
    lines = []
    files = []
    for name, inside in tree.items():
        if isinstance(inside, dict):
            below = written(inside, chance, f"{path}/{escaped(name)}")
            empty = f"{path}/{escaped(name)} {EMPTY} 0:0:\\056\n"
            if chance.random() < 0.2:
                empty = f"{path} {EMPTY} 0:0:{escaped(name)}/\\056\n"
            lines += below or [empty]
        else:
            files.append((name, inside))
    chance.shuffle(files)
    while files:
        # The same stream twice, and streams with directories in the names of their files.
        here, files = files[: (half := chance.randint(1, len(files)))], files[half:]
        blocks, tokens, length = [], [], 0
        stream, _, inside = path.rpartition("/") if chance.random() < 0.2 else (path, "", "")
        slash = chance.choice(("/", "\\057"))
        stream, inside = (stream, inside + slash) if stream and inside else (path, "")
        for name, segments in here:
            for block, offset, size in segments:
                blocks.append(block)
                tokens.append(f"{length + offset}:{size}:{inside}{escaped(name)}")
                length += int(block.partition("+")[2])
            if not segments:
                tokens.append(f"0:0:{inside}{escaped(name)}")
        lines.append(" ".join([stream, *(blocks or [EMPTY]), *tokens]) + "\n")
    return lines


def text_of(tree: Tree, chance: random.Random) -> str:
    return "".join(written(tree, chance))


def test_streams_are_written_as_the_sdk_writes_them(chance: random.Random) -> None:
    for _ in range(300):
        text = text_of(random_tree(chance), chance)
        streams = Streams(text)
        for _ in streams.using(set(text.split(" "))):
            pass
        assert streams.text() == normal(text), text


def test_streams_with_odd_names() -> None:
    odd = f"./a//b {A} 0:1:f\n./a/./c {B} 0:2:g\n./d/ {C} 0:3:h\n. {EMPTY} 0:0:.\n"
    streams = Streams(odd)
    assert list(streams.using({A, B, C, EMPTY}))
    assert streams.text() == f"./a/b {A} 0:1:f\n./a/c {B} 0:2:g\n./d {C} 0:3:h\n"


def test_empty_blocks_are_in_no_file() -> None:
    streams = Streams(f". {A} {EMPTY} {B} 0:3:f\n")
    assert streams.get(("f",)) == [(A, 0, 1), (B, 0, 2)]


def test_what_is_put_at_two_places_is_two_things() -> None:
    streams = Streams(f". {A} 0:1:f\n")
    what = streams.get(())
    assert what is not None
    for place in ("x", "y"):
        streams.put((place,), what)
    streams.remove(("x", "f"))
    assert streams.text() == f". {A} 0:1:f\n./x {EMPTY} 0:0:\\056\n./y {A} 0:1:f\n"
