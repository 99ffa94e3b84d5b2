# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Runs the released test suite of arvados_fuse, unmodified, and says what became of each test.

Its files come from the release's source distribution, unpacked anew for each run into
`target/upstream/NAME`, with this folder's modules beside them. `tests.txt` has the tests that there
are and what must become of each; a run of the whole suite fails where one differs.
"""

import argparse
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
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = ROOT / "target" / "upstream"
OURS = ROOT / "python"
SHIM = HERE / "released_modules"
HELPERS = ("conftest.py", "integration_test.py", "mount_test_base.py", "run_test_server.py")

sys.path[:0] = [str(HERE), str(ROOT / "tests" / "python")]

from leftovers import running_in, unmount_below  # noqa: E402
from run_test_server import start_cluster  # noqa: E402


@dataclass(frozen=True)
class Subject:
    """What the suite is run on: in an environment with the release or in ours, and with which
    folders first in the path of modules."""

    title: str
    released: bool
    path: tuple[Path, ...] = ()


SUBJECTS = {
    "ours": Subject("our package", released=False),
    "peer": Subject("the released package with arvados-llfuse", released=True),
    "released-modules": Subject(
        "the released modules over our Operations, Inodes, InodeCache and llfuse",
        released=True,
        path=(SHIM, OURS),
    ),
}

#: Prints where each module comes from, and the classes that matter most.
WHERE = """
import importlib, json, os, sys
import arvados_fuse
files = {name: importlib.import_module(name).__file__ for name in sys.argv[1:]}
for name in ("Operations", "Inodes", "InodeCache"):
    files[name] = sys.modules[getattr(arvados_fuse, name).__module__].__file__
print(json.dumps({name: os.path.realpath(file) for name, file in files.items()}))
"""
#: What the release's modules run on where they run on our core.
CORE = ("llfuse", "Operations", "Inodes", "InodeCache")
MODULES = ("command", "crunchstat", "fresh", "fusedir", "fusefile", "unmount")


def quietly(*command: object) -> None:
    """Run a command; what it says is shown if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def pip(python: Path, *words: object) -> None:
    quietly(python, "-m", "pip", "-q", "--disable-pip-version-check", *words)


def sdist() -> Path:
    """Return the source distribution, downloaded if it is not there; pip checks its hash, and so
    does every run."""
    wanted = (HERE / "sdist.txt").read_text().rpartition("sha256:")[2].strip()
    path = TARGET / "arvados_fuse-3.2.1.tar.gz"
    if not path.exists():
        words = ("--no-deps", "--no-binary", ":all:", "--require-hashes", "-r", HERE / "sdist.txt")
        pip(Path(sys.executable), "download", *words, "-d", TARGET)
    if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
        sys.exit(f"{path} is not the release: remove it and try again")
    return path


def release_environment() -> Path:
    """Return an environment's bin folder that has the release, made if it is not there."""
    requirements = HERE / "release.txt"
    folder, stamp = TARGET / "release-venv", TARGET / "release-venv" / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print("== making an environment with the release", flush=True)
        quietly(sys.executable, "-m", "venv", "--clear", folder)
        pip(folder / "bin" / "python", "install", "-r", requirements)
        shutil.copy(requirements, stamp)
    return folder / "bin"


