# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`replace_files` and `replace_segments` of the local cluster: the rules of Arvados' controller, and
manifests as the SDK writes them."""

import copy
import os
import random
import re
import threading
from pathlib import Path
from typing import Any

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from arvados_fuse.localcluster.errors import APIError
from arvados_fuse.localcluster.replace_files import replace_files
from arvados_fuse.localcluster.replace_segments import replace_segments
from arvados_fuse.localcluster.streams import Streams
from googleapiclient.errors import HttpError

EMPTY = "d41d8cd98f00b204e9800998ecf8427e+0"
A, B, C = ("a" * 32 + "+1", "b" * 32 + "+2", "c" * 32 + "+3")
#: Another collection, `./sub` with an empty directory beside a file, and its hash.
OTHER = f"./sub {B} 0:2:o\n./sub/none {EMPTY} 0:0:\\056\n"
OTHER_HASH = "0" * 32 + "+99"


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


def saved(portable_data_hash: str) -> str:
    assert portable_data_hash == OTHER_HASH
    return OTHER


def replaced(current: str, wanted: dict[str, str], given: str = "") -> str:
    return replace_files(current, given, wanted, saved)[0]


def refused(current: str, wanted: dict[str, str], given: str = "") -> int:
    with pytest.raises(APIError) as error:
        replace_files(current, given, wanted, saved)
    return error.value.status


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


def paths(tree: Tree, above: str = "") -> list[str]:
    """Return the paths of everything in a tree, and its own."""
    found = [above]
    for name, inside in tree.items():
        path = f"{above}/{name}"
        found += paths(inside, path) if isinstance(inside, dict) else [path]
    return found


def find(tree: Tree, path: str) -> Any:
    at: Any = tree
    for name in filter(None, path.split("/")):
        if not isinstance(at, dict) or name not in at:
            raise LookupError(path)
        at = at[name]
    return copy.deepcopy(at)


def model(trees: dict[str, Tree], wanted: dict[str, str]) -> Tree:
    """Return what replacements make of `trees["current"]`; LookupError where they are refused."""
    for target in wanted:
        outers = [target[:at] or "/" for at, c in enumerate(target[:-1]) if c == "/"]
        if any(wanted.get(outer) for outer in outers):
            raise LookupError(target)
    trees = {**trees, "current": {} if "/" in wanted else trees["current"]}
    result = copy.deepcopy(trees["current"])
    for target, source in sorted(wanted.items(), key=lambda item: (item[1] != "", item[0])):
        origin, _, name = source.partition("/")
        what = find(trees[origin], name) if source else None
        if target == "/":
            if isinstance(what, list):
                raise LookupError(source)
            result.update(what or {})
            continue
        *above, last = target[1:].split("/")
        at: Any = result
        for part in above:
            at = at.setdefault(part, {}) if what is not None else at.get(part, {})
            if not isinstance(at, dict):
                raise LookupError(target)
        at.pop(last, None)
        if what is not None:
            at[last] = what
    return result


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


def random_replacements(trees: dict[str, Tree], chance: random.Random) -> dict[str, str]:
    wanted = {}
    for _ in range(chance.choice((1, 1, 2, 3, 4))):
        target = chance.choice(paths(trees["current"])) or chance.choice(("/", "/a"))
        if target != "/":
            target += chance.choice(("", "", "/new", "/new/a b"))
        origin = chance.choice(("", *trees))
        source = chance.choice(paths(trees[origin]))[1:] if origin else ""
        wanted[target] = f"{origin}/{source}" if origin else ""
    if chance.random() < 0.1:
        wanted[chance.choice(("/a", "/a b"))] = "current/missing"
    return wanted


def test_a_normal_manifest_stays_one_whatever_is_replaced(chance: random.Random) -> None:
    """Against a plain model of a tree, which the SDK writes."""
    done = refusals = 0
    while done < 300 or refusals < 30:
        names = ("current", OTHER_HASH, "manifest_text")
        trees = {name: random_tree(chance) for name in names}
        wanted = random_replacements(trees, chance)
        if not any(source.startswith("manifest_text/") for source in wanted.values()):
            trees["manifest_text"] = {}
        current = normal(text_of(trees["current"], chance))
        given, other = (text_of(trees[name], chance) for name in ("manifest_text", OTHER_HASH))
        try:
            expected = normal(text_of(model(trees, wanted), chance))
        except LookupError:
            with pytest.raises(APIError):
                replace_files(current, given, wanted, lambda _, text=other: text)
            refusals += 1
            continue
        result, _ = replace_files(current, given, wanted, lambda _, text=other: text)
        assert result == expected, (current, given, other, wanted)
        done += 1


# The rules of replace_files

CURRENT = f". {A} 0:1:f\n./d {B} 0:2:g\n./d/e {C} 0:3:h\n"


@pytest.mark.parametrize(
    "wanted, result",
    [
        # Sources
        ({"/f": ""}, f"./d {B} 0:2:g\n./d/e {C} 0:3:h\n"),
        ({"/nothing": "", "/no/thing": "", "/d/nothing/at/all": ""}, CURRENT),
        ({"/f": "current/d/g", "/d/g": "current/f"},
         f". {B} 0:2:f\n./d {A} 0:1:g\n./d/e {C} 0:3:h\n"),
        ({"/x": "current/f", "/f": "", "/d": ""}, f". {A} 0:1:x\n"),
        ({"/x": f"{OTHER_HASH}/sub/o", "/d": ""}, f". {A} {B} 0:1:f 1:2:x\n"),
        ({"/d/e": f"{OTHER_HASH}/sub/none/", "/f": ""}, f"./d {B} 0:2:g\n./d/e {EMPTY} 0:0:\\056\n"),
        # Roots
        ({"/": OTHER_HASH}, OTHER),
        ({"/": f"{OTHER_HASH}/"}, OTHER),
        ({"/": f"{OTHER_HASH}/sub"}, f". {B} 0:2:o\n./none {EMPTY} 0:0:\\056\n"),
        ({"/d": "current/", "/f": ""},
         f"./d {A} 0:1:f\n./d/d {B} 0:2:g\n./d/d/e {C} 0:3:h\n"),
        ({"/": ""}, ""),
        ({"/": "", "/x": f"{OTHER_HASH}/sub/o"}, f". {B} 0:2:x\n"),
        ({"/": "", "/x": "current/"}, f"./x {EMPTY} 0:0:\\056\n"),
        # Directories appear where they are needed, and stay
        ({"/f": "", "/d": "", "/x/y/z": "current/f"}, f"./x/y {A} 0:1:z\n"),
        ({"/f": "", "/d/g": "", "/d/e/h": ""}, f"./d/e {EMPTY} 0:0:\\056\n"),
        ({"/f": "", "/d/e": ""}, f"./d {B} 0:2:g\n"),
        ({"/f": "", "/d/e": "", "/d/g": ""}, f"./d {EMPTY} 0:0:\\056\n"),
        ({"/d/e/h": ""}, f". {A} 0:1:f\n./d {B} 0:2:g\n./d/e {EMPTY} 0:0:\\056\n"),
        # A file instead of a directory, and the other way
        ({"/d": "current/f"}, f". {A} 0:1:d 0:1:f\n"),
        ({"/f": "current/d/e", "/d": ""}, f"./f {C} 0:3:h\n"),
        # Inside what is removed
        ({"/d": "", "/d/x": "current/d/e/h"}, f". {A} 0:1:f\n./d {C} 0:3:x\n"),
        ({"/f": "", "/f/x": "current/f", "/d": ""}, f"./f {A} 0:1:x\n"),
        ({"/f": "", "/f/x": "", "/d": ""}, ""),
        # Sources need not be canonical
        ({"/f": "current//d/./g", "/d": ""}, f". {B} 0:2:f\n"),
        ({"/f": "current/d/e/../../d/g", "/d": ""}, f". {B} 0:2:f\n"),
    ],
)  # fmt: skip
def test_what_replacements_make(wanted: dict[str, str], result: str) -> None:
    assert replaced(CURRENT, wanted) == result == normal(result)


@pytest.mark.parametrize(
    "wanted, status",
    [
        *(({target: ""}, 400) for target in (
            "", ".", "f", "f/", "/f/", "//f", "/d//g", "/.", "/..", "/./f", "/d/../f", "/d/.", "//",
        )),
        ({"/d": "current/f", "/d/x": "current/f"}, 400),
        ({"/d": "current/f", "/d/x/y": ""}, 400),
        ({"/": f"{OTHER_HASH}/", "/x": ""}, 400),
        ({"/x": "current/nothing"}, 400),
        ({"/x": "current/d/nothing/at/all"}, 400),
        ({"/x": f"{OTHER_HASH}/nothing"}, 400),
        ({"/x": f"{OTHER_HASH}/sub/o/"}, 400),
        ({"/x": "manifest_text/nothing"}, 400),
        ({"/x": "/f"}, 400),
        ({"/x": "nonsense/f"}, 400),
        ({"/x": "xlocl-4zz18-000000000000000/f"}, 400),
        ({"/x": f"{OTHER_HASH}+Kx/sub"}, 400),
        # The current collection is an empty one for who replaces it.
        ({"/": "current/d"}, 400),
        ({"/": "", "/f": "current/f"}, 400),
        # Files in the way: here the controller does not think of it, or does.
        ({"/f/x": "current/d/g"}, 500),
        ({"/f/x/y": "current/d/g"}, 400),
        ({"/f/x": ""}, 500),
        ({"/f/x/y": ""}, 500),
        ({"/x": "current/f/"}, 500),
        ({"/x": "current/f/x"}, 500),
        ({"/": f"{OTHER_HASH}/sub/o"}, 500),
        ({"/x": "current"}, 500),
    ],
)  # fmt: skip
def test_what_is_refused(wanted: dict[str, str], status: int) -> None:
    assert refused(CURRENT, wanted) == status


def test_a_manifest_that_is_given() -> None:
    given = f". {C} 0:3:n\n"
    wanted = {"/d": "", "/n": "manifest_text/n"}
    assert replaced(CURRENT, wanted, given) == f". {A} {C} 0:1:f 1:3:n\n"
    assert replaced(CURRENT, {"/": "manifest_text/"}, given) == given
    both = {"/": "", "/a": "manifest_text", "/b": "manifest_text/"}
    assert replaced(CURRENT, both, given) == f"./a {C} 0:3:n\n./b {C} 0:3:n\n"
    assert refused(CURRENT, {"/n": "current/f"}, given) == 400
    assert refused(CURRENT, {"/n": "manifest_text"}, given) == 400
    assert replaced(CURRENT, {"/": "manifest_text"}) == ""
    assert refused(CURRENT, wanted, given.strip()) == 400
    assert refused(CURRENT, wanted, given + f"./n {C} 0:3:in\n") == 400


def test_streams_that_are_not_touched_stay() -> None:
    odd = f"./z {A} {A} 1:1:b 0:1:a\n"
    text = odd + CURRENT
    assert replaced(text, {"/f": ""}) == f"./d {B} 0:2:g\n./d/e {C} 0:3:h\n" + odd
    assert replaced(text, {"/f": "", "/d": "", "/z/b": "current/z/b"}) == f"./z {A} 0:1:a 0:1:b\n"


# The rules of replace_segments


def segments(text: str, wanted: dict[str, str]) -> str:
    return replace_segments(text, wanted)[0]


def test_segments_are_exchanged_wherever_they_are() -> None:
    text = f". {A} {B} 0:1:a 1:2:b\n./d {A} 0:1:c\n./e {C} 0:3:d\n"
    packed = f". {C} 0:1:a 1:2:b\n./d {C} 0:1:c\n./e {C} 0:3:d\n"
    wanted = {f"{A}+Asignature@00000000 0 1": f"{C}+Anew 0 1", f"{B} 0 2": f"{C}+Anew 1 2"}
    assert replace_segments(text, wanted) == (packed, {f"{C}+Anew"})
    assert packed == normal(packed)
    turned = {f"{A} 0 1": f"{C} 2 1", f"{B} 0 2": f"{C} 0 2"}
    assert segments(text, turned).startswith(f". {C} 2:1:a 0:2:b\n")
    # One file of both becomes one of one.
    both = f". {A} {B} 0:3:f\n"
    assert segments(both, wanted) == f". {C} 0:3:f\n"


def test_segments_that_are_not_there_keep_others_from_their_block() -> None:
    block = "d" * 32 + "+5"
    text = f". {A} {B} {C} 0:1:a 1:2:b 3:3:c\n"
    wanted = {
        f"{A} 0 1": f"{block} 0 1",
        f"{B} 0 2": f"{block}+Aother 1 2",
        f"{'e' * 32}+2 0 2": f"{block} 3 2",
        f"{C} 0 3": f"{'f' * 32}+3 0 3",
    }
    packed = f". {A} {B} {'f' * 32}+3 0:1:a 1:2:b 3:3:c\n"
    assert replace_segments(text, wanted) == (packed, {f"{'f' * 32}+3"})
    # A part of a segment is none, and neither are two of two files.
    assert segments(f". {C} 0:3:c\n", {f"{C} 0 2": f"{block} 0 2"}) == f". {C} 0:3:c\n"
    assert segments(f". {C} 0:1:a 1:2:b\n", {f"{C} 0 3": f"{block} 0 3"}) == f". {C} 0:1:a 1:2:b\n"
    # Nothing is rearranged where nothing is replaced.
    odd = f"./b {C} {C} 0:3:f\n. {A} 0:1:f\n"
    assert segments(odd, {f"{B} 0 2": f"{block} 0 2"}) == odd


@pytest.mark.parametrize(
    "old, new, status",
    [
        (f"{A} 0 1", f"{C} 0 2", 400),
        (f"{A} 0 1", f"{C} 3 1", 400),
        (f"{A} 0 1", f"{C} -1 1", 400),
        (f"{A} 0 1", f"{'c' * 32} 0 1", 400),
        (f"{A} 0 1", "nonsense+1 0 1", 400),
        (f"{A} 0 1", f"{C} 0", 500),
        (f"{A} zero 1", f"{C} 0 1", 500),
    ],
)
def test_segments_that_are_refused(old: str, new: str, status: int) -> None:
    with pytest.raises(APIError) as error:
        segments(CURRENT, {old: new})
    assert error.value.status == status


# Through the API


def status_of(request: Any) -> int:
    with pytest.raises(HttpError) as error:
        request.execute(num_retries=0)
    assert b"errors" in error.value.content
    return int(error.value.resp.status)


def save(api: Any, files: dict[str, str], **options: Any) -> dict:
    """Save a collection with these files, each in a block of its own; return its record."""
    collection = arvados.collection.Collection(api_client=api)
    for name, text in files.items():
        with collection.open(name, "w") as file:
            file.write(text)
            file.flush()
    collection.save_new(**options)
    return api.collections().get(uuid=collection.manifest_locator()).execute()


def contents(api: Any, uuid: str) -> dict[str, str]:
    collection = arvados.collection.Collection(uuid, api_client=api)
    text = collection.manifest_text(strip=True)
    names = [
        f"{line.split()[0]}/{token.split(':')[2]}"[2:]
        for line in text.splitlines()
        for token in re.findall(r" (\d+:\d+:\S+)", line)
    ]
    return {name: collection.open(name).read() for name in names}


def update(api: Any, uuid: str, given: str | None = None, **options: Any) -> Any:
    """Return a request with parameters beside the collection, in the body."""
    attributes = {} if given is None else {"manifest_text": given}
    return api.collections().update(uuid=uuid, body={"collection": attributes, **options})


def test_files_are_replaced_through_the_api(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api(num_retries=0)
    record = save(api, {"f": "one", "d/g": "two"}, preserve_version=True)
    other = save(api, {"n": "new", "m": "more"})
    uuid = record["uuid"]
    swap = {"/f": "current/d/g", "/d/g": "current/f"}
    changed = update(api, uuid, replace_files=swap).execute()
    assert contents(api, uuid) == {"f": "two", "d/g": "one"}
    assert changed["version"] == record["version"] + 1
    assert (changed["file_count"], changed["file_size_total"]) == (2, 6)
    # In the query; and what is saved is what the SDK would save.
    wanted = {"/x/n": "manifest_text/n", "/d": "", "/m": f"{other['portable_data_hash']}/m"}
    body = {"collection": {"manifest_text": other["manifest_text"]}}
    changed = api.collections().update(uuid=uuid, body=body, replace_files=wanted).execute()
    assert contents(api, uuid) == {"f": "two", "x/n": "new", "m": "more"}
    assert changed["unsigned_manifest_text"] == normal(changed["unsigned_manifest_text"])
    made = api.collections().create(
        body={"collection": {"name": "made"}, "replace_files": {"/": other["portable_data_hash"]}}
    )
    made = made.execute()
    assert made["portable_data_hash"] == other["portable_data_hash"]
    # Nothing but what was asked for.
    answer = update(api, uuid, replace_files={"/m": ""}, select=["portable_data_hash"]).execute()
    assert set(answer) == {"portable_data_hash", "uuid", "kind", "etag"}
    assert (
        answer["portable_data_hash"]
        == api.collections().get(uuid=uuid).execute()["portable_data_hash"]
    )
    asked = update(api, uuid, replace_files={"/x": ""}, select=["manifest_text"]).execute()
    assert "+A" in asked["manifest_text"]
    # No such attribute.
    inside = {"collection": {"replace_files": {"/f": ""}}}
    assert status_of(api.collections().update(uuid=uuid, body=inside)) == 422
    claim = {"collection": {"portable_data_hash": "0" * 32 + "+0"}, "replace_files": {"/f": ""}}
    assert status_of(api.collections().update(uuid=uuid, body=claim)) == 422
    for nonsense in ("text", ["/f"], {"/f": 5}):
        assert status_of(update(api, uuid, replace_files=nonsense)) == 500
    assert status_of(update(api, uuid, replace_files={"f": ""})) == 400
    assert status_of(api.collections().create(body={}, replace_files={"/f": "current/f"})) == 400
    assert contents(api, uuid) == {"f": "two"}
    api.collections().delete(uuid=uuid).execute()
    assert status_of(update(api, uuid, replace_files={"/f": ""})) == 404


def test_only_what_one_may_read_comes_in(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api(num_retries=0)
    _, token = fresh_cluster.create_user("Eve")
    hers = fresh_cluster.api(token=token, num_retries=0)
    secret = save(hers, {"s": "secret"})
    record = save(api, {"f": "one"})
    uuid, wanted = record["uuid"], {"/s": "manifest_text/s"}
    unsigned = secret["unsigned_manifest_text"]
    by_hash = {"/s": f"{secret['portable_data_hash']}/s"}
    assert status_of(update(api, uuid, replace_files=by_hash)) == 404
    for given in (unsigned, secret["manifest_text"]):
        assert status_of(update(api, uuid, given, replace_files=wanted)) == 403
    # As ever, admins need no signatures; nor does what does not come in.
    admin = fresh_cluster.api("admin", num_retries=0)
    update(admin, uuid, unsigned, replace_files=wanted).execute()
    assert contents(api, uuid) == {"f": "one", "s": "secret"}
    both = record["manifest_text"] + unsigned.replace(". ", "./d ")
    update(api, uuid, both, replace_files={"/s": "", "/g": "manifest_text/f"}).execute()
    assert contents(api, uuid) == {"f": "one", "g": "one"}
    locator = secret["unsigned_manifest_text"].split()[1]
    record = save(api, {"x": "sixsix"})
    uuid, mine = record["uuid"], record["unsigned_manifest_text"].split()[1]
    for new in (locator, secret["manifest_text"].split()[1]):
        assert status_of(update(api, uuid, replace_segments={f"{mine} 0 6": f"{new} 0 6"})) == 403
    missing = {f"{locator} 0 6": f"{locator} 0 6"}
    update(api, uuid, replace_segments=missing).execute()
    assert contents(api, uuid) == {"x": "sixsix"}


def test_segments_are_replaced_through_the_api(fresh_cluster: LocalCluster) -> None:
    api = fresh_cluster.api(num_retries=0)
    record = save(api, {"a": "one", "b": "four"})
    blocks = [save(api, {"x": text})["manifest_text"].split()[1] for text in ("one", "four")]
    packed = save(api, {"x": "onefour"})["manifest_text"].split()[1]
    wanted = {f"{blocks[0]} 0 3": f"{packed} 0 3", f"{blocks[1]} 0 4": f"{packed} 3 4"}
    assert len(re.findall(r"\+[34] ", record["unsigned_manifest_text"])) == 2
    body = {"collection": {}}
    changed = api.collections().update(uuid=record["uuid"], body=body, replace_segments=wanted)
    text = changed.execute()["unsigned_manifest_text"]
    assert text == f". {packed.partition('+A')[0]} 0:3:a 3:4:b\n"
    assert contents(api, record["uuid"]) == {"a": "one", "b": "four"}
    # In what comes in, and in what is made.
    both = update(
        api, record["uuid"], record["manifest_text"],
        replace_files={"/": "manifest_text/", }, replace_segments=wanted,
    )  # fmt: skip
    assert both.execute()["unsigned_manifest_text"] == text
    made = {"collection": {"manifest_text": record["manifest_text"]}, "replace_segments": wanted}
    assert api.collections().create(body=made).execute()["unsigned_manifest_text"] == text
    short = {f"{blocks[0]} 0 3": f"{packed} 0 2"}
    made = {"collection": {"manifest_text": record["manifest_text"]}, "replace_segments": short}
    assert status_of(api.collections().create(body=made)) == 400
    assert status_of(update(api, record["uuid"], replace_segments="text")) == 500


def test_saves_at_the_same_moment_are_all_there(fresh_cluster: LocalCluster) -> None:
    uuid = save(fresh_cluster.api(), {"f": "one"})["uuid"]

    def copy_to(name: str) -> None:
        api = fresh_cluster.api(num_retries=0)
        update(api, uuid, replace_files={name: "current/f"}).execute(num_retries=0)

    threads = [threading.Thread(target=copy_to, args=(f"/{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = dict.fromkeys(["f", *"01234567"], "one")
    assert contents(fresh_cluster.api(), uuid) == expected


def test_discovery_lists_them_for_collections(fresh_cluster: LocalCluster) -> None:
    resources = fresh_cluster.api()._rootDesc["resources"]
    for method in ("create", "update"):
        parameters = resources["collections"]["methods"][method]["parameters"]
        for name in ("replace_files", "replace_segments"):
            assert parameters[name]["type"] == "object"
            assert name not in resources["groups"]["methods"][method]["parameters"]


def test_a_server_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(tmp_path / "c", replace_files=False) as cluster:
        # Another authority than the cluster's that the other tests use.
        monkeypatch.setenv("SSL_CERT_FILE", cluster.env()["SSL_CERT_FILE"])
        api = cluster.api()
        assert "replace_" not in str(api._rootDesc)
        record = save(api, {"f": "one", "g": "two"})
        uuid = record["uuid"]
        with pytest.raises(TypeError, match="replace_files"):
            api.collections().update(uuid=uuid, body={}, replace_files={"/f": ""})
        update(api, uuid, replace_files={"f": ""}, replace_segments="text").execute()
        assert contents(api, uuid) == {"f": "one", "g": "two"}
        given = save(api, {"h": "three"})["manifest_text"]
        update(api, uuid, given, replace_files={"/h": "manifest_text/h"}).execute()
        assert contents(api, uuid) == {"h": "three"}


def processor_time(pid: int) -> float:
    """Return how long a process has been running on a processor, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("folders", [1, 1000])
