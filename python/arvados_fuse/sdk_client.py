# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The SDK's API client for a mount: it waits for a bounded time, says so, and keeps the token at home.

Whoever asks something of a mount waits as long as the API takes. The SDK alone would wait up to five
minutes for each of ten attempts, and say nothing. Here all attempts of a request share one time limit,
and each that fails is told in the log. What the SDK and googleapiclient do around it stays the same.
"""

import http.client
import io
import json
import random
import socket
import ssl
import time
import urllib.parse
from typing import Any

import arvados
import arvados.api
import arvados.safeapi
import arvados.util
import httplib2
from googleapiclient import errors as apiclient_errors

from .api_requests import DEFAULT_TIMEOUT, IF_HASH
from .apierrors import ServerError, api_host
from .reports import report

#: How long to wait for a connection, in seconds.
_CONNECT_TIMEOUT = 10.0
#: How long a server may be silent before the log tells, in seconds.
_TELL_AFTER = 5.0
#: The longest pause between two attempts, in seconds.
_LONGEST_PAUSE = 10.0
#: An answer that comes at this rate, in bytes per second, may take longer than the time limit.
_SLOWEST_BODY = 64 * 1024
#: The longest answer, in bytes: the API's own limit for a manifest is far below.
_LONGEST_BODY = 1 << 30

_REDIRECTS = (301, 302, 303, 307, 308)
#: Statuses below 500 that may be another one at the next attempt.
_TEMPORARY = (408, 409, 423, 429)


class _Unanswered(ConnectionResetError):
    """The connection was closed instead of an answer; httplib2 knows none of it."""


class _Wait:
    """The time that all attempts of one request may take together."""

    def __init__(self, what: str, server: str, limit: float, body: Any) -> None:
        self.what = what
        self.server = server
        self.limit = limit
        self._began = time.monotonic()
        self._sent = len(body or "")
        self._received = 0

    def left(self) -> float:
        """Return the seconds that are left."""
        allowed = self.limit + (self._sent + self._received) / _SLOWEST_BODY
        return self._began + allowed - time.monotonic()

    def received(self, count: int) -> None:
        self._received += count
        if self._received > _LONGEST_BODY:
            raise ServerError(f"the API at {self.server} sent more than {_LONGEST_BODY} bytes")

    def tell(self) -> None:
        report(
            f"the API at {self.server} has not answered {self.what} for {_TELL_AFTER:g} s; "
            f"waiting up to {self.limit:g} s",
            "warn",
        )


class _Reader(io.RawIOBase):
    """Reads an answer within the time limit."""

    def __init__(self, sock: Any, wait: _Wait) -> None:
        self._sock = sock
        self._wait = wait
        # Keeps the socket from being closed under this reader, as its own reader would.
        self._held = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while (left := self._wait.left()) > 0:
            self._sock.settimeout(min(left, _TELL_AFTER))
            try:
                count = self._sock.recv_into(buffer)
            except TimeoutError:
                self._wait.tell()
                continue
            self._wait.received(count)
            return count
        raise TimeoutError(f"no answer within {self._wait.limit:g} s")

    def close(self) -> None:
        if not self.closed:
            self._held.close()
        super().close()


class _Readable:
    """A socket as far as an HTTP response needs one."""

    def __init__(self, sock: Any, wait: _Wait) -> None:
        self._sock = sock
        self._wait = wait

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._wait))


class _Connection(httplib2.HTTPSConnectionWithTimeout):
    """A connection that reads answers within the time limit of the request."""

    wait: _Wait
    #: httplib2 may make the request once more where the connection is closed instead of an answer.
    may_repeat = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.response_class = self._respond

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(max(0.1, self.wait.left()))

    def getresponse(self) -> http.client.HTTPResponse:
        try:
            return super().getresponse()
        except http.client.BadStatusLine as error:
            if self.may_repeat:
                raise
            raise _Unanswered(str(error)) from error

    def _respond(self, sock: Any, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Readable(sock, self.wait), *args, **kwargs)  # type: ignore[arg-type]


class _Http(httplib2.Http):
    """Makes the attempts of a request. The SDK puts its own `request` before this one, and sets
    `num_retries`."""

    num_retries = 0
    _may_repeat = True

    def __init__(self, client: "MountClient", **options: Any) -> None:
        super().__init__(**options)
        self._client = client
        # httplib2 would take the token along: the SDK adds it to whatever is asked.
        self.follow_redirects = False

    def request(  # type: ignore[override]
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **kwargs: Any
    ) -> Any:
        """Return response and body. Raises ServerError where there is none, and HttpError for a status
        that stayed a temporary one: no caller tries these again.

        Where the headers have IF_HASH, the answer to a request that would be made once more is 412 where
        the record has another hash by then: what fails may have been done all the same."""
        if uri in self._client.discovered:
            return self._client.discovered[uri]
        address = urllib.parse.urlsplit(uri)
        wait = _Wait(f"{method} {address.path}", address.netloc, self._client.time_limit, body)
        expected = (headers or {}).get(IF_HASH)
        if expected is not None:
            headers = {name: value for name, value in headers.items() if name != IF_HASH}
        self._may_repeat = expected is None
        attempt, closed = 0, False
        while True:
            attempt += 1
            problem: Exception
            try:
                if expected is not None and (attempt > 1 or closed):
                    response, content = self._attempt_if(
                        expected, wait, uri, method, body, headers, kwargs
                    )
                else:
                    response, content = self._attempt(wait, uri, method, body, headers, kwargs)
                self._client.reached = True
                if response.status == 200 and address.path.startswith("/discovery/"):
                    # Each thread has a client of its own, which would ask again.
                    self._client.discovered[uri] = response, content
                if response.status < 500 and response.status not in _TEMPORARY:
                    return response, content
                reason = f"answered {response.status} to {wait.what}"
                problem = apiclient_errors.HttpError(response, content, uri=uri)
            except ServerError:
                self._close()
                raise
            except (OSError, httplib2.HttpLib2Error, http.client.HTTPException) as error:
                self._close()
                if isinstance(error, _Unanswered) and not closed:
                    # As to httplib2: most often, the connection had been closed before.
                    attempt, closed = attempt - 1, True
                    continue
                answered = isinstance(error, http.client.HTTPException)
                failed = "gave no proper answer" if answered else "cannot be reached"
                reason = f"{failed}: {_reason(error)}"
                problem = ServerError(f"the API at {wait.server} {reason}")
                problem.__cause__ = error
                if self._is_final(error):
                    raise problem from error
            pause = min(random.uniform(0.5, 1) * 2 ** (attempt - 1), _LONGEST_PAUSE)
            if attempt > self.num_retries or pause >= wait.left():
                raise problem
            report(
                f"the API at {wait.server} {reason}; trying again for up to {wait.limit:g} s",
                "warn",
            )
            time.sleep(pause)

    def _attempt_if(
        self,
        expected: str,
        wait: _Wait,
        uri: str,
        method: str,
        body: Any,
        headers: Any,
        kwargs: dict,
    ) -> Any:
        """As `_attempt`, of a request for a record; 412 where that has another portable data hash than
        expected."""
        select = urllib.parse.urlencode({"select": '["portable_data_hash"]'})
        record = urllib.parse.urlsplit(uri)._replace(query=select).geturl()
        asking = {k: v for k, v in headers.items() if not k.lower().startswith("content-")}
        response, content = self._attempt(wait, record, "GET", None, asking, kwargs)
        if response.status != 200:
            return response, content
        found = json.loads(content).get("portable_data_hash")
        if found != expected:
            text = f"the portable data hash is {found} and not {expected}"
            return httplib2.Response({"status": "412"}), text.encode()
        return self._attempt(wait, uri, method, body, headers, kwargs)

    def _is_final(self, error: Exception) -> bool:
        """Return whether trying again cannot help."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        if self._client.reached or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            # What was right once may be so again.
            return False
        # A host name or port that is wrong, a file of certificates that cannot be used.
        return isinstance(
            error, httplib2.ServerNotFoundError | ssl.SSLError | FileNotFoundError | PermissionError
        )

    def _close(self) -> None:
        # A late answer must not be taken for that to the next request.
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()

    def _attempt(
        self, wait: _Wait, uri: str, method: str, body: Any, headers: Any, kwargs: dict
    ) -> Any:
        for _ in range(httplib2.DEFAULT_MAX_REDIRECTS):
            self._wait = wait
            self.timeout = max(0.1, min(wait.left(), _CONNECT_TIMEOUT))
            if uri.startswith("https:"):
                kwargs = {**kwargs, "connection_type": _Connection}
            response, content = super().request(uri, method, body, headers, **kwargs)
            if response.status not in _REDIRECTS:
                self._must_be_record(wait, response, content)
                return response, content
            uri = self._redirected(wait, uri, method, response.get("location", ""))
        raise ServerError(f"the API at {wait.server} redirects {wait.what} over and over")

    @staticmethod
    def _redirected(wait: _Wait, uri: str, method: str, location: str) -> str:
        target = urllib.parse.urljoin(uri, location)
        if method != "GET" or _origin(target) != _origin(uri):
            raise ServerError(
                f"the API at {wait.server} redirects {wait.what} to {_place(target)}: not followed, "
                "the token would go there; is ARVADOS_API_HOST the API's own name?"
            )
        return target

    @staticmethod
    def _must_be_record(wait: _Wait, response: Any, content: bytes) -> None:
        """Every answer of the API is an object in JSON; what is cut or written by a proxy is not."""
        if response.status != 200:
            return
        text = content.strip()
        if not (text.startswith(b"{") and text.endswith(b"}")):
            raise http.client.HTTPException(
                f"the answer to {wait.what} is no record: {text[:60]!r}"
            )

    def _conn_request(self, conn: Any, *args: Any) -> Any:
        conn.wait = self._wait
        conn.may_repeat = self._may_repeat
        conn.timeout = self.timeout
        if conn.sock is not None:
            conn.sock.settimeout(max(0.1, self._wait.left()))
        return super()._conn_request(conn, *args)


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror | httplib2.ServerNotFoundError):
        return "there is no host of that name"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut short"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _origin(uri: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(uri)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme)


