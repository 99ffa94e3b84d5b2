# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""When collections are served by the core, without the SDK's objects.

They are for as long as everything that would be asked is the released thing: the SDK's Keep client and
collections, and our own kinds of entry. Whatever is replaced, patched or a mock is asked instead.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import arvados.arvfile
import arvados.collection
import arvados.keep
import arvados.util
import llfuse
from llfuse import _core

from .block_cache import BlockCache

#: What stands in for the SDK's functions: where they are looked up, and what was there.
_HOOKS = [
    (owner, name, getattr(owner, name))
    for owner, name in [
        (arvados.keep, "KeepClient"),
        (arvados.keep.KeepClient, "get"),
        (arvados.keep.KeepClient, "_get_or_head"),
        (arvados.keep.KeepClient, "local_store_get"),
        (arvados.keep.KeepClient, "_KeepService"),
        (arvados.keep.KeepClient._KeepService, "get"),
        (arvados.keep.KeepClient._KeepService, "_get_user_agent"),
        (arvados.collection, "Collection"),
        (arvados.collection, "CollectionReader"),
        (arvados.collection.Collection, "__init__"),
        (arvados.arvfile.ArvadosFile, "readfrom"),
        (arvados.keep.KeepClient, "put"),
        (arvados.keep.KeepClient, "local_store_put"),
        (arvados.keep.KeepClient._KeepService, "put"),
        (arvados.arvfile.ArvadosFile, "writeto"),
        (arvados.arvfile.ArvadosFile, "truncate"),
        (arvados.collection.Collection, "open"),
    ]
]
_KEEP_CLIENT = arvados.keep.KeepClient

#: Our kinds of entry, as they were when the package was imported.
_KINDS: list[tuple[type, dict]] = []


def remember_kinds(*kinds: type) -> None:
    """Take the classes, and those that they stand on, as the shipped ones."""
    known = {cls for cls, _ in _KINDS}
    for kind in kinds:
        for cls in kind.__mro__:
            if cls not in known and cls.__module__.startswith(("arvados_fuse", "llfuse")):
                known.add(cls)
                _KINDS.append((cls, dict(vars(cls))))


def kinds_are_shipped() -> bool:
    """Return whether no attribute of our kinds of entry was replaced."""
    return all(dict(vars(cls)) == then for cls, then in _KINDS)


def _is_own(keep: Any, name: str) -> bool:
    replaced = vars(keep).get(name)
    return replaced is None or replaced == keep.local_store_get


def keep_is_real(keep: Any) -> bool:
    """Return whether reading through this Keep client would be the SDK's own reading."""
    return (
        type(keep) is _KEEP_CLIENT
        and all(getattr(owner, name) is then for owner, name, then in _HOOKS)
        and _is_own(keep, "get")
    )


def is_as_shipped(directory: Any, kind: type, keep: Any) -> bool:
    """Return whether everything that Python would be asked about a directory of `kind` and what is in it
    is as it was shipped, the Keep client that reads its blocks included."""
    return (
        type(directory) is kind
        and kinds_are_shipped()
        and keep_is_real(keep)
        and not any(hasattr(kind, name) for name in vars(directory))
    )


_sealed = False


def seal() -> None:
    """Take it that nothing is replaced from now on: the process is `arv-mount`'s own."""
    global _sealed
    _sealed = True


def keep_check(keep: Any) -> Callable[[], bool] | None:
    """Return what tells, at each open, whether this Keep client is still real; None: it stays so."""
    return None if _sealed else functools.partial(keep_is_real, keep)


class _Fed:
    """A counter of the SDK's, with what the core counted added."""

    def __init__(self, counter: Any, core: Any) -> None:
        self._counter = counter
        self._core = core

    def add(self, v: int) -> None:
        self._counter.add(v)

    def get(self) -> int:
        return self._counter.get() + self._core()


@contextlib.contextmanager
def under_lock() -> Iterator[None]:
    """Hold `llfuse.lock`, whether or not this thread holds it already."""
    if _core.holds_lock():
        yield
    else:
        with llfuse.lock:
            yield


_readers: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def shutdown(keep: Any) -> None:
    """End the threads of the core's client for `keep`, if there is one."""
    reader = _readers.pop(keep, None)
    if reader is not None:
        reader.shutdown()


def _services(keep: Any, refresh: bool) -> list[tuple[str, str, str, bool]]:
    keep.build_services_list(force_rebuild=refresh)
    services = {service["uuid"]: service for service in keep._keep_services or ()}
    services.update(keep._gateway_services)
    return [
        (
            uuid,
            service["_service_root"],
            service.get("service_type") or "disk",
            bool(service.get("read_only")),
        )
        for uuid, service in services.items()
    ]


def _limits(keep: Any, timeout: Any, default: tuple) -> tuple:
    timeout = default if timeout is None else timeout
    if not isinstance(timeout, (tuple, list)):
        timeout = (timeout, timeout)
    return tuple(map(float, (*timeout, *default[len(timeout) :])))


def reader_for(keep: Any) -> Any:
    """Return the core's Keep client that reads as `keep` would, or None where there is none.

    It shares the cache folder with `keep`, and what it reads is counted there.
    """
    if not keep_is_real(keep):
        return None
    reader = _readers.get(keep)
    if reader is None:
        cache = keep.block_cache
        disk = getattr(cache, "_disk_cache", False)
        weak = weakref.ref(keep)

        def services(refresh: bool) -> list[tuple[str, str, str, bool]]:
            keep = weak()
            return _services(keep, refresh) if keep is not None else []

        reader = _core.KeepReader(
            services,
            token=getattr(keep, "api_token", None) or "",
            insecure=bool(keep.insecure),
            ca_file=arvados.util.ca_certs_path(),
            num_retries=getattr(keep, "num_retries", 0),
            timeout=_limits(keep, keep.timeout, keep.DEFAULT_TIMEOUT),
            proxy_timeout=_limits(keep, keep.proxy_timeout, keep.DEFAULT_PROXY_TIMEOUT),
            local_store=getattr(keep, "local_store", None) or None,
            disk_cache_dir=cache._disk_cache_dir if disk else None,
            cache_max=cache.core_max
            if isinstance(cache, BlockCache)
            else int(getattr(cache, "cache_max", 0)),
            max_slots=int(getattr(cache, "_max_slots", 0)),
        )
        _readers[keep] = reader
        counters = (
            *("get_counter", "hits_counter", "misses_counter", "download_counter"),
            *("put_counter", "upload_counter"),
        )
        for place, name in enumerate(counters):
            count = reader.counters
            setattr(keep, name, _Fed(getattr(keep, name), lambda p=place, c=count: c()[p]))
    return reader
