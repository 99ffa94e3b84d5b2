# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What the SDK's released tests import as `arvados_testutil`: temporary files, canned answers of the
API and of Keep, captured output.

The names and what they do are those that the tests use; nothing here speaks to a server.
"""

import contextlib
import hashlib
import http.client
import io
import shutil
import sys
import tempfile
import unittest
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO, StringIO  # noqa: F401  the tests take both from here
from typing import Any
from unittest import mock

import arvados
import httplib2
import pycurl

#: An address of the discard-only prefix (RFC 6666): nobody answers there.
TEST_HOST = "100::"

skip_sleep = mock.patch("time.sleep", lambda seconds: None)


def binary_compare(one: bytes, other: bytes) -> bool:
    """Return whether two byte sequences (bytes, memoryview, mmap) hold the same."""
    return len(one) == len(other) and bytes(one) == bytes(other)


def str_keep_locator(data: str | bytes) -> str:
    """Return the unsigned locator of a block."""
    data = _encoded(data)
    return f"{hashlib.md5(data).hexdigest()}+{len(data)}"


def queue_with(items: Iterable[Any]) -> Callable[..., Any]:
    """Return a function that hands out one item a call, to whichever thread calls."""
    left = deque(items)

    def take(*_args: Any, **_kwargs: Any) -> Any:
        if not left:
            raise AssertionError("more was asked for than the test had prepared")
        return left.popleft()

    return take


def _encoded(text: Any) -> Any:
    return text.encode() if isinstance(text, str) else text


def fake_httplib2_response(code: int, **headers: str) -> httplib2.Response:
    """Return the head of an answer of the API."""
    reason = http.client.responses.get(code, "Unassigned")
    return httplib2.Response({**headers, "status": str(code), "reason": reason})


def mock_api_responses(
    api_client: Any,
    body: Any,
    codes: Iterable[int],
    headers: dict[str, str] | None = None,
    method: str = "request",
) -> Any:
    """Patch a method of a client's HTTP object to give prepared answers: `body` with each status of
    `codes`."""
    body = _encoded(body)
    answers = [(fake_httplib2_response(code, **(headers or {})), body) for code in codes]
    return mock.patch.object(api_client._http, method, side_effect=queue_with(answers))


class FakeCurl:
    """A `pycurl.Curl` with its answer prepared.

    A code or body of type Exception is raised instead; None and True are no body at all.
    """

    def __init__(self, code: Any, body: Any, headers: dict[str, Any]) -> None:
        self._code = code
        self._body = _encoded(body)
        self._headers = headers
        self._options: dict[int, Any] = {}

    @classmethod
    def make(cls, code: Any, body: Any = b"", headers: dict[str, Any] | None = None) -> "FakeCurl":
        """Return one that answers so."""
        return cls(code, body, headers or {})

    def setopt(self, option: int, value: Any) -> None:
        """Keep an option."""
        self._options[option] = value

    def getopt(self, option: int) -> Any:
        """Return an option as it was set; None where it was not."""
        return self._options.get(option)

    def perform(self) -> None:
        """Answer through the callbacks that were set."""
        assert self.getopt(pycurl.URL), "performed without a URL"
        for prepared in (self._code, self._body):
            if isinstance(prepared, Exception):
                raise prepared
        on_header = self.getopt(pycurl.HEADERFUNCTION)
        if on_header is not None:
            on_header(f"HTTP/1.1 {self._code} Prepared\r\n")
            for name, value in self._headers.items():
                on_header(f"{name}: {value}\r\n")
        if isinstance(self._body, bytes):
            self.getopt(pycurl.WRITEFUNCTION)(self._body)

    def getinfo(self, info: int) -> int:
        """Return the status, which is all that the SDK asks for."""
        assert info == pycurl.RESPONSE_CODE
        return self._code

    def reset(self) -> None:
        """Refuse: the SDK then takes a new one for the next request, and with it the next answer."""
        raise RuntimeError("has its one answer and is not used again")

    def close(self) -> None:
        """Do nothing: there is no connection."""


def mock_keep_responses(body: Any, *codes: Any, **headers: Any) -> Any:
    """Patch `pycurl.Curl` to give prepared answers: `body` with each status of `codes`, or, where
    pairs are given, the body and status of each pair. `responses` of the mock lists them."""
    pairs = [body, *codes] if isinstance(body, tuple) else [(body, code) for code in codes]
    curls = [FakeCurl.make(code=code, body=what, headers=headers) for what, code in pairs]
    patched = mock.MagicMock(name="pycurl.Curl", side_effect=queue_with(curls))
    patched.responses = curls
    return mock.patch("pycurl.Curl", patched)


class ApiClientMock:
    """Makes API clients that tell of Keep services and answer as a test prepares."""

    def api_client_mock(self) -> mock.MagicMock:
        """Return a client whose cluster has one storage class."""
        client = mock.MagicMock(name="api_client_mock")
        client.config.return_value = {"StorageClasses": {"default": {"Default": True}}}
        return client

    def mock_keep_services(
        self,
        api_mock: mock.MagicMock | None = None,
        status: int = 200,
        count: int = 12,
        service_type: str = "disk",
        service_host: str | None = None,
        service_port: int | None = None,
        service_ssl_flag: bool = False,
        additional_services: Iterable[dict[str, Any]] = (),
        read_only: bool = False,
    ) -> mock.MagicMock:
        """Have a client tell of `count` services, numbered in uuid, host and port, and of others."""
        client = self.api_client_mock() if api_mock is None else api_mock
        services = [
            {
                "uuid": f"zzzzz-bi6l4-{number:015x}",
                "owner_uuid": f"zzzzz-tpzed-{0:015d}",
                "service_type": service_type,
                "service_host": service_host or f"keep0x{number:x}",
                "service_port": service_port or 0xFFFF - number,
                "service_ssl_flag": service_ssl_flag,
                "read_only": read_only,
            }
            for number in range(count)
        ]
        answer = {"items": [*services, *additional_services], "items_available": count}
        self._mock_api_call(client.keep_services().accessible, status, answer)
        return client

    def _mock_api_call(self, method: mock.MagicMock, code: int, body: Any) -> None:
        execute = method().execute
        if code == 200:
            execute.return_value = body
        else:
            execute.side_effect = arvados.errors.ApiError(fake_httplib2_response(code), b"{}")


@contextlib.contextmanager
def redirected_streams(stdout: Any = None, stderr: Any = None) -> Iterator[tuple[Any, Any]]:
    """Take the place of standard output and error; the class StringIO stands for a new one."""
    new = [stream() if isinstance(stream, type) else stream for stream in (stdout, stderr)]
    with contextlib.ExitStack() as stack:
        if new[0] is not None:
            stack.enter_context(mock.patch.object(sys, "stdout", new[0]))
        if new[1] is not None:
            stack.enter_context(mock.patch.object(sys, "stderr", new[1]))
        yield new[0], new[1]


class VersionChecker:
    """Checks what a program says of its version."""

    def assertVersionOutput(self, out: StringIO, err: StringIO) -> None:  # noqa: N802
        """Assert that one line, ending with a version number, went to standard output alone."""
        assert isinstance(self, unittest.TestCase)
        self.assertEqual("", err.getvalue())
        self.assertRegex(out.getvalue(), r"\A.* \d+\.\d+\.\d+(\.?[a-z]+\d+)?\n\Z")


class ArvadosBaseTestCase(unittest.TestCase):
    """A test case with temporary folders and files."""

    def setUp(self) -> None:
        """Begin without any."""
        super().setUp()
        self._folders: list[str] = []

    def tearDown(self) -> None:
        """Remove the folders."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        super().tearDown()

    def make_tmpdir(self) -> str:
        """Return a new folder, which goes when the test ends."""
        self._folders.append(tempfile.mkdtemp())
        return self._folders[-1]

    def make_test_file(self, text: bytes = b"test") -> Any:
        """Return a new file that holds `text`, and goes when it is closed."""
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        file.write(text)
        file.flush()
        return file

    def data_file(self, filename: str) -> io.StringIO:
        """Return a file of the name. They are manifests of large collections in normal form."""
        return StringIO(_MANIFESTS[filename]())