def _place(uri: str) -> str:
    parts = urllib.parse.urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


class MountClient(arvados.safeapi.ThreadSafeApiCache):
    """An API client for all threads of a mount.

    `time_limit` is how long a request may take in all, in seconds; arguments as for the SDK's.
    """

    #: `IF_HASH` is heeded.
    makes_updates_once = True
    #: Whether the API has answered anything yet.
    reached = False

    def __init__(self, *args: Any, time_limit: float = DEFAULT_TIMEOUT, **kwargs: Any) -> None:
        # The SDK's asks the API right away.
        self.time_limit = time_limit
        #: What the API answered to requests for its discovery document.
        self.discovered: dict[str, tuple[Any, bytes]] = {}
        super().__init__(*args, **kwargs)

    def localapi(self) -> Any:
        try:
            return self.local.api
        except AttributeError:
            pass
        insecure = bool(self._api_kwargs.get("insecure"))
        http_client = _Http(
            self,
            ca_certs=arvados.util.ca_certs_path(),
            cache=arvados.api.http_cache("discovery"),
            disable_ssl_certificate_validation=insecure,
        )
        try:
            client = arvados.api.api_client(http=http_client, **self._api_kwargs)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # googleapiclient takes it for what it should be.
            raise ServerError(
                f"the API at {api_host()} answered with no proper discovery document ({error!r})"
            ) from error
        http_client._request_id = lambda: self.request_id or arvados.util.new_request_id()
        self.local.api = client
        return client
