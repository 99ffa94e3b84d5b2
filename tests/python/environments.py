# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Python environments of their own, with released packages from PyPI in them."""

import subprocess
import sys
from pathlib import Path

from conftest import SCRATCH

#: The FUSE library of the release, and what its build needs.
LLFUSE = ["setuptools<81", "arvados-llfuse>=1.5.1"]
#: The release that this package replaces.
RELEASE = ["arvados_fuse==3.2.1", *LLFUSE]


class Environment:
    """A virtual environment."""

    def __init__(self, path: Path) -> None:
        self.bin = path / "bin"

    def run(self, *command: object, check: bool = True) -> str:
        """Run a program of the environment; return what it wrote, standard error included."""
        words = [str(self.bin / str(command[0])), *map(str, command[1:])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=SCRATCH)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pip(self, *words: object) -> str:
        return self.run("python", "-m", "pip", "--disable-pip-version-check", *words)

    def python(self, code: str) -> str:
        return self.run("python", "-c", code).strip()


def make_environment(path: Path, *requirements: str) -> Environment:
    """Make an environment in a new folder and install into it."""
    subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
    environment = Environment(path)
    environment.pip("install", "-q", *requirements)
    return environment
