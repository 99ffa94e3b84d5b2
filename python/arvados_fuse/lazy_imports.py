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
import importlib
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

from .source_lines import not_kept

#: With what each takes. Python's own modules (inspect: 0.6 MiB) are left, for anything to use at any time.
DEFERRED = (
    # The SDK's API client, which is built from the discovery document, and what it asks by. arv-mount has
    # a client of its own (native_client.py).
    "googleapiclient.channel",
    "googleapiclient.discovery",
    "googleapiclient.http",
    "googleapiclient.mimeparse",
    "googleapiclient.model",
    "googleapiclient.sample_tools",
    "googleapiclient.schema",
    "httplib2",
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
    # Events, which the core listens to: 1 MiB.
    "websockets",
    "websockets.exceptions",
    "websockets.sync.client",
)

#: What the SDK names of them as it is imported, and what it puts in its place, without using any of it. A
#: stand-in does for that; what is put there is so again once the module is loaded. A function here finds
#: out what there is to be named.
NAMED: dict[str, dict[str, Callable[[], Any] | None]] = {
    "googleapiclient.discovery": {"Resource": None, "_cast": None},
    "googleapiclient.http": {"_retry_request": None},
    "httplib2": {
        "CA_CERTS": lambda: importlib.import_module("httplib2.certs").where(),
        "Http": None,
        "SSLHandshakeError": None,
    },
}

#: What the import system sets before a module is loaded, and looks at where the module, or one below it, is
#: imported again.
_KNOWN = frozenset(
    (
        *("__cached__", "__class__", "__file__", "__loader__", "__name__", "__package__"),
        *("__path__", "__spec__"),
    )
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


def is_waiting(name: str) -> bool:
    """Tell whether a module was imported, and will be loaded when it is used."""
    return type(sys.modules.get(name)) is _LazyModule


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
            spec.loader = _LazyLoader(spec.loader, self._names)
        return spec


class _LazyLoader(Loader):
    def __init__(self, loader: Loader, names: Collection[str]) -> None:
        self._loader = loader
        self._names = names

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        spec.loader_state = _Loading(self._names, NAMED.get(module.__name__, {}))
        module.__class__ = _LazyModule


class _Loading:
    """Where the loading of a module is."""

    def __init__(self, names: Collection[str], named: dict[str, Callable[[], Any] | None]) -> None:
        #: The modules that are loaded when they are used, where this one imports them.
        self.names = names
        # The thread that loads it is asked again by what the module itself imports.
        self.lock = threading.RLock()
        self.has_begun = False
        self.named = named
        #: What stands for what is named, and what was put in its place.
        self.stand_ins: dict[str, _StandIn] = {}
        self.put: dict[str, Any] = {}

    def get(self, module: types.ModuleType, name: str) -> Any:
        """Return what stands for a name."""
        if name in self.put:
            return self.put[name]
        find = self.named[name]
        if find is not None:
            return find()
        return self.stand_ins.setdefault(name, _StandIn(module, name))

    def settle(self, module: types.ModuleType) -> None:
        """The module is loaded: what was put there before is there."""
        contents = types.ModuleType.__getattribute__(module, "__dict__")
        for name, stand_in in self.stand_ins.items():
            stand_in.__dict__["original"] = contents[name]
        contents.update(self.put)


class _StandIn:
    """Stands for what a module that is not loaded has under a name."""

    def __init__(self, module: types.ModuleType, name: str) -> None:
        self.__dict__.update(module=module, name=name)

    def _original(self) -> Any:
        if "original" not in self.__dict__:
            _load(self.__dict__["module"])
        return self.__dict__["original"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._original()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._original(), name)


def _is_below(module: types.ModuleType, name: str, value: Any) -> bool:
    """Tell whether a value is the module of that name in a package."""
    found = sys.modules.get(f"{types.ModuleType.__getattribute__(module, '__name__')}.{name}")
    return found is not None and found is value


class _LazyModule(types.ModuleType):
    # Not by super(): once it is loaded, a module is no longer of this class.

    def __getattribute__(self, name: str) -> Any:
        get = types.ModuleType.__getattribute__
        if name in _KNOWN:
            return get(self, name)
        loading = get(self, "__spec__").loader_state
        if not loading.has_begun:
            if name in loading.named:
                return loading.get(self, name)
            found = get(self, "__dict__").get(name)
            if _is_below(self, name, found):
                return found
        _load(self)
        return get(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        loading = types.ModuleType.__getattribute__(self, "__spec__").loader_state
        if not loading.has_begun and name in loading.named:
            loading.put[name] = value
            return
        # The import system tells a package of the modules in it.
        if not _is_below(self, name, value):
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
            with not_kept(), loaded_when_used(loading.names):
                spec.loader.exec_module(module)
        except BaseException:
            loading.has_begun = False
            raise
        loading.settle(module)
        types.ModuleType.__setattr__(module, "__class__", types.ModuleType)
