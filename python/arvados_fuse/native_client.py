# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API client of `arv-mount`: called as the SDK's, while the core makes the requests.

Its methods are those of the cluster's discovery document, as they are there, and raise what they raise
there. googleapiclient and httplib2, which take some tens of milliseconds and megabytes, are left alone.
"""

import functools
import http
import json
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import arvados.config
import arvados.keep
import arvados.util
from googleapiclient import errors as apiclient_errors
from llfuse import _core

from .api_requests import IF_HASH
from .apierrors import ServerError, api_host
from .discovery_cache import DiscoveryCache

#: A URI that is longer is sent in the body, in characters.
_LONGEST_URI = 2048
#: The parameters of any method.
_ANY = ("alt", "fields", "key", "prettyPrint", "quotaUser", "userIp")


class NativeClient:
    """An API client for all threads of a mount.

    `time_limit` is how long a request may take in all, in seconds; arguments as for the SDK's.
    """

    #: `IF_HASH` is heeded.
    makes_updates_once = True
    #: The id of all requests; None: each has one of its own.
    request_id: str | None = None

    def __init__(
        self,
        *,
        time_limit: float,
        apiconfig: Mapping[str, str],
        api_params: Mapping[str, Any],
        keep_params: Mapping[str, Any],
        version: str,
    ) -> None:
        host, token = apiconfig["ARVADOS_API_HOST"], apiconfig["ARVADOS_API_TOKEN"]
        self.api_token = token
        self.insecure = arvados.config.flag_is_true("ARVADOS_API_HOST_INSECURE", apiconfig)
        self._url = f"https://{host}/discovery/v1/apis/arvados/{version}/rest"
        self._num_retries = int(api_params.get("num_retries", 10))
        try:
            self._transport = _core.ApiTransport(
                token,
                insecure=self.insecure,
                ca_file=arvados.util.ca_certs_path(),
                time_limit=time_limit,
            )
        except ValueError as error:
            raise ServerError(str(error)) from error
        self._discovering = threading.Lock()
        self._document: dict | None = None
        self.keep = arvados.keep.KeepClient(api_client=self, **keep_params)

    @property
    def _rootDesc(self) -> dict:  # noqa: N802  (the SDK's name)
        """The discovery document."""
        with self._discovering:
            if self._document is None:
                self._document = self._discover()
            return self._document

    def localapi(self) -> "NativeClient":
        """Return the client of this thread."""
        return self

    def config(self) -> dict:
        """Return what the cluster exports of its configuration; asked for once."""
        return arvados.util.get_config_once(self)

    def vocabulary(self) -> dict:
        """Return the cluster's vocabulary of properties; asked for once."""
        return arvados.util.get_vocabulary_once(self)

    def close_connections(self) -> None:
        """For the SDK's: what is unused is closed by itself."""

    def __getattr__(self, name: str) -> Callable[[], "_Resource"]:
        if not name.startswith("_"):
            resource = self._rootDesc["resources"].get(name)
            if resource is not None:
                return lambda: _Resource(self, resource)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _discover(self) -> dict:
        cache = DiscoveryCache(self._url)
        text = cache.get()
        if text is None:
            headers, text = self._ask("GET", self._url)
            cache.put(headers, text)
        try:
            document = json.loads(text)
            document["baseUrl"] = urllib.parse.urljoin(document["rootUrl"], document["servicePath"])
            for resource in document["resources"].values():
                for method in resource.get("methods", {}).values():
                    _ = method["path"], method["httpMethod"]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(
                f"the API at {api_host()} answered with no proper discovery document ({error!r})"
            ) from error
        return document

    def _ask(
        self,
        method: str,
        uri: str,
        *,
        headers: Mapping[str, str] = {},
        num_retries: int = 0,
        **options: Any,
    ) -> tuple[dict[str, str], bytes]:
        """Return headers and body of an answer that is a success.

        Raises ServerError where there is no answer, and HttpError for any other."""
        sent = dict(headers)
        expected = sent.pop(IF_HASH, None)
        sent.setdefault("X-Request-Id", self.request_id or arvados.util.new_request_id())
        try:
            status, received, body = self._transport.request(
                method,
                uri,
                headers=list(sent.items()),
                num_retries=max(num_retries, self._num_retries),
                if_hash=expected,
                **options,
            )
        except ConnectionError as error:
            raise ServerError(str(error)) from None
        if status >= 300:
            raise apiclient_errors.HttpError(_Response(status, received), body, uri=uri)
        return dict(received), body


