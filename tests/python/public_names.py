# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Prints the public names of arvados_fuse and llfuse, with their signatures, as JSON.

It runs on any version of them, to be compared.
"""

import importlib
import inspect
import json
from types import ModuleType
from typing import Any

MODULES = (
    "arvados_fuse", "arvados_fuse.command", "arvados_fuse.crunchstat", "arvados_fuse.fresh",
    "arvados_fuse.fusedir", "arvados_fuse.fusefile", "arvados_fuse.unmount", "arvados_fuse._version",
    "llfuse",
)  # fmt: skip


def signature(function: Any) -> list[Any] | None:
    """Return name, kind and default of each parameter; None where the interpreter cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [p.name, p.kind.name, None if p.default is p.empty else repr(p.default)]
        for p in parameters
        if p.name != "self"
    ]


def of_class(cls: type) -> dict[str, Any]:
    """Return the public methods of a class, inherited ones included, and its other attributes."""
    names = [name for name in dir(cls) if not name.startswith("_")]
    described: dict[str, Any] = {"(...)": signature(cls)}
    for name in names:
        value = inspect.getattr_static(cls, name)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        described[name] = signature(value) if callable(value) else "attribute"
    return described


def describe(module: ModuleType) -> dict[str, Any]:
    """Return what a module offers: of other modules' names, those that are ours."""
    described: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_") and name != "__version__":
            continue
        origin = (getattr(value, "__module__", None) or "").split(".")[0]
        ours = origin in ("arvados_fuse", "llfuse", "")
        if isinstance(value, ModuleType):
            continue
        if inspect.isclass(value) and ours:
            described[name] = of_class(value)
        elif callable(value) and ours:
            described[name] = signature(value)
        elif not callable(value):
            described[name] = type(value).__name__
    return described


if __name__ == "__main__":
    print(json.dumps({name: describe(importlib.import_module(name)) for name in MODULES}))
