# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the documentation names is there: tests, files, public names."""

import ast
import re
from pathlib import Path

import arvados_fuse
import llfuse
import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
COMPAT = ROOT / "docs" / "compat.md"
NAMED_TEST = re.compile(r"(?<![/\w])(test_\w+\.py)(?:::(\w+))?")
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
