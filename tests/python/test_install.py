# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The wheel in an environment that has the release: it takes its place, and gives it back."""

import json
import os
import pwd
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from environments import RELEASE, Environment, make_environment


@pytest.fixture(scope="module")
def wheel() -> Path:
    wheels = list((ROOT / "dist").glob("arvados_fuse-*.whl"))
    assert len(wheels) == 1, "run `make wheel` first"
    return wheels[0]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("venv"), *RELEASE)


def test_the_wheel_is_for_glibc_2_28(wheel: Path, tmp_path: Path) -> None:
    assert "-manylinux_2_28_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        core = archive.extract("llfuse/_core.abi3.so", tmp_path)
        described = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(described).decode()
    # The dynamic symbol versions that it needs, by their names in its string table.
    wanted = {
        tuple(map(int, version.split(b".")))
        for version in re.findall(rb"\0GLIBC_(\d+(?:\.\d+)+)(?=\0)", Path(core).read_bytes())
    }
    assert (2, 2, 5) in wanted or (2, 17) in wanted, "it links against glibc"
    assert max(wanted) <= (2, 28)
    # What PyPI shows.
    assert "Project-URL: Documentation, https://" in metadata
    assert not re.search(r"\]\((?!https://)", metadata), "links of the README are absolute"


def test_the_source_distribution_has_what_a_build_needs(tmp_path: Path) -> None:
    # Cargo finds its toolchain and crates in the home of whoever runs the tests.
    home = pwd.getpwuid(os.getuid()).pw_dir
    env = {**os.environ, "HOME": home, "CARGO_TARGET_DIR": str(ROOT / "target")}
    subprocess.run(
        [str(Path(sys.executable).with_name("maturin")), "sdist", "--out", str(tmp_path)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (sdist,) = tmp_path.glob("arvados_fuse-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
    for page in ("usage", "migration", "compat"):
        assert (unpacked / "docs" / f"{page}.md").exists()
    # Every source is there, and no path leads out: cargo resolves all of it as it is locked.
    described = subprocess.run(
        ["cargo", "check", "-q", "--lib", "--no-default-features", "--locked", "--offline"],
        cwd=unpacked,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert described.returncode == 0, described.stderr


@pytest.mark.timeout(900)
def test_it_replaces_the_release_and_gives_way_to_it(released: Environment, wheel: Path) -> None:
    kind = "import llfuse; print(hasattr(llfuse, '_core'))"
    assert released.python(kind) == "False"

    released.pip("install", "-q", wheel)
    assert "3.2.1.post1" in released.pip("show", "arvados_fuse")
    assert "No broken requirements" in released.pip("check")
    assert "arvados-llfuse" in released.pip("list"), "the other llfuse is still installed"
    for imports in ("import llfuse, arvados_fuse", "import arvados_fuse, llfuse"):
        assert released.python(f"{imports}; print(hasattr(llfuse, '_core'))") == "True"
    # Its lines are as long as a terminal is wide.
    assert released.run("arv-mount", "--version").split()[-1] == "3.2.1.post1"
    script = released.bin / "arv-mount"
    imported = released.run("python", "-X", "importtime", script, "--version")
    assert "googleapiclient" in imported and "pyparsing" not in imported
    help_text = released.run("arv-mount", "--help")
    assert "--local" in help_text and "--mount-tmp" in help_text
    fault_injection = "from llfuse import _core; print(_core.HAS_FAULT_INJECTION)"
    assert released.python(fault_injection) == "False"

    released.pip("uninstall", "-q", "-y", "arvados_fuse")
    released.pip("install", "-q", *RELEASE)
    assert released.python(kind) == "False"
    assert released.run("arv-mount", "--version").split()[-1] == "3.2.1"
    version = "import arvados_fuse.command as c; print(c.__version__)"
    assert released.python(version) == "3.2.1"


def test_every_option_of_the_release_is_there(released: Environment) -> None:
    script = (
        "import arvados_fuse.command as c\n"
        "for a in c.ArgumentParser()._actions:\n"
        "    print(sorted(a.option_strings), a.dest, a.default, a.nargs, a.const, sep='|')\n"
    )
    theirs = set(released.python(script).splitlines())
    ours = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert theirs - set(ours) == set()
    added = {line.split("|")[1] for line in set(ours) - theirs}
    assert added == {"api_timeout", "local", "nonempty", "write_buffer", "save_after"}


NOT_OFFERED = {
    # Requests to the release's own removal thread, which is the core's here.
    "arvados_fuse.RemoveInode",
    "arvados_fuse.InvalidateInode",
    "arvados_fuse.InvalidateEntry",
    "arvados_fuse.EvictCandidates",
    # The inside of arvados-llfuse.
    "llfuse.NotifyRequest",
    "llfuse.VoidPtrCapsule",
    # The same default, as None.
    "llfuse.init",
}


def takes(ours: Any, theirs: Any) -> bool:
    """Tell whether a signature takes every call that another one takes."""
    if ours == theirs or theirs is None:
        return True
    if not isinstance(ours, list) or not isinstance(theirs, list) or len(ours) < len(theirs):
        return False
    for (name, kind, default), (their_name, their_kind, their_default) in zip(ours, theirs):
        if (name, kind) != (their_name, their_kind):
            return False
        if their_default is not None and default != their_default:
            return False
    more = ours[len(theirs) :]
    return all(default is not None or kind.startswith("VAR") for _, kind, default in more)


def test_every_name_and_signature_of_the_release_is_there(released: Environment) -> None:
    script = Path(__file__).parent / "public_names.py"
    theirs = json.loads(released.run("python", script))
    ours = json.loads(subprocess.check_output([sys.executable, script]))
    different = set()
    compared = 0
    for module, names in theirs.items():
        for name, described in names.items():
            mine = ours[module].get(name)
            compared += 1
            # A class is named in several modules; its own is where it is reported from.
            where = f"{module.replace('.command', '')}.{name}"
            if isinstance(described, dict) and isinstance(mine, dict):
                for member, signature in described.items():
                    compared += 1
                    if member not in mine or not takes(mine[member], signature):
                        different.add(f"{where}.{member}")
            elif mine is None or not takes(mine, described):
                different.add(where)
    assert compared > 1000
    assert different == NOT_OFFERED
