# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Modules that `arv-mount` loads when they are used, and whoever else imports this package at once."""

import contextlib
import http.server
import importlib
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any
from unittest import mock

import arvados_fuse
import pytest
from arvados_fuse.lazy_imports import DEFERRED, is_loaded, loaded_when_used
from conftest import ROOT

#: A part of what some of the modules need, by which it is seen from outside that they were loaded.
NEEDED = {
    "httplib2": "httplib2.iri2uri",
    "googleapiclient.http": "googleapiclient._auth",
    "googleapiclient.discovery": "uritemplate",
    "httplib2.auth": "pyparsing",
    "google.oauth2.service_account": "cryptography",
    "google.auth._regional_access_boundary_utils": "asyncio",
    "pycurl": "pycurl._pycurl",
    "websockets.sync.client": "websockets.sync.connection",
}


# What stands in a module's place

ONE = "X = 1\ndef x():\n    return X\n"
COUNTED = """
import time
loads = globals().get("loads", 0) + 1
time.sleep(0.3)
def f():
    return loads
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes a module, in a package of its own, that is loaded when it is used; returns its name."""
    made = []
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(mock.patch.object(sys, "path", [str(tmp_path), *sys.path]))

        def make(text: str) -> str:
            name = f"lazy{len(made)}_{tmp_path.name}".replace("-", "_")
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
            (tmp_path / name / "part").with_suffix(".py").write_text(text)
            made.append(name)
            cleanup.enter_context(loaded_when_used([f"{name}.part"]))
            return f"{name}.part"

        yield make
    for name in list(sys.modules):
        if name.partition(".")[0] in made:
            del sys.modules[name]


def test_a_module_is_loaded_when_it_is_used(module: Callable[[str], str]) -> None:
    name = module(ONE)
    package = importlib.import_module(name.removesuffix(".part"))
    part = importlib.import_module(name)
    assert sys.modules[name] is part
    # Nothing of this needs its contents.
    assert isinstance(part, types.ModuleType) and part.__name__ == name and name in repr(part)
    assert isinstance(part.__loader__, SourceFileLoader)
    assert part.__spec__ and part.__spec__.loader is part.__loader__ and part.__file__
    exec(f"import {name}\nfrom {package.__name__} import part")
    assert not is_loaded(part.__name__)
    assert package.part is part and part.x() == 1
    assert is_loaded(part.__name__)
    assert set(vars(part)) >= {"X", "x", "__builtins__", "__spec__"}


@pytest.mark.parametrize(
    "use",
    [
        lambda part: part.__dict__["X"],
        lambda part: vars(part)["X"],
        lambda part: dir(part).index("X"),
        lambda part: exec(f"from {part.__name__} import *\nX"),
        lambda part: exec(f"from {part.__name__} import X"),
        lambda part: hasattr(part, "X") or pytest.fail("not there"),
        lambda part: delattr(part, "X"),
    ],
    ids=["dict", "vars", "dir", "star", "from", "hasattr", "del"],
)
def test_whatever_asks_for_its_contents_loads_it(
    module: Callable[[str], str], use: Callable[[types.ModuleType], object]
) -> None:
    part = importlib.import_module(module(ONE))
    assert not is_loaded(part.__name__)
    use(part)
    assert is_loaded(part.__name__)


def test_what_is_put_in_its_place_stays(module: Callable[[str], str]) -> None:
    part = importlib.import_module(module(ONE))
    part.X = 2
    assert part.x() == 2


def test_it_can_be_patched(module: Callable[[str], str]) -> None:
    name = module(ONE)
    part = importlib.import_module(name)
    with mock.patch(f"{name}.X", 3):
        assert part.x() == 3
    assert part.x() == 1


def test_threads_see_it_loaded_once_and_whole(module: Callable[[str], str]) -> None:
    part: Any = importlib.import_module(module(COUNTED))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(part.f())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [1] * 8


def test_it_may_import_itself(module: Callable[[str], str]) -> None:
    part: Any = importlib.import_module(module("X = 1\nfrom . import part\nY = part.X + 1\n"))
    assert part.Y == 2


def test_an_import_that_fails_is_told_at_each_use(module: Callable[[str], str]) -> None:
    part: Any = importlib.import_module(module("import not_there_at_all\n" + ONE))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
            part.x()
    with mock.patch.dict(sys.modules, not_there_at_all=sys):
        assert part.x() == 1


def test_one_that_is_not_there_is_told_at_once(module: Callable[[str], str]) -> None:
    for name in (module("").replace(".part", ".other"), "not_there_at_all"):
        with loaded_when_used([name]), pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_one_that_is_not_of_python_is_loaded_at_once() -> None:
    text = (
        "import sys; from arvados_fuse.lazy_imports import is_loaded, loaded_when_used\n"
        "del sys.modules['ciso8601']\n"
        "with loaded_when_used(['ciso8601']): import ciso8601\n"
        "print(is_loaded('ciso8601'), ciso8601.parse_datetime('20261126').year)"
    )
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["True", "2026"], run.stderr


# Whose process


