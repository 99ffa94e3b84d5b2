# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""POSIX as pjdfstest (the crate of that name) has it: what passes, and what does not and why.

`pjdfstest.txt` lists what does not. Who is not root runs what needs no other users.
"""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from arvados_fuse.localcluster import LocalCluster
from conftest import save_collection

PJDFSTEST = Path(__file__).parents[2] / "target" / "tools" / "bin" / "pjdfstest"
PINNED = Path(__file__).with_name("pjdfstest.txt")

CONFIG = """
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""

#: A line about a test, and what is said below one that failed.
OUTCOME = re.compile(r"^(\w+(?:::\w+)+) +(ok|FAILED|skipped) *$\n((?:[ \t].*\n)*)", re.MULTILINE)


def pinned() -> dict[str, str]:
    """The tests that do not pass, and why."""
    found, why = {}, ""
    for line in PINNED.read_text().splitlines():
        if line.startswith("#"):
            why = line.removeprefix("# ")
        elif line:
            found[line] = why
    return found


@pytest.mark.parametrize("where", ["scratch", "collection"])
def test_what_posix_says_of_a_file_system(
    arv_mount: Callable, fresh_cluster: LocalCluster, tmp_path: Path, where: str
) -> None:
    assert PJDFSTEST.exists(), "make pjdfstest"
    is_root = os.getuid() == 0
    others = ("--allow-other",) if is_root else ()
    mount = arv_mount("--read-write", "--mount-tmp", "tmp", "--mount-by-id", "by_id", *others)
    uuid = save_collection(fresh_cluster, "c")
    place = mount.path / "tmp" if where == "scratch" else mount.path / "by_id" / uuid
    config, elsewhere = tmp_path / "pjdfstest.toml", tmp_path / "elsewhere"
    config.write_text(CONFIG)
    elsewhere.mkdir()
    words: list[object] = [PJDFSTEST, "-c", config, "-s", elsewhere, "-p"]
    if is_root:
        # Where other users get to, whatever folders the checkout is in; nobody else sees it there.
        there = 'mount --bind "$0" /mnt && exec "$@" /mnt'
        words = ["unshare", "--mount", "sh", "-c", there, place, *words]
    else:
        words.append(place)
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=160,
        env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    outcomes = {name: (outcome, said) for name, outcome, said in OUTCOME.findall(done.stdout)}
    assert len(outcomes) > 390, done.stdout + done.stderr
    expected = pinned()
    failed = {name for name, (outcome, _) in outcomes.items() if outcome == "FAILED"}
    run = {name for name, (outcome, _) in outcomes.items() if outcome != "skipped"}
    assert failed == expected.keys() & run, [
        (name, *outcomes[name]) for name in sorted(failed ^ (expected.keys() & run))
    ]
    # What cannot be made is EPERM, and nothing else.
    errors = {
        error
        for name in failed
        if "EPERM" in expected[name]
        for error in re.findall(r"value: (E[A-Z]+)", outcomes[name][1])
    }
    assert errors == {"EPERM"}