class _Response(dict):
    """Headers and status of an answer, as errors of googleapiclient have them."""

    def __init__(self, status: int, headers: list[tuple[str, str]]) -> None:
        super().__init__(headers)
        self["status"] = str(status)
        self.status = status
        try:
            self.reason = http.HTTPStatus(status).phrase
        except ValueError:
            self.reason = ""


class _Resource:
    """A kind of record: its methods return requests."""

    def __init__(self, client: NativeClient, description: dict) -> None:
        self._client = client
        self._methods = description.get("methods", {})

    def __getattr__(self, name: str) -> Callable[..., "_Request"]:
        method = self.__dict__["_methods"].get(name)
        if method is None:
            raise AttributeError(f"the cluster's API has no method {name!r} here")
        return functools.partial(_Request, self._client, name, method)


class _Request:
    """A request, yet to be made."""

    def __init__(
        self,
        client: NativeClient,
        name: str,
        description: dict,
        /,
        body: Any = None,
        **given: Any,
    ) -> None:
        self.headers: dict[str, str] = {}
        self.method = description["httpMethod"]
        self.body = None if body is None else json.dumps(body)
        self._client = client
        self.uri = client._rootDesc["baseUrl"] + _path_and_query(name, description, given)

    def execute(self, http: Any = None, num_retries: int = 0) -> Any:
        """Make it; return what the API answers.

        Raises ServerError where there is no answer, and HttpError (the SDK's ApiError) for an answer that
        is no success."""
        method, uri, headers = self.method, self.uri, dict(self.headers)
        options: dict[str, Any] = {}
        if self.body is not None:
            options["body"] = self.body.encode()
        elif method == "GET" and len(uri) > _LONGEST_URI:
            uri, _, query = uri.partition("?")
            method, headers["X-HTTP-Method-Override"] = "POST", "GET"
            options["body"] = query.encode()
            options["content_type"] = "application/x-www-form-urlencoded"
        _, answer = self._client._ask(
            method, uri, headers=headers, num_retries=num_retries, **options
        )
        return json.loads(answer) if answer else {}


def _path_and_query(name: str, description: dict, given: Mapping[str, Any]) -> str:
    known = description.get("parameters") or {}
    path, query = description["path"], [("alt", "json")]
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in known and key not in _ANY:
            raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
    for key, parameter in known.items():
        if parameter.get("required") and key not in given:
            raise TypeError(f"{name}() lacks the required argument {key!r}")
    for key, value in given.items():
        parameter = known.get(key) or {}
        kind = parameter.get("type", "string")
        if parameter.get("location") == "path":
            path = path.replace(f"{{{key}}}", urllib.parse.quote(_text(value, kind), safe=""))
        elif parameter.get("repeated") and isinstance(value, (list, tuple)):
            query.extend((key, _text(each, kind)) for each in value)
        else:
            query.append((key, _text(value, kind)))
    return f"{path}?{urllib.parse.urlencode(query)}"


def _text(value: Any, kind: str) -> str:
    """Return a parameter of a type as the SDK writes it."""
    if isinstance(value, str):
        return value
    if kind in ("array", "object"):
        return json.dumps(value)
    if kind == "boolean":
        return str(bool(value)).lower()
    if kind == "integer":
        return str(int(value))
    if kind == "number":
        return str(float(value))
    return str(value)
