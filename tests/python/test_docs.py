# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What documentation and comments name is there: tests, files, public names; and every test asserts
something."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import arvados_fuse
import llfuse
import pytest
from conftest import ROOT

PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "tests/README.md",
    ]
)
#: The folders that are ours to write, and files that nobody wrote by hand.
FOLDERS = ("src", "crates", "python", "tests", "scripts", "benches", "examples", "fuzz", "docs")
GENERATED = {"Cargo.lock", "tests.txt"}
MAP = ROOT / "tests" / "README.md"
COMPAT = ROOT / "docs" / "compat.md"
NAMED_TEST = re.compile(r"(?<![/\w])(test_\w+\.py)(?:::(\w+))?")
NAMED_FILE = re.compile(r"(?<![\w/.*<{-])((?:[\w.-]+/)*\w[\w-]*\.(?:rs|py|pyi))\b(?!\w|\(|/)")
#: File names in comments that are not of this repository: a web site's, and one of fuser.
NOT_OURS = {"rustup.rs", "time.rs"}
# What pins a row of a table beside our own tests.
MAKE_TARGET = re.compile(r"`make ([\w-]+)")


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def missing(text: str) -> list[str]:
    """Return the tests that a text names and that do not exist."""
    lost = []
    for file, function in NAMED_TEST.findall(text):
        path = ROOT / "tests" / "python" / file
        if not path.exists() or (function and function not in functions(path)):
            lost.append(f"{file}::{function}")
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    assert missing(page.read_text()) == []


def test_a_test_that_is_missing_is_found() -> None:
    assert missing("`test_docs.py`, `test_docs.py::test_a_test_that_is_missing_is_found`") == []
    assert missing("`test_docs.py::test_nothing`") == ["test_docs.py::test_nothing"]
    assert missing("`test_nowhere.py`") == ["test_nowhere.py::"]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return the header and the rows of each table."""
    found: list[tuple[list[str], list[list[str]]]] = []
    fresh = True
    for line in text.splitlines():
        if not line.startswith("|"):
            fresh = True
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if fresh:
            found.append((cells, []))
        elif set("".join(cells)) != {"-"}:
            found[-1][1].append(cells)
        fresh = False
    return found


def test_every_row_has_its_test() -> None:
    rows = 0
    targets = (ROOT / "Makefile").read_text()
    for header, body in tables(COMPAT.read_text()):
        assert header[-1] == "test", header
        for row in body:
            assert len(row) == len(header) and all(row), row
            made = MAKE_TARGET.findall(row[-1])
            assert NAMED_TEST.search(row[-1]) or made, row
            assert all(re.search(rf"^{target}:", targets, re.M) for target in made), row
            rows += 1
    assert rows > 80


def test_every_public_name_is_listed() -> None:
    text = COMPAT.read_text()
    # The modules themselves, and the version, are in the table's first row.
    names = {*arvados_fuse.__all__, *llfuse.__all__} - {"__version__", "arvados", "llfuse"}
    assert {name for name in names if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def sources() -> Iterator[Path]:
    """Iterate over the files that are written by hand."""
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in (".md", ".toml") or path.name == "Makefile":
            yield path
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.name not in GENERATED and "__pycache__" not in path.parts:
                yield path


def prose(path: Path) -> str:
    """Return what a file says to its readers: its comments and strings, or all of it."""
    text = path.read_text()
    if path.suffix == ".rs":
        return "\n".join(line[line.index("//") :] for line in text.splitlines() if "//" in line)
    if path.suffix == ".py":
        words = tokenize.generate_tokens(io.StringIO(text).readline)
        return "\n".join(w.string for w in words if w.type in (tokenize.COMMENT, tokenize.STRING))
    return text


def lost_files(text: str, known: set[str]) -> list[str]:
    """Return the files that a text names, by their path or the end of it, and that are not known."""
    return [name for name in NAMED_FILE.findall(text) if name not in known]


def test_every_file_that_is_named_exists() -> None:
    files = list(sources())
    known = set(NOT_OURS)
    for path in files:
        parts = path.relative_to(ROOT).parts
        known.update("/".join(parts[at:]) for at in range(len(parts)))
    lost = {
        str(path.relative_to(ROOT)): names
        for path in files
        # This file names what is missing; the released suites' files are not here.
        if path.suffix in (".md", ".toml", ".rs", ".py", ".pyi", ".sh", "")
        and path != Path(__file__)
        and "upstream" not in path.parts
        and (names := lost_files(prose(path), known))
    }
    assert lost == {}
    assert len(files) > 200, "all are looked at"


def test_a_file_that_is_missing_is_found() -> None:
    known = {"src/fs/node.rs", "fs/node.rs", "node.rs"}
    assert lost_files("see src/fs/node.rs, `node.rs` and node.rs's end", known) == []
    assert lost_files("see src/fs/nodes.rs.", known) == ["src/fs/nodes.rs"]
    assert lost_files("(`gone.py::test`)", known) == ["gone.py"]
    assert lost_files("docs.rs/fuser and foo.rs() are no files; nor is <name>.rs", known) == []


def test_every_test_file_is_in_the_map() -> None:
    text = MAP.read_text()
    files = [
        *(ROOT / "tests" / "python").glob("*.py"),
        *(ROOT / "tests" / "rust").rglob("*.rs"),
        *(ROOT / "fuzz" / "fuzz_targets").glob("*.rs"),
    ]
    # By its name, by its folder and name, or as a part of a folder.
    missing = [
        str(path.relative_to(ROOT))
        for path in files
        if not any(
            f"`{name}`" in text
            for name in (path.name, f"{path.parent.name}/{path.name}", f"{path.parent.name}/")
        )
    ]
    assert missing == [] and len(files) > 50


#: What tests of other names do the asserting with.
CHECKS = re.compile(r"assert|raises|fail$|poll$|refused$|check")


def asserts(function: ast.FunctionDef) -> bool:
    """Return whether a test can fail by more than an accident."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Assert, ast.Raise)):
            return True
        if isinstance(node, ast.Call):
            if CHECKS.search(ast.unparse(node.func).rpartition(".")[2]):
                return True
            if any(word.arg == "check" for word in node.keywords):
                return True
    return False


def silent_tests(text: str) -> list[str]:
    """Return the tests of a module that assert nothing."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not asserts(node)
    ]


def test_every_test_asserts_something() -> None:
    silent = {
        path.name: names
        for path in sorted((ROOT / "tests" / "python").glob("test_*.py"))
        if (names := silent_tests(path.read_text()))
    }
    assert silent == {}


def test_a_test_that_asserts_nothing_is_found() -> None:
    assert silent_tests("def test_a():\n    f()\ndef test_b():\n    assert f()") == ["test_a"]
