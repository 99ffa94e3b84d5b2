# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""No module of ours imports one that imports it, not even inside a function."""

import ast
from pathlib import Path

import pytest

PYTHON = Path(__file__).resolve().parents[2] / "python"


def sources() -> dict[str, str]:
    """Return the text of every module of both packages, by name."""
    found = {}
    for package in ("arvados_fuse", "llfuse"):
        for path in (PYTHON / package).rglob("*.py"):
            parts = path.relative_to(PYTHON).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text()
    return found


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


class Imports(ast.NodeVisitor):
    """The modules that one imports, but for those that only a type checker sees."""

    def __init__(self, module: str, modules: dict[str, str]) -> None:
        self.module = module
        self.modules = modules
        # A package is what is imported by it: `from . import x` in __init__ is its own x.
        is_package = any(name.startswith(f"{module}.") for name in modules)
        self.package = module if is_package else module.rpartition(".")[0]
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node.test):
            for child in node.body:
                self.visit(child)
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        self.found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            part = f"{base}.{alias.name}"
            self.found.add(part if part in self.modules else base)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in ("import_module", "__import__") and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                self.found.add(argument.value)
        self.generic_visit(node)


def imports(modules: dict[str, str]) -> dict[str, set[str]]:
    """Return what each module imports of the others. That a package is imported before what is in it is
    Python's doing, and no arrow."""
    arrows = {}
    for module, text in modules.items():
        visitor = Imports(module, modules)
        visitor.visit(ast.parse(text))
        arrows[module] = {name for name in visitor.found if name in modules and name != module}
    return arrows


def circles(modules: dict[str, str]) -> list[list[str]]:
    """Return the circles: from each module in one, the shortest way back to it."""
    arrows = imports(modules)
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(arrows):
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop(0)
            for name in sorted(arrows[way[-1]]):
                if name == start:
                    found.setdefault(frozenset(way), way)
                    ways = []
                    break
                if name not in seen:
                    seen.add(name)
                    ways.append([*way, name])
    return list(found.values())


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = sources()
    assert len(modules) > 40, "found too few modules to judge"
    assert {"arvados_fuse", "arvados_fuse.localcluster.service", "llfuse"} <= set(modules)
    assert circles(modules) == []


@pytest.mark.parametrize(
    "text",
    [
        "from . import b",
        "from .b import f",
        "from p import b",
        "import p.b",
        "import p.b as other",
        "from p.b import *",
        "def f():\n    from .b import g",
        "class A:\n    def f(self):\n        import p.b",
        "if True:\n    from . import b",
        "try:\n    from . import b\nexcept ImportError:\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from . import b",
        "import importlib\nimportlib.import_module('p.b')",
    ],
)
def test_a_circle_is_seen(text: str) -> None:
    assert circles({"p": "", "p.a": text, "p.b": "from .a import x"}) == [["p.a", "p.b"]]


@pytest.mark.parametrize(
    "text",
    [
        "import typing\nif typing.TYPE_CHECKING:\n    from .b import B",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B",
        "'from .b import B'",
        "from . import c",
    ],
)
def test_what_is_no_circle_is_none(text: str) -> None:
    assert (
        circles({"p": "from .a import x", "p.a": text, "p.b": "from .a import x", "p.c": ""}) == []
    )


def test_a_package_and_its_parts_can_be_in_one() -> None:
    assert circles({"p": "from .a import x", "p.a": "from p import x"}) == [["p", "p.a"]]
    deep = {"p": "", "p.q": "", "p.q.a": "from .. import b", "p.b": "from .q.a import x"}
    assert circles(deep) == [["p.b", "p.q.a"]]