def lay_out(name: str, released: bool) -> Path:
    """Unpack the suite for a subject, put our modules beside it, and the script that it runs."""
    folder = TARGET / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tmp" / "home").mkdir(parents=True)
    with tarfile.open(sdist()) as archive, tempfile.TemporaryDirectory(dir=TARGET) as unpacked:
        archive.extractall(unpacked, filter="data")
        source = Path(unpacked, "arvados_fuse-3.2.1")
        shutil.copytree(source / "tests", folder / "tests")
        # What a test clones as its source.
        shutil.copytree(source, folder / "workspace")
    (folder / "tests" / "__init__.py").touch()
    for helper in HELPERS:
        (folder / "tests" / helper).symlink_to(HERE / helper)
    (folder / "bin").mkdir()
    script = folder / "workspace" / "bin" / "arv-mount" if released else ROOT / "bin" / "arv-mount"
    shutil.copy(script, folder / "bin")
    git = ("git", "-C", folder / "workspace", "-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "The release")):
        quietly(*git, *command)
    return folder


def environment(folder: Path, binaries: Path, subject: Subject, cluster: Path) -> dict[str, str]:
    """Return the environment of the tests: nothing of it leads out of the checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARVADOS_", "KEEP_", "XDG_", "PYTHON", "SSL_CERT"))
    }
    return kept | {
        "ARVADOS_TEST_CLUSTER": str(cluster),
        "HOME": str(folder / "tmp" / "home"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join(map(str, subject.path)),
        "TMPDIR": str(folder / "tmp"),
        "WORKSPACE": str(folder / "workspace"),
    }


def check_subject(env: dict[str, str], folder: Path, subject: Subject) -> None:
    """Exit where the tests would run on other modules than they should."""
    names = [*(f"arvados_fuse.{module}" for module in MODULES), "llfuse"]
    asked = subprocess.run(
        ["python", "-c", WHERE, *names], env=env, cwd=folder, stdout=subprocess.PIPE, check=True
    )
    for name, file in json.loads(asked.stdout).items():
        ours = not subject.released or (OURS in subject.path and name in CORE)
        if Path(file).is_relative_to(OURS) != ours:
            sys.exit(f"{name} comes from {file}")


def expected() -> dict[str, str]:
    """Return the tests that there are, with what must become of each."""
    lines = (HERE / "tests.txt").read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return {test: outcome for outcome, test in pairs}


def differences(outcomes: dict[str, tuple[str, str]], wanted: dict[str, str]) -> list[str]:
    """Return how what happened differs from what must: an exclusion is one only where it is listed."""
    wrong = []
    for test in sorted(wanted.keys() | outcomes.keys()):
        outcome, want = outcomes.get(test, ("not run", ""))[0], wanted.get(test, "not there")
        allowed = ("passed", "excluded") if want == "excluded" else (want,)
        if outcome not in allowed:
            wrong.append(f"{test}: {outcome}, but it must be {want}")
    return wrong


def record(outcomes: dict[str, tuple[str, str]]) -> None:
    """Have what happened be what must happen from now on."""
    lines = sorted(f"{outcome} {test}\n" for test, (outcome, _) in outcomes.items())
    heading = "# The tests of the release, and what must become of each.\n"
    (HERE / "tests.txt").write_text(heading + "".join(lines))


def summary(outcomes: dict[str, tuple[str, str]]) -> str:
    counts = Counter(outcome for outcome, _ in outcomes.values())
    names = ("passed", "failed", "skipped", "excluded")
    return ", ".join(f"{counts[name]} {name}" for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--record", action="store_true", help="Write tests.txt anew")
    parser.epilog = "Other arguments go to pytest: with files or -k, what ran is not compared."
    args, for_pytest = parser.parse_known_args()
    subject = SUBJECTS[args.subject]
    TARGET.mkdir(parents=True, exist_ok=True)
    binaries = release_environment() if subject.released else Path(sys.executable).parent
    folder = lay_out(args.subject, subject.released)
    scratch, results = folder / "tmp", folder / "outcomes.json"
    started = time.monotonic()
    print(f"== running the released suite on {subject.title}", flush=True)
    cluster = start_cluster(str(scratch / "cluster"))
    try:
        env = environment(folder, binaries, subject, scratch / "cluster")
        check_subject(env, folder, subject)
        command = ["python", "-m", "pytest", "-c", HERE / "pytest.ini", "--rootdir", folder]
        files = [] if any(word.startswith("tests") for word in for_pytest) else ["tests"]
        command += ["--outcomes", results, *for_pytest, *files]
        status = subprocess.run(list(map(str, command)), env=env, cwd=folder).returncode
    finally:
        cluster.stop()
    wrong = [] if status == 0 else [f"pytest ended with status {status}"]
    wrong += [f"left mounted: {path}" for path in unmount_below(scratch)]
    wrong += [f"left running: {process}" for process in running_in(scratch)]
    outcomes = json.loads(results.read_text()) if results.exists() else {}
    for test, (outcome, reason) in outcomes.items():
        if outcome in ("skipped", "excluded"):
            print(f"{outcome}: {test}: {reason}")
    print(f"{summary(outcomes)}, in {time.monotonic() - started:.0f} s")
    if args.record:
        record(outcomes)
    if not for_pytest:
        wrong += differences(outcomes, expected())
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
