# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What it takes to run a released test suite, unmodified, whichever it is.

Its files come from the release's source distribution, pinned by its hash and unpacked anew for each
run into `target/upstream/NAME`, with modules of ours beside them. A list has the tests that there are
and what must become of each: `passed`, `skipped` (by the suite itself) or `excluded` (where something
is missing that the test needs; it may pass). A run of the whole suite fails where one differs.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = ROOT / "target" / "upstream"

sys.path[:0] = [str(HERE), str(ROOT / "tests" / "python")]

from leftovers import running_in, unmount_below  # noqa: E402

#: By test, what became of it and why.
Outcomes = dict[str, tuple[str, str]]


def quietly(*command: object) -> None:
    """Run a command; what it says is shown if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def pip(python: Path, *words: object) -> None:
    """Run pip of an environment."""
    quietly(python, "-m", "pip", "-q", "--disable-pip-version-check", *words)


def sdist(requirement: Path) -> Path:
    """Return the source distribution that a file requires by its hash, downloaded if it is not
    there; pip checks the hash, and so does every run."""
    line = requirement.read_text().splitlines()[-1]
    release, _, wanted = line.partition(" --hash=sha256:")
    path = TARGET / f"{release.replace('==', '-')}.tar.gz"
    if not path.exists():
        TARGET.mkdir(parents=True, exist_ok=True)
        words = ("--no-deps", "--no-binary", ":all:", "--require-hashes", "-r", requirement)
        pip(Path(sys.executable), "download", *words, "-d", TARGET)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wanted.strip():
        sys.exit(f"{path} is not the release: remove it and try again")
    return path


@contextmanager
def unpacked(requirement: Path) -> Iterator[Path]:
    """Unpack the source distribution while a `with` block runs."""
    archive = sdist(requirement)
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(dir=TARGET) as folder:
        tar.extractall(folder, filter="data")
        yield Path(folder, archive.name.removesuffix(".tar.gz"))


def lay_out(name: str, source: Path, helpers: Iterable[Path]) -> Path:
    """Return a new folder that has the tests, our modules beside them, and room for what they write
    (`tmp`)."""
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp" / "home").mkdir(parents=True)
    shutil.copytree(source / "tests", folder / "tests")
    (folder / "tests" / "__init__.py").touch()
    for helper in helpers:
        (folder / "tests" / helper.name).symlink_to(helper)
    return folder


def environment(folder: Path, binaries: Path, path: Iterable[Path] = ()) -> dict[str, str]:
    """Return the environment of the tests in a folder, with `binaries` first among programs and
    `path` among modules: nothing of it leads out of the checkout. Their cluster is in `tmp/cluster`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARVADOS_", "KEEP_", "XDG_", "PYTHON", "SSL_CERT"))
    }
    return kept | {
        "ARVADOS_TEST_CLUSTER": str(cluster_folder(folder)),
        "HOME": str(folder / "tmp" / "home"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join(map(str, path)),
        "TMPDIR": str(folder / "tmp"),
    }


def cluster_folder(folder: Path) -> Path:
    """Return where the cluster of the tests in a folder has its data."""
    return folder / "tmp" / "cluster"


def start_pytest(
    folder: Path,
    env: dict[str, str],
    words: Sequence[object],
    prefix: Sequence[str] = (),
    output: IO | None = None,
) -> subprocess.Popen:
    """Start pytest with the tests in a folder. `prefix` is a command that runs others."""
    command = [*prefix, "python", "-m", "pytest", "-c", HERE / "pytest.ini", "--rootdir", folder]
    command += ["--outcomes", folder / "outcomes.json", *words]
    return subprocess.Popen(list(map(str, command)), env=env, cwd=folder, stdout=output)


def results(folder: Path, status: int) -> tuple[Outcomes, list[str]]:
    """Return what became of the tests in a folder, and what was wrong with the run: `status` is how
    pytest ended."""
    wrong = [] if status == 0 else [f"pytest ended with status {status}"]
    wrong += [f"left mounted: {path}" for path in unmount_below(folder / "tmp")]
    wrong += [f"left running: {process}" for process in running_in(folder / "tmp")]
    written = folder / "outcomes.json"
    return (json.loads(written.read_text()) if written.exists() else {}), wrong


def expected(listed: Path) -> dict[str, str]:
    """Return the tests that there are, with what must become of each."""
    lines = listed.read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return {test: outcome for outcome, test in pairs}


def differences(outcomes: Outcomes, wanted: dict[str, str]) -> list[str]:
    """Return how what happened differs from what must: an exclusion is one only where it is listed."""
    wrong = []
    for test in sorted(wanted.keys() | outcomes.keys()):
        outcome, want = outcomes.get(test, ("not run", ""))[0], wanted.get(test, "not there")
        allowed = ("passed", "excluded") if want == "excluded" else (want,)
        if outcome not in allowed:
            wrong.append(f"{test}: {outcome}, but it must be {want}")
    return wrong


def record(outcomes: Outcomes, listed: Path) -> None:
    """Have what happened be what must happen from now on; a failure is nothing to go by."""
    if failed := [test for test, (outcome, _) in outcomes.items() if outcome == "failed"]:
        sys.exit(f"not recorded: {', '.join(failed)} failed")
    lines = sorted(f"{outcome} {test}\n" for test, (outcome, _) in outcomes.items())
    heading = "# The tests of the release, and what must become of each.\n"
    listed.write_text(heading + "".join(lines))


def conclude(outcomes: Outcomes, wrong: list[str], started: float) -> int:
    """Say what became of the tests of a run that began at a `time.monotonic()`; return the status to
    exit with."""
    for test, (outcome, reason) in outcomes.items():
        if outcome in ("skipped", "excluded"):
            print(f"{outcome}: {test}: {reason}")
    counts = Counter(outcome for outcome, _ in outcomes.values())
    names = ("passed", "failed", "skipped", "excluded")
    summary = ", ".join(f"{counts[name]} {name}" for name in names)
    print(f"{summary}, in {time.monotonic() - started:.0f} s")
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0
