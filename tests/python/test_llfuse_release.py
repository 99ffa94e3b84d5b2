# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Any llfuse program: the same file systems, the same system calls, on our llfuse and on the real one.

What came of each call is compared, and so is what the handlers were given.
"""

import contextlib
import errno
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import syscall_refusals
import syscall_script
from conftest import force_unmount, is_mounted, poll
from environments import LLFUSE, Environment, make_environment
from llfuse_filesystems import REFUSALS, RaisingFS

SERVER = Path(__file__).parent / "llfuse_server.py"

Outcomes = list[tuple[str, Any]]

# Where a file system in llfuse cannot be what a disk is, whichever llfuse serves it.
NO_DISK = {
    # No handler of llfuse's is told of these.
    "opening: O_TMPFILE": "ENOTSUP",
    "renaming: RENAME_NOREPLACE, new": "EINVAL",
    "renaming: RENAME_EXCHANGE": "EINVAL",
    "renaming: RENAME_WHITEOUT": "EINVAL",
    "renaming: listing": ["c", "c2", "empty", "full", "in"],
    "locks: ioctl": "ENOTTY",
    # Of two contradicting flags, llfuse looks at one.
    "attributes: both flags, none": None,
    "attributes: list": ["user.four", "user.one", "user.two"],
    "attributes: size of a list": len(b"user.four\0user.one\0user.two\0"),
    "attributes: list in the end": [
        "trusted.t", "user.bytes", "user.four", "user.long", "user." + "n" * 250, "user.two",
    ],
    # The kernel's own answer at a mount point.
    "directories: rmdir of the root": "EBUSY",
    # The pass-through lists by path.
    "directories: listing of a removed one": "ENOENT",
}  # fmt: skip


@dataclass
class Run:
    """What came of a script on a file system."""

    outcomes: Outcomes
    calls: list[list[Any]]
    errors: str
    status: int


@pytest.fixture(scope="module")
def real_llfuse(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = make_environment(tmp_path_factory.mktemp("llfuse"), *LLFUSE)
    kind = "import llfuse; print(hasattr(llfuse, '_core'), llfuse.__version__)"
    assert environment.python(kind).startswith("False 1.5")
    return environment


@contextlib.contextmanager
def served(python: Path, kind: str, folder: Path, *arguments: object) -> Iterator[Any]:
    """Serve a file system by a process of its own; yield the process."""
    (folder / "mnt").mkdir(parents=True)
    command = [python, SERVER, kind, folder / "mnt", folder / "calls", *arguments]
    with open(folder / "errors", "w") as errors:
        process = subprocess.Popen(list(map(str, command)), stderr=errors)
    try:
        poll("mounted", lambda: is_mounted(folder / "mnt") or process.poll() is not None)
        yield process
        subprocess.run(["fusermount3", "-u", str(folder / "mnt")], capture_output=True)
        process.wait(20)
    finally:
        force_unmount(folder / "mnt")
        process.kill()
        process.wait(20)


def carry_out(
    python: Path, kind: str, folder: Path, script: Callable[[Path], Outcomes], *arguments: object
) -> Run:
    with served(python, kind, folder, *arguments) as process:
        outcomes = script(folder / "mnt")
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    # Where the kernel has to walk a path once more, it reads a link in it again.
    again = [a == b and a[0] == "readlink" for a, b in itertools.pairwise(calls)]
    calls = [call for call, is_again in zip(calls, [False, *again], strict=True) if not is_again]
    return Run(outcomes, calls, (folder / "errors").read_text(), process.returncode)


def broad(root: Path) -> Outcomes:
    return syscall_script.Script(root).run()


def refusals(root: Path) -> Outcomes:
    return syscall_refusals.refusals(root, list(REFUSALS))


@pytest.mark.parametrize(
    ("kind", "script", "outcomes", "calls"),
    [
        ("memory", broad, 400, 1500),
        ("passthrough", broad, 400, 1500),
        ("refusing", refusals, 1000, 350),
        ("bare", syscall_refusals.bare, 15, 10),
    ],
)
def test_the_same_calls_have_the_same_outcomes(
    real_llfuse: Environment,
    tmp_path: Path,
    kind: str,
    script: Callable[[Path], Outcomes],
    outcomes: int,
    calls: int,
) -> None:
    runs = []
    for name, python in (("ours", Path(sys.executable)), ("real", real_llfuse.bin / "python")):
        arguments = []
        if kind == "passthrough":
            arguments = [tmp_path / f"{name}-directory"]
            arguments[0].mkdir()
        runs.append(carry_out(python, kind, tmp_path / name, script, *arguments))
    ours, real = runs
    assert len(real.outcomes) >= outcomes and len(real.calls) >= calls
    assert len(ours.outcomes) == len(real.outcomes)
    assert {a[0]: (a[1], b[1]) for a, b in zip(ours.outcomes, real.outcomes) if a != b} == {}
    assert ours.calls == real.calls
    assert (ours.errors, ours.status) == (real.errors, real.status) == ("", 0)


def test_every_handler_refused(tmp_path: Path) -> None:
    # That the comparison above is one of errnos as they were raised, not of some other error.
    run = carry_out(Path(sys.executable), "refusing", tmp_path / "fs", refusals)
    seen: dict[str, set] = {}
    for what, outcome in run.outcomes:
        seen.setdefault(what.split(":")[0], set()).add(outcome if isinstance(outcome, str) else "")
    names = {name: errno.errorcode[number] for name, number in REFUSALS.items()}
    # Nobody hears of what a release answers.
    unheard = {"release", "releasedir"}
    assert {name for name in names if names[name] not in seen.get(name, ())} == unheard


def test_a_directory_passed_through_is_the_directory(tmp_path: Path) -> None:
    for name in ("behind", "beside"):
        (tmp_path / name).mkdir()
    behind = tmp_path / "behind"
    through = carry_out(Path(sys.executable), "passthrough", tmp_path / "fs", broad, behind)
    directly = broad(tmp_path / "beside")
    differences = {a[0]: a[1] for a, b in zip(through.outcomes, directly) if a != b}
    # Not every file system under the tests has every one of these.
    assert {what: outcome for what, outcome in differences.items() if what not in NO_DISK} == {}
    assert {what: NO_DISK[what] for what in differences} == differences
    assert "renaming: RENAME_EXCHANGE" in differences


# How long a name may be is the kernel's to say: recent ones go by what the two sides agreed on.
def test_long_names_are_the_file_systems_to_refuse(
    real_llfuse: Environment, tmp_path: Path
) -> None:
    recent = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 18)
    for python, longest in (
        (Path(sys.executable), 4095 if recent else 1024),
        (real_llfuse.bin / "python", 1024),
    ):
        folder = tmp_path / python.parent.parent.name
        with served(python, "bare", folder):
            # To have room for the name, the path is relative.
            root = os.open(folder / "mnt", os.O_PATH)
            seen = {}
            for length in (1024, longest, longest + 1):
                with pytest.raises(OSError) as raised:
                    os.stat("n" * length, dir_fd=root)
                seen[length] = raised.value.errno
            os.close(root)
        assert seen[1024] == seen[longest] == errno.ENOENT
        if recent or python != Path(sys.executable):
            assert seen[longest + 1] == errno.ENAMETOOLONG


# A chosen difference: what is no FUSEError ends the real mount, and costs ours one request.
def test_an_unexpected_exception_ends_the_real_mount_and_not_ours(
    real_llfuse: Environment, tmp_path: Path
) -> None:
    unexpected = [name for name in RaisingFS.ERRNOS if name != "fuse"]
    with served(Path(sys.executable), "raising", tmp_path / "ours") as process:
        for name in unexpected:
            with pytest.raises(OSError) as raised:
                os.stat(tmp_path / "ours" / "mnt" / name)
            assert raised.value.errno == RaisingFS.ERRNOS[name], name
        assert stat.S_ISDIR(os.stat(tmp_path / "ours" / "mnt").st_mode)
    assert process.returncode == 0
    for name in unexpected:
        with served(real_llfuse.bin / "python", "raising", tmp_path / name) as process:
            with pytest.raises(OSError):
                os.stat(tmp_path / name / "mnt" / name)
            process.wait(20)
        assert process.returncode == 1
        assert "Traceback" in (tmp_path / name / "errors").read_text()