def test_a_save_into_a_large_collection_is_fast(fresh_cluster: LocalCluster, folders: int) -> None:
    api = fresh_cluster.api(num_retries=0)
    record = save(api, {"f": "one"})
    size = 100_000 // folders
    numbers = range(size)
    blocks = "".join(f" {number:032x}+10" for number in numbers)
    files = "".join(f" {number * 10}:10:file{number:05}" for number in numbers)
    lines = [f"./d{number:04}{blocks}{files}\n" for number in range(folders)]
    large = {**record, "uuid": record["uuid"][:12] + "0" * 15, "manifest_text": "".join(lines)}
    large["name"] = "large"
    for name in ("portable_data_hash", "file_count", "file_size_total", "current_version_uuid"):
        del large[name]
    fresh_cluster.load_fixtures({"collections": [large]})
    before = processor_time(fresh_cluster.pid)
    saved = update(
        api, large["uuid"], record["manifest_text"], select=["file_count"],
        replace_files={"/d0000/file00050": "manifest_text/f", "/d0000/new": "manifest_text/f"},
    ).execute()  # fmt: skip
    took = processor_time(fresh_cluster.pid) - before
    assert saved["file_count"] == 100_001
    # A few tenths; what makes objects of all files takes many seconds.
    assert took < 1.5
