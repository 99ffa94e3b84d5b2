# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Ordinary programs on a read-write mount, and what is there after a remount."""

import hashlib
import os
import random
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from arvados_fuse.localcluster import LocalCluster


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, **options
    )  # type: ignore[call-overload]
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree with the kinds of names and sizes that cause trouble."""
    source = tmp_path / "source"
    shapes = random.Random(1)
    for name in ("plain", "with space", "ünïcode-名前", "-dash", "deep/er/still", "back\\slash"):
        folder = source / name
        folder.mkdir(parents=True)
        for number in range(4):
            size = shapes.choice([0, 1, 17, 4096, 70_000])
            (folder / f"file {number}.txt").write_bytes(shapes.randbytes(size))
    (source / "big").write_bytes(shapes.randbytes(3_000_000))
    (source / "script.sh").write_text("#!/bin/sh\necho needle\n")
    return source


def contents(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and ".git/" not in str(path)
    }


def test_programs(
    fresh_cluster: LocalCluster, arv_mount: Callable, source: Path, tmp_path: Path
) -> None:
    expected = contents(source)
    mount = arv_mount("--read-write", "--home")
    home = mount.path

    (home / "cp").mkdir()
    run("cp", "-r", f"{source}/.", home / "cp")
    assert contents(home / "cp") == expected

    (home / "rsync").mkdir()
    run("rsync", "-a", "--inplace", f"{source}/", f"{home}/rsync/")
    (source / "plain" / "file 0.txt").write_bytes(b"changed")
    run("rsync", "-a", "--inplace", f"{source}/", f"{home}/rsync/")
    changed = contents(source)
    assert contents(home / "rsync") == changed

    (home / "tar").mkdir()
    run("tar", "cf", tmp_path / "t.tar", "-C", source, ".")
    run("tar", "x", "--no-same-owner", "-f", tmp_path / "t.tar", "-C", home / "tar")
    assert contents(home / "tar") == changed

    database = tmp_path / "db.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (n INTEGER, s TEXT)")
        rows = [(n, str(n) * 50) for n in range(2000)]
        connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    (home / "db").mkdir()
    run("cp", database, home / "db" / "db.sqlite")
    query = "SELECT count(*), sum(n) FROM t"
    uri = f"file:{home}/db/db.sqlite?immutable=1"
    assert run("sqlite3", uri, query).strip() == "2000|1999000"

    assert "script.sh" in run("grep", "-rl", "needle", home / "cp")
    found = run("find", home / "cp", "-type", "f").splitlines()
    assert len(found) == len(expected)
    sums = run("md5sum", home / "cp" / "big").split()[0]
    assert sums == expected["big"]

    (home / "dd").mkdir()
    big = (source / "big").read_bytes()
    run("dd", f"if={source}/big", f"of={home}/dd/f", "bs=12345", "status=none")
    run(
        "dd", f"if={source}/script.sh", f"of={home}/dd/f", "bs=7", "seek=1001", "conv=notrunc",
        "status=none",
    )  # fmt: skip
    patch = (source / "script.sh").read_bytes()
    patched = big[: 7 * 1001] + patch + big[7 * 1001 + len(patch) :]
    assert (home / "dd" / "f").read_bytes() == patched
    part = subprocess.run(
        ["dd", f"if={home}/dd/f", "bs=997", "skip=13", "count=3", "status=none"],
        capture_output=True,
        check=True,
    ).stdout
    assert part == patched[13 * 997 : 16 * 997]

    assert mount.unmount() == 0

    again = arv_mount("--home").path
    assert sorted(os.listdir(again)) == ["cp", "db", "dd", "rsync", "tar"]
    assert contents(again / "cp") == expected
    assert contents(again / "rsync") == changed
    assert contents(again / "tar") == changed
    assert (again / "dd" / "f").read_bytes() == patched
    assert (again / "db" / "db.sqlite").read_bytes() == database.read_bytes()


def test_git_clone_into_scratch_space(
    fresh_cluster: LocalCluster, arv_mount: Callable, source: Path, tmp_path: Path
) -> None:
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", source)
    run("git", "init", "-q", source)
    run(*git, "add", "-A")
    run(*git, "commit", "-q", "-m", "first")
    mount = arv_mount("--read-write", "--mount-tmp", "scratch")
    clone = mount.path / "scratch" / "clone"
    run(
        "git",
        "clone",
        "-q",
        "--no-hardlinks",
        source,
        clone,
        env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"},
    )
    assert contents(clone) == contents(source)
    assert run("git", "-c", f"safe.directory={clone}", "-C", clone, "status", "--porcelain") == ""
    run("git", "-c", f"safe.directory={clone}", "-C", clone, "fsck", "--strict")


def test_renaming_and_removing(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--read-write", "--home")
    (mount.path / "c").mkdir()
    tree = mount.path / "c"
    (tree / "a").mkdir()
    (tree / "a" / "f").write_text("one")
    (tree / "g").write_text("two")
    os.rename(tree / "a" / "f", tree / "h")
    os.rename(tree / "g", tree / "h")
    assert (tree / "h").read_text() == "two"
    with pytest.raises(OSError):
        os.rename(tree / "h", tree / "a")
    (tree / "b").mkdir()
    (tree / "b" / "x").write_text("x")
    os.rename(tree / "b", tree / "a")
    assert os.listdir(tree / "a") == ["x"]
    os.rename(mount.path / "c", mount.path / "renamed")
    tree = mount.path / "renamed"
    assert sorted(os.listdir(tree)) == ["a", "h"]
    with pytest.raises(OSError):
        tree.rmdir()
    os.unlink(tree / "a" / "x")
    (tree / "a").rmdir()
    os.unlink(tree / "h")
    tree.rmdir()
    assert os.listdir(mount.path) == []


def test_an_open_file_outlives_its_name(fresh_cluster: LocalCluster, arv_mount: Callable) -> None:
    mount = arv_mount("--read-write", "--mount-tmp", "t")
    path = mount.path / "t" / "f"
    path.write_text("still readable")
    with open(path) as held:
        os.unlink(path)
        assert not path.exists()
        assert held.read() == "still readable"