def ask(program: Path | list[str], *arguments: str) -> dict[str, bool]:
    """Run a program that ends with TELL; return whether each of DEFERRED was loaded."""
    words = program if isinstance(program, list) else [str(program)]
    said = subprocess.run(
        [sys.executable, *words, *arguments], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    loaded = set(said.stdout.splitlines()[-1].split())
    return {name: name in loaded for name in DEFERRED}


TELL = (
    "\nfrom arvados_fuse.lazy_imports import is_loaded\n"
    "import sys\nprint('\\n', *filter(is_loaded, list(sys.modules)))"
)
ALL = dict.fromkeys(DEFERRED, True)
NONE = dict.fromkeys(DEFERRED, False)


def script(path: Path, text: str) -> Path:
    path.write_text(text + TELL)
    return path


def test_modules_that_are_asked_for_are_deferred() -> None:
    assert set(NEEDED) <= set(DEFERRED)


@pytest.mark.parametrize("imported", ["arvados_fuse", "arvados_fuse.command"])
def test_a_program_that_imports_the_package_has_all_at_once(tmp_path: Path, imported: str) -> None:
    assert ask(["-c", f"import {imported}{TELL}"]) == ALL
    assert ask(script(tmp_path / "arv-mount-tests", f"import {imported}")) == ALL
    assert all(is_loaded(name) for name in DEFERRED), "in these tests"


def test_arv_mount_has_none(tmp_path: Path) -> None:
    # As pip writes the script of a wheel.
    text = "from arvados_fuse.command import main"
    assert ask(script(tmp_path / "arv-mount", text)) == NONE
    # And as it is in the source.
    text = (ROOT / "bin" / "arv-mount").read_text().partition("if __name__")[0]
    assert ask(script(tmp_path / "arv-mount", text)) == NONE


def test_nor_has_its_module_run_as_a_program() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "arvados_fuse.command", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert arvados_fuse.__version__ in run.stdout
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "arvados" in imported and not imported & set(NEEDED.values())


# Named and replaced before they are loaded

NAMES_AND_REPLACES = """
import os, sys, arvados_fuse, arvados.api
from arvados_fuse.lazy_imports import is_loaded, is_waiting
names = ("httplib2", "googleapiclient.http", "googleapiclient.discovery")
assert all(map(is_waiting, names))
import httplib2, apiclient.http, apiclient.discovery
assert os.path.exists(httplib2.CA_CERTS) and callable(httplib2.Http)
assert not any(map(is_loaded, names))
client = arvados.api.api_client
assert arvados.api._cast_orig(1, "string") == "1" and is_loaded("googleapiclient.discovery")
assert apiclient.discovery._cast([1], "array") == "[1]"
assert apiclient.discovery._cast is arvados.api._cast_objects_too
assert apiclient.http._retry_request is arvados.api._retry_request
assert arvados.api._orig_retry_request.__call__ is not apiclient.http._retry_request
assert isinstance(httplib2.Http, type) and httplib2.SSLHandshakeError is None
"""


def test_what_the_sdk_names_and_replaces_does_not_load_them(tmp_path: Path) -> None:
    loaded = ask(script(tmp_path / "arv-mount", NAMES_AND_REPLACES))
    assert loaded["httplib2"] and not loaded["httplib2.auth"]


# Used after all


USES_CHALLENGE = """
import sys, arvados_fuse, httplib2
http = httplib2.Http()
http.add_credentials("ada", "secret")
assert "pyparsing" not in sys.modules
response, content = http.request(sys.argv[1])
print(response.status, content.decode())
"""

USES_CREDENTIALS = """
import arvados_fuse
from google.oauth2 import service_account
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
key = rsa.generate_private_key(65537, 2048).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
).decode()
credentials = service_account.Credentials.from_service_account_info(
    {"client_email": "ada@example.org", "token_uri": "http://localhost/", "private_key": key}
)
print(len(credentials.sign_bytes(b"text")), credentials.service_account_email)
"""


class Challenging(http.server.BaseHTTPRequestHandler):
    """Asks for a password by digest, and tells what came."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.send_response(200 if 'username="ada"' in given else 401)
        self.send_header(
            "WWW-Authenticate", 'Digest realm="r", nonce="n", algorithm=MD5, qop="auth"'
        )
        body = given.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_challenge_is_answered(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Challenging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = script(tmp_path / "arv-mount", USES_CHALLENGE)
        url = f"http://127.0.0.1:{server.server_port}/"
        said = subprocess.run(
            [sys.executable, str(program), url], capture_output=True, text=True, timeout=60
        )
        server.shutdown()
    assert said.stdout.startswith('200 Digest username="ada"'), said.stdout + said.stderr
    assert "cryptography" not in said.stdout.split()


def test_credentials_of_google_sign(tmp_path: Path) -> None:
    program = script(tmp_path / "arv-mount", USES_CREDENTIALS)
    said = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60
    )
    assert said.stdout.startswith("256 ada@example.org"), said.stderr
    assert {"cryptography", "asyncio"} <= set(said.stdout.split())
