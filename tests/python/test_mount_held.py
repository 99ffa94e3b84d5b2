# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Directories that somebody is in, has open or mounted something on, while things change around them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arvados.collection
import arvados_fuse
import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import poll, save_collection
from inprocess import mounted

#: What sits in a directory: prints its path whenever it is asked, as getcwd(2) tells it.
SITTER = """
import os, sys
for line in sys.stdin:
    try:
        print(os.getcwd(), flush=True)
    except OSError as error:
        print(error, flush=True)
"""


class Held:
    """A directory that a process sits in and, where that matters, has open."""

    def __init__(self, path: Path, cleanup: contextlib.ExitStack, is_open: bool = True) -> None:
        self.path = path
        self.inode = path.stat().st_ino
        self.sitter = subprocess.Popen(
            [sys.executable, "-c", SITTER],
            cwd=path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        cleanup.callback(self.sitter.wait, 10)
        cleanup.callback(self.sitter.kill)
        self.handle = None
        if is_open:
            self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            cleanup.callback(os.close, self.handle)

    def check(self) -> None:
        assert self.sitter.stdin and self.sitter.stdout
        print("where?", file=self.sitter.stdin, flush=True)
        assert self.sitter.stdout.readline().strip() == str(self.path)
        assert os.readlink(f"/proc/{self.sitter.pid}/cwd") == str(self.path)
        if self.handle is not None:
            assert os.readlink(f"/proc/self/fd/{self.handle}") == str(self.path)
            assert os.fstat(self.handle).st_ino == self.inode


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    with contextlib.ExitStack() as cleanup:
        yield lambda path, **options: Held(path, cleanup, **options)


@pytest.fixture
def tmpfs() -> Iterator[Callable[[Path], None]]:
    """Mounts a tmpfs on a directory, with one file in it."""
    with contextlib.ExitStack() as cleanup:

        def on(path: Path) -> None:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
            cleanup.callback(subprocess.run, ["umount", "-l", path], check=False)
            (path / "inner").write_text("mounted")

        yield on


def save_tree(cluster: LocalCluster, name: str, files: dict[str, str]) -> str:
    collection = arvados.collection.Collection(api_client=cluster.api())
    for path, text in files.items():
        with collection.open(path, "w") as file:
            file.write(text)
    collection.save_new(name)
    return collection.manifest_locator()


def change(cluster: LocalCluster, uuid: str, files: dict[str, str | None]) -> None:
    """Change a collection elsewhere: None removes."""
    collection = arvados.collection.Collection(uuid, api_client=cluster.api())
    for path, text in files.items():
        if text is None:
            collection.remove(path)
        else:
            with collection.open(path, "w") as file:
                file.write(text)
    collection.save()


TREE = {"f": "text", "gone": "x", "sub/f": "text", "sub/deep/f": "text", "on/f": "hidden"}


def make_project(cluster: LocalCluster) -> tuple[str, str]:
    """A project in home, and a collection in the project; return the uuids."""
    api = cluster.api()
    user = api.users().current().execute()["uuid"]
    project = (
        api.groups()
        .create(body={"name": "p", "group_class": "project", "owner_uuid": user})
        .execute()["uuid"]
    )
    uuid = save_tree(cluster, "in p", TREE)
    api.collections().update(uuid=uuid, body={"owner_uuid": project}).execute()
    return project, uuid


ways = pytest.mark.parametrize("way", ["events", "polling"])
EVENTS = ("--refresh-time=60",)
POLLING = ("--disable-event-listening", "--refresh-time=1")


@ways
def test_whoever_is_in_a_directory_stays_there_when_others_change_it(
    fresh_cluster: LocalCluster, arv_mount: Callable, hold: Callable, tmpfs: Callable, way: str
) -> None:
    uuid = save_tree(fresh_cluster, "c", TREE)
    project, inner = make_project(fresh_cluster)
    options = EVENTS if way == "events" else POLLING
    mount = arv_mount("--read-write", *options).path
    home, by_id = mount / "home", mount / "by_id"
    assert sorted(os.listdir(home)) == ["c", "p"]
    places = [home, home / "c", home / "c" / "sub", home / "c" / "sub" / "deep", home / "p"]
    places += [home / "p" / "in p" / "sub", by_id, by_id / uuid, by_id / uuid / "sub"]
    places += [by_id / project, by_id / project / "in p"]
    held = [hold(place) for place in places]
    for place in (home / "c" / "on", by_id / uuid / "on", home / "p" / "in p" / "on"):
        tmpfs(place)
    for turn in range(3):
        for changed in (uuid, inner):
            change(fresh_cluster, changed, {"f": f"turn {turn}", f"sub/new{turn}/g": "new"})
        if turn == 1:
            change(fresh_cluster, uuid, {"gone": None})
        save_collection(fresh_cluster, f"another {turn}")
        api = fresh_cluster.api()
        api.groups().update(uuid=project, body={"description": f"turn {turn}"}).execute()

        def seen(turn: int = turn) -> bool:
            return (
                (home / "c" / "f").read_text() == f"turn {turn}"
                and (by_id / uuid / "f").read_text() == f"turn {turn}"
                and (home / "p" / "in p" / "f").read_text() == f"turn {turn}"
                and (home / f"another {turn}").exists()
                and f"new{turn}" in os.listdir(home / "c" / "sub")
                and (by_id / uuid / "sub" / f"new{turn}" / "g").exists()
                and (home / "c" / "gone").exists() == (turn < 1)
            )

        poll("the change", seen)
        for one in held:
            one.check()
        for place in (home / "c" / "on", by_id / uuid / "on", home / "p" / "in p" / "on"):
            assert (place / "inner").read_text() == "mounted"


@ways
@pytest.mark.parametrize("promoted", [False, True], ids=["native", "promoted"])
def test_whoever_is_in_a_directory_stays_there_when_it_is_written_to_here(
    fresh_cluster: LocalCluster,
    arv_mount: Callable,
    hold: Callable,
    tmpfs: Callable,
    way: str,
    promoted: bool,
) -> None:
    uuid = save_tree(fresh_cluster, "c", TREE)
    options = EVENTS if way == "events" else POLLING
    mount = arv_mount("--read-write", *options).path
    home = mount / "home"
    if promoted:
        (home / "c" / "first").write_text("written to")
    places = [home, home / "c", home / "c" / "sub", home / "c" / "sub" / "deep"]
    held = [hold(place) for place in places]
    tmpfs(home / "c" / "on")
    end = time.monotonic() + 3
    turn = 0
    while time.monotonic() < end:
        turn += 1
        (home / "c" / "sub" / f"w{turn}").write_text("written")
        (home / "c" / "sub" / "made").mkdir()
        (home / "c" / "sub" / f"w{turn}").rename(home / "c" / "sub" / "made" / "w")
        (home / "c" / "sub" / "made" / "w").unlink()
        (home / "c" / "sub" / "made").rmdir()
        for one in held:
            one.check()
        assert (home / "c" / "on" / "inner").read_text() == "mounted"
    # What others then do is seen, too.
    change(fresh_cluster, uuid, {"sub/f": "from elsewhere"})
    poll("a change elsewhere", lambda: (home / "c/sub/f").read_text() == "from elsewhere")
    for one in held:
        one.check()


def test_whoever_is_in_a_directory_stays_there_when_memory_is_short(
    fresh_cluster: LocalCluster, arv_mount: Callable, hold: Callable, tmpfs: Callable
) -> None:
    uuid = save_tree(fresh_cluster, "c", TREE)
    project, _ = make_project(fresh_cluster)
    for number in range(8):
        save_tree(fresh_cluster, f"other{number}", {f"d/f{n}": "" for n in range(50)})
    mount = arv_mount("--directory-cache=1", *POLLING).path
    home, by_id = mount / "home", mount / "by_id"
    places = [home, home / "c", home / "c" / "sub", home / "c" / "sub" / "deep"]
    places += [home / "p", home / "p" / "in p", by_id / uuid / "sub", by_id / project / "in p"]
    # What is open is not given up in any case.
    held = [hold(place, is_open=False) for place in places]
    tmpfs(home / "c" / "on")
    for _ in range(3):
        for number in range(8):
            assert len(os.listdir(home / f"other{number}" / "d")) == 50
        for one in held:
            one.check()
        assert (home / "c" / "on" / "inner").read_text() == "mounted"
        assert (home / "c" / "sub" / "f").read_text() == "text"


def test_what_the_kernel_knows_of_keeps_no_memory(
    tmp_path: Path, fresh_cluster: LocalCluster
) -> None:
    uuids = [
        save_tree(fresh_cluster, f"c{n}", {f"d/f{n}": "text" for n in range(100)}) for n in range(6)
    ]
    api = fresh_cluster.api()
    path = tmp_path / "mnt"

    def root(operations: Any) -> Any:
        return arvados_fuse.MagicDirectory(1, operations.inodes, api, 0, False, None, False)

    with mounted(path, root, api=api) as operations:
        cache = operations.inodes.inode_cache
        for uuid in uuids:
            assert len(os.listdir(path / uuid / "d")) == 100
            # What there is not it remembers, too; and the record is in no listing.
            for place in (path / uuid, path / uuid / "d"):
                assert not (place / "absent").exists()
            assert (path / uuid / ".arvados#collection").exists()
        before = cache.total()
        cache.cap, cache.min_entries = before // 6, 0
        operations.inodes.cap_cache()
        poll("the eviction", lambda: cache.total() <= before // 6)
        assert len(os.listdir(path / uuids[0] / "d")) == 100


@ways
@pytest.mark.parametrize("promoted", [False, True], ids=["native", "promoted"])
def test_tail_follows_what_is_appended_elsewhere(
    fresh_cluster: LocalCluster, arv_mount: Callable, way: str, promoted: bool
) -> None:
    uuid = save_tree(fresh_cluster, "c", {"log": "one\n"})
    options = EVENTS if way == "events" else POLLING
    home = arv_mount("--read-write", *options).path / "home"
    if promoted:
        (home / "c" / "first").write_text("written to")
    tails = [
        subprocess.Popen(
            ["tail", *how, "-s", "0.2", "-n", "+1", "-f", home / "c" / "log"],
            stdout=subprocess.PIPE,
        )
        for how in ([], ["---disable-inotify"])
    ]
    try:
        for tail in tails:
            assert tail.stdout
            assert tail.stdout.readline() == b"one\n"
            os.set_blocking(tail.stdout.fileno(), False)
        said = dict.fromkeys(tails, b"")
        for number in range(3):
            collection = arvados.collection.Collection(uuid, api_client=fresh_cluster.api())
            with collection.open("log", "a") as file:
                file.write(f"line {number}\n")
            collection.save()

            def told(number: int = number) -> bool:
                for tail in tails:
                    said[tail] += tail.stdout.read() or b""  # type: ignore[union-attr]
                return all(f"line {number}\n".encode() in text for text in said.values())

            poll("the line", told)
        assert list(said.values()) == [b"line 0\nline 1\nline 2\n"] * 2
    finally:
        for tail in tails:
            tail.kill()
            tail.communicate()


def test_programs_work_in_their_working_directory(
    fresh_cluster: LocalCluster, arv_mount: Callable, hold: Callable
) -> None:
    save_tree(fresh_cluster, "c", {"f": "text"})
    directory = arv_mount("--read-write", *EVENTS).path / "home" / "c"
    script = """
        cd "$1"
        sqlite3 c.db 'create table t(a)'
        sqlite3 c.db 'insert into t values (1)'
        sqlite3 c.db 'select a from t'
        printf 'all: out\\nout: f\\n\\tcp f out\\n' > Makefile
        make -s
        git init -q . && git add f out Makefile
        git -c user.name=n -c user.email=e commit -qm first && git status --short
        /bin/pwd
    """
    done = subprocess.run(
        ["sh", "-ec", script, "sh", directory], capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1" and lines[-1] == str(directory), done.stdout + done.stderr