def _block(name: str, size: int) -> str:
    return f"{hashlib.md5(name.encode()).hexdigest()}+{size}"


def _few_large_files() -> str:
    """One stream of files that each take many full blocks and a part of one."""
    full = 1 << 26
    blocks, files, position = [], [], 0
    for number in range(40):
        tail = 1000003 * (number + 1) % full
        size = number * full + tail
        blocks += [_block(f"large {number} {part}", full) for part in range(number)]
        blocks.append(_block(f"large {number} tail", tail))
        files.append(f"{position}:{size}:chr{number:02d}.fa.gz")
        position += size
    return f". {' '.join(blocks)} {' '.join(files)}\n"


def _many_small_files() -> str:
    """Many streams whose files are packed into few blocks, some of them across two."""
    lines = []
    for stream in range(200):
        blocks = [_block(f"small {stream} {part}", 5000) for part in range(3)]
        files = [f"{number * 300}:300:lane\\040{number:02d}.txt" for number in range(50)]
        lines.append(f"./run{stream:03d} {' '.join(blocks)} {' '.join(files)}\n")
    return "".join(lines)


_MANIFESTS = {"1000G_ref_manifest": _few_large_files, "jlake_manifest": _many_small_files}


class DiskCacheBase:
    """Makes block caches, in memory or on disk, and removes what was on disk."""

    disk_cache_dir: str | None = None

    def make_block_cache(self, disk_cache: bool) -> Any:
        """Return a new, empty cache."""
        self.disk_cache_dir = tempfile.mkdtemp() if disk_cache else None
        return arvados.keep.KeepBlockCache(
            disk_cache=disk_cache, disk_cache_dir=self.disk_cache_dir
        )

    def tearDown(self) -> None:  # noqa: N802
        """Remove the folder of the last one."""
        if self.disk_cache_dir:
            shutil.rmtree(self.disk_cache_dir, ignore_errors=True)
