# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Modules that the SDK imports and a mount has no use for, or not every mount: `arv-mount` loads them when
they are used.

That is so in `arv-mount`'s own process only. A program that imports `arvados_fuse` has them as the SDK
imports them: it may look at what is loaded, replace it, or fork at any moment.

Where one of them is imported its place is taken by a module that loads itself, once for all threads, when
it is asked for anything but what the import system knows of it. What its import raises is raised there, and
each time that it is used. `importlib.util.LazyLoader` does less: up to Python 3.12.1 other threads see a
module that is half loaded, and in all versions one that failed is seen without its contents from then on.
"""

import contextlib
import sys
import threading
import types
from collections.abc import Collection, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

from .source_lines import not_kept

#: With what each takes. Python's own modules (inspect: 0.6 MiB) are left, for anything to use at any time.
DEFERRED = (
    # Reads the challenges of answers with status 401, by pyparsing and, through that, unittest: 4 MiB.
    "httplib2.auth",
    # Credentials for services of Google, by cryptography, which has an OpenSSL of its own: 10 MiB.
    "google.oauth2.service_account",
    # Where Google's credentials are valid, asked by asyncio: 1.5 MiB. (Not asyncio itself: from Python 3.12
    # on logging asks that for the current task, wherever it was imported.)
    "google.auth._regional_access_boundary_utils",
    # libcurl, with an OpenSSL of its own, for Keep by way of the SDK: 6 MiB. A mount that may write has it
    # loaded at the start (command.py), others read without it.
    "pycurl",
    # Events, which a mount in a container does not listen to: 1 MiB.
    "websockets.sync.client",
)

#: What the import system sets before a module is loaded, and looks at where the module is imported again.
_KNOWN = frozenset(
    ("__cached__", "__class__", "__file__", "__loader__", "__name__", "__package__", "__spec__")
)


def in_arv_mount() -> contextlib.AbstractContextManager[None]:
    """Have DEFERRED modules, imported meanwhile, loaded when they are used, if this is `arv-mount`."""
    return loaded_when_used(DEFERRED) if _is_arv_mount() else contextlib.nullcontext()


@contextlib.contextmanager
def loaded_when_used(names: Collection[str]) -> Iterator[None]:
    """Have modules of these names, where they are imported meanwhile, loaded when they are used.

    A module that is not found is an ImportError at once, as ever. One that is not written in Python (pycurl
    before it became a package) is loaded at once.
    """
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def is_loaded(name: str) -> bool:
    """Tell whether a module was imported, and loaded."""
    module = sys.modules.get(name)
    return module is not None and type(module) is not _LazyModule


def load(name: str) -> None:
    """Load a module that was imported, if it is not loaded. Raises what its import raises."""
    module = sys.modules.get(name)
    if type(module) is _LazyModule:
        _load(module)


def _is_arv_mount() -> bool:
    """Tell whether the program is the script `arv-mount`, or `python -m arvados_fuse.command`.

    By its name: the wheel's script imports this package before it can say anything.
    """
    if sys.argv[:1] == ["-m"]:
        # Python looks for the module, and imports the package that it is in.
        return sys.orig_argv[-len(sys.argv) :][:1] == ["arvados_fuse.command"]
    file = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return file.rpartition("/")[2] == "arv-mount"


class _Finder(MetaPathFinder):
    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LazyLoader(spec.loader)
        return spec


class _LazyLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        spec.loader_state = _Loading()
        module.__class__ = _LazyModule


class _Loading:
    """Where the loading of a module is."""

    def __init__(self) -> None:
        # The thread that loads it is asked again by what the module itself imports.
        self.lock = threading.RLock()
        self.has_begun = False


class _LazyModule(types.ModuleType):
    # Not by super(): once it is loaded, a module is no longer of this class.

    def __getattribute__(self, name: str) -> Any:
        if name not in _KNOWN:
            _load(self)
        return types.ModuleType.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _load(self)
        types.ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        _load(self)
        types.ModuleType.__delattr__(self, name)


def _load(module: types.ModuleType) -> None:
    """Load a module, unless it is loaded or this thread is about it. Raises what its import raises."""
    spec: Any = module.__spec__
    loading = spec.loader_state
    with loading.lock:
        if loading.has_begun:
            return
        loading.has_begun = True
        try:
            with not_kept():
                spec.loader.exec_module(module)
        except BaseException:
            loading.has_begun = False
            raise
        types.ModuleType.__setattr__(module, "__class__", types.ModuleType)
