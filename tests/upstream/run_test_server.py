# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the released suites import as `run_test_server`: an Arvados cluster with fixtures in it.

One local cluster serves a whole run. `run()` attaches to the one in the folder that the environment
variable ARVADOS_TEST_CLUSTER names, or starts one; both put it back to its fixtures. As a script
(`run_test_server.py start_keep`) it does one step, in the environment of whoever runs it.

It works beside any `arvados_fuse`: it reads the cluster's control module from the checkout.
"""

import argparse
import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import arvados
import arvados.config

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
_FOLDER = "ARVADOS_TEST_CLUSTER"


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # For a package, whose modules look it up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_fixtures = _module("upstream_fixtures", _HERE / "fixtures.py")
_control = _module("localcluster", _ROOT / "python/arvados_fuse/localcluster/__init__.py")

#: Host and port of the API, once `run()` was called.
my_api_host: str | None = None
_cluster: Any = None


def start_cluster(folder: str) -> Any:
    """Start a cluster with the fixtures, with its data in a folder; return its LocalCluster."""
    # The classes that the suites use.
    classes = "default,foo,bar,archival"
    options = {
        "cluster_id": _fixtures.CLUSTER_ID,
        "test_hooks": True,
        "storage_classes": classes,
    }
    cluster = _control.LocalCluster(folder, **options).start()
    records = {kind: list(_fixtures.records(kind).values()) for kind in _fixtures.KINDS}
    cluster.load_fixtures(records, _fixtures.blocks(), _fixtures.tokens())
    return cluster


def _attached() -> Any:
    global _cluster
    if _cluster is None:
        _cluster = _control.LocalCluster(os.environ[_FOLDER]).attach()
    return _cluster


def run(leave_running_atexit: bool = False) -> None:
    """Have a cluster in its first state, and an admin's settings for it in the environment."""
    global _cluster, my_api_host
    if _FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="cluster-")
        _cluster = start_cluster(folder)
        os.environ[_FOLDER] = folder
        if not leave_running_atexit:
            atexit.register(_stop_own, os.getpid(), _cluster, folder)
    my_api_host = _attached().api_host
    reset()


def _stop_own(pid: int, cluster: Any, folder: str) -> None:
    # Forked children inherit the handler, not the cluster.
    if os.getpid() == pid:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop(_FOLDER, None)


def reset() -> None:
    """Put the cluster back to its fixtures, and an admin's settings for it in the environment."""
    cluster = _attached()
    cluster.reset()
    os.environ["ARVADOS_API_HOST"] = cluster.api_host
    os.environ["ARVADOS_API_TOKEN"] = auth_token("admin")
    os.environ["ARVADOS_API_HOST_INSECURE"] = "true"


def stop(force: bool = False) -> None:
    """Nothing: the cluster stops when whoever started it ends."""


def run_keep(num_servers: int = 2, blob_signing: bool = False) -> None:
    """Run Keep services anew, with no blocks but those of the fixtures."""
    _attached().start_keep(num_servers, blob_signing)


def stop_keep(num_servers: int = 2) -> None:
    """Stop the Keep services."""
    _attached().stop_keep()


def run_ws() -> None:
    """Nothing: the API serves the event bus as well."""


def stop_ws() -> None:
    """Nothing."""


def run_keep_proxy() -> None:
    """Run a Keep proxy, and have clients use it that are told by the environment."""
    os.environ["ARVADOS_KEEP_SERVICES"] = _attached().start_keep_proxy()


def stop_keep_proxy() -> None:
    """Stop the Keep proxy."""
    _attached().stop_keep_proxy()


def run_keep_web() -> None:
    """The local cluster has no WebDAV service."""
    raise NotImplementedError("keep-web")


def stop_keep_web() -> None:
    """Nothing."""


def fixture(kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind that are in a cluster that was reset, by name."""
    return _fixtures.records(kind)


def auth_token(token_name: str) -> str:
    """Return the token of that name."""
    return _fixtures.tokens()[token_name]


def authorize_with(token_name: str) -> None:
    """Have the SDK's settings in this process be those of that token."""
    settings = arvados.config.settings()
    settings["ARVADOS_API_HOST"] = os.environ.get("ARVADOS_API_HOST")
    settings["ARVADOS_API_HOST_INSECURE"] = "true"
    settings["ARVADOS_API_TOKEN"] = auth_token(token_name)


class TestCaseWithServers(unittest.TestCase):
    """Has servers for the tests of a class: those for which a subclass has keyword arguments.

    Without a Keep server, blocks are kept in a folder (KEEP_LOCAL_STORE). The environment and the
    SDK's settings are afterwards what they were.
    """

    MAIN_SERVER: dict | None = None
    WS_SERVER: dict | None = None
    KEEP_SERVER: dict | None = None
    KEEP_PROXY_SERVER: dict | None = None
    KEEP_WEB_SERVER: dict | None = None

    _undo: list[Callable[[], object]]

    @classmethod
    def setUpClass(cls) -> None:
        environment, settings = dict(os.environ), dict(arvados.config.settings())
        cls._undo = [
            lambda: _set_to(os.environ, environment),
            lambda: _set_to(arvados.config.settings(), settings),
        ]
        os.environ.pop("ARVADOS_KEEP_SERVICES", None)
        os.environ.pop("KEEP_LOCAL_STORE", None)
        for options, start, end in (
            (cls.MAIN_SERVER, run, reset),
            (cls.WS_SERVER, run_ws, stop_ws),
            (cls.KEEP_SERVER, run_keep, stop_keep),
            (cls.KEEP_PROXY_SERVER, run_keep_proxy, stop_keep_proxy),
            (cls.KEEP_WEB_SERVER, run_keep_web, stop_keep_web),
        ):
            if options is not None:
                start(**options)  # type: ignore[operator]
                cls._undo.append(end)
        if cls.KEEP_SERVER is None and cls.KEEP_PROXY_SERVER is None:
            cls.local_store = tempfile.mkdtemp()
            cls._undo.append(lambda: shutil.rmtree(cls.local_store, ignore_errors=True))
            os.environ["KEEP_LOCAL_STORE"] = cls.local_store
        arvados.config.initialize()

    @classmethod
    def tearDownClass(cls) -> None:
        while cls._undo:
            cls._undo.pop()()


def _set_to(mapping: Any, wanted: dict) -> None:
    for key in set(mapping) - set(wanted):
        del mapping[key]
    mapping.update(wanted)


def main() -> int:
    """Do one step as the command line says."""
    parser = argparse.ArgumentParser(
        description="Prepare the test cluster that ARVADOS_TEST_CLUSTER names"
    )
    parser.add_argument("action", choices=["start_keep", "stop_keep", "database_reset"])
    parser.add_argument("--num-keep-servers", type=int, default=2, metavar="N")
    parser.add_argument("--keep-blob-signing", action="store_true")
    args = parser.parse_args()
    if args.action == "start_keep":
        run_keep(args.num_keep_servers, args.keep_blob_signing)
    elif args.action == "stop_keep":
        stop_keep(args.num_keep_servers)
    else:
        reset()
    return 0


if __name__ == "__main__":
    sys.exit(main())
