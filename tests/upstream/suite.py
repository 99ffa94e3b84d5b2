# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Runs the released test suite of arvados_fuse on a subject, and says what became of each test."""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import released
from released import HERE, ROOT, TARGET, pip, quietly
from run_test_server import start_cluster

OURS = ROOT / "python"
SHIM = HERE / "released_modules"
SDIST = HERE / "sdist.txt"
TESTS = HERE / "tests.txt"
HELPERS = (
    "conftest.py", "integration_test.py", "mount_test_base.py", "outcomes.py", "run_test_server.py",
)  # fmt: skip


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


def lay_out(name: str, release: bool) -> Path:
    """Return a folder for a subject: the tests, what they clone as their source, and the script that
    they run."""
    with released.unpacked(SDIST) as source:
        folder = released.lay_out(name, source, [HERE / helper for helper in HELPERS])
        shutil.copytree(source, folder / "workspace")
    (folder / "bin").mkdir()
    script = folder / "workspace" / "bin" / "arv-mount" if release else ROOT / "bin" / "arv-mount"
    shutil.copy(script, folder / "bin")
    git = ("git", "-C", folder / "workspace", "-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "The release")):
        quietly(*git, *command)
    return folder


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
    started = time.monotonic()
    print(f"== running the released suite on {subject.title}", flush=True)
    cluster = start_cluster(str(released.cluster_folder(folder)))
    try:
        env = released.environment(folder, binaries, subject.path)
        env["WORKSPACE"] = str(folder / "workspace")
        check_subject(env, folder, subject)
        files = [] if any(word.startswith("tests") for word in for_pytest) else ["tests"]
        status = released.start_pytest(folder, env, [*for_pytest, *files]).wait()
    finally:
        cluster.stop()
    outcomes, wrong = released.results(folder, status)
    if args.record:
        released.record(outcomes, TESTS)
    if not for_pytest:
        wrong += released.differences(outcomes, released.expected(TESTS))
    return released.conclude(outcomes, wrong, started)


if __name__ == "__main__":
    sys.exit(main())
