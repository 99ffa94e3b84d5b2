# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Names that cannot be a file's: one entry is left out and logged, the others are there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import arvados.collection
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import errno_of, poll, save_collection


def load(cluster: LocalCluster, *names: object, first: int = 0, **more: object) -> list[str]:
    """Put collections with any names into the home project, copies of one; their uuids."""
    api = cluster.api()
    model = api.collections().list(limit=1).execute()["items"]
    uuid = model[0]["uuid"] if model else save_collection(cluster, "model")
    record = api.collections().get(uuid=uuid).execute()
    kept = ("owner_uuid", "manifest_text", "portable_data_hash", "created_at", "modified_at")
    uuids = [f"xlocl-4zz18-{first + number:015d}" for number in range(len(names))]
    records = [
        {name: record[name] for name in kept}
        | {"uuid": made, "current_version_uuid": made, "name": name}
        | more
        for made, name in zip(uuids, names, strict=True)
    ]
    cluster.hook("load", {"records": {"collections": records}, "blocks": []})
    return uuids


ODD = {
    "surrogate": "a\ud800b",
    "long": "n" * 4096,
    "a_byte_too_long": "n" * 256,
    "long_in_bytes": "\N{SNOWMAN}" * 86,
    "number": 17,
}


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_name_hides_no_other(
    fresh_cluster: LocalCluster, arv_mount: Callable, odd: str
) -> None:
    save_collection(fresh_cluster, "model")
    uuid, *_ = load(fresh_cluster, ODD[odd], "n" * 255, "\N{SNOWMAN}" * 85)
    mount = arv_mount("--refresh-time=1", "--disable-event-listening")
    home = mount.path / "home"
    expected = sorted(["model", "n" * 255, "\N{SNOWMAN}" * 85])
    for _ in range(3):
        assert sorted(os.listdir(home)) == expected
        load(fresh_cluster, "another", first=100)
        expected = sorted({*expected, "another"})
        poll("a refresh", lambda names=expected: len(os.listdir(home)) == len(names))
    for name in expected:
        assert os.listdir(home / name) == ["f"]
    assert os.listdir(mount.path / "by_id" / uuid) == ["f"]
    lines = [line for line in mount.log.read_text().splitlines() if "is not listed" in line]
    assert len(lines) == 1, lines
    assert "Traceback" not in mount.log.read_text()


def test_names_that_the_encoding_cannot_write(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    save_collection(fresh_cluster, "plain")
    collection = arvados.collection.Collection(api_client=fresh_cluster.api())
    for name in ("\u65e5\u672c", "caf\u00e9", "ascii"):
        with collection.open(name, "w") as file:
            file.write(name)
    collection.save_new("\u00fcber")
    load(fresh_cluster, "\u65e5\u672c\u8a9e")
    mount = arv_mount("--encoding=latin-1", "--refresh-time=1", "--disable-event-listening")
    home = os.fsencode(mount.path) + b"/home"
    for _ in range(2):
        assert sorted(os.listdir(home)) == [b"plain", b"\xfcber"]
        assert sorted(os.listdir(home + b"/\xfcber")) == [b"ascii", b"caf\xe9"]
    assert Path(os.fsdecode(home + b"/\xfcber/caf\xe9")).read_text() == "caf\u00e9"
    load(fresh_cluster, "new", "\u6771\u4eac", first=10)
    poll("a refresh", lambda: sorted(os.listdir(home)) == [b"new", b"plain", b"\xfcber"])
    log = mount.log.read_text()
    assert "Traceback" not in log and log.count("is not listed") == 3, log


def test_one_name_for_two(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    """The one that has this very name is shown, in a listing and without one."""
    save_collection(fresh_cluster, "model")
    slashed, plain = load(fresh_cluster, "a/b", "a_b")
    options = ("--fsns=_", "--refresh-time=1", "--disable-event-listening")
    for listed_first in (True, False):
        mount = arv_mount(*options)
        home = mount.path / "home"
        if listed_first:
            assert sorted(os.listdir(home)) == ["a_b", "model"]
        record = (home / "a_b" / ".arvados#collection").read_text()
        assert plain in record and slashed not in record
        assert sorted(os.listdir(home)) == ["a_b", "model"]
        poll("a line", lambda m=mount: "more than one would be called" in m.log.read_text())
        assert os.listdir(mount.path / "by_id" / slashed) == ["f"]
        record = (home / "a_b" / ".arvados#collection").read_text()
        assert plain in record
        os.listdir(home)
        assert mount.log.read_text().count("more than one would be called") == 1


def test_a_project_and_a_collection_of_one_name(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    api = fresh_cluster.api()
    save_collection(fresh_cluster, "same")
    project = {"name": "same", "group_class": "project"}
    uuid = api.groups().create(body={"group": project}).execute()["uuid"]
    save_collection(fresh_cluster, "inside", owner_uuid=uuid)
    for listed_first in (True, False):
        home = arv_mount("--home", "--disable-event-listening").path
        if listed_first:
            assert os.listdir(home) == ["same"]
        assert os.listdir(home / "same") == ["inside"]
        assert os.listdir(home) == ["same"]


def test_names_of_more_than_255_bytes(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    save_collection(fresh_cluster, "c")
    mount = arv_mount("--read-write", "--disable-event-listening")
    top = mount.path / "home"
    for long in ("n" * 256, "\N{SNOWMAN}" * 86, "n" * 4000):
        for place in (top, top / "c", mount.path):
            for do in (
                lambda path: os.stat(path),
                lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
                lambda path: os.mkdir(path),
                lambda path: os.mknod(path),
                lambda path: os.unlink(path),
                lambda path: os.rmdir(path),
                lambda path, place=place: os.rename(top / "c" / "f", path),
                lambda path: os.rename(path, top / "c" / "g"),
            ):
                assert errno_of(lambda do=do, p=place / long: do(p)) == errno.ENAMETOOLONG
    fits = top / "c" / ("n" * 255)
    fits.write_text("text")
    assert fits.read_text() == "text" and len(os.listdir(top / "c")) == 2


def test_links_that_cannot_be_are_not_permitted(
    fresh_cluster: LocalCluster, arv_mount: Callable
) -> None:
    save_collection(fresh_cluster, "c")
    place = arv_mount("--read-write", "--disable-event-listening").path / "home" / "c"
    assert errno_of(lambda: os.symlink("f", place / "s")) == errno.EPERM
    (place / "d").mkdir()
    assert errno_of(lambda: os.link(place / "d", place / "l")) == errno.EPERM
    assert sorted(os.listdir(place)) == ["d", "f"]
