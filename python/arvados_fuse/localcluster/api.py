# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The API over HTTP: paths and parameters in, JSON out."""

import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

from aiohttp import web

from . import clock, query
from .discovery import kind_name, singular
from .errors import APIError, invalid, not_found
from .faults import Faults, Hangup, cut, follow, hang_up
from .permissions import READ
from .service import Service
from .store import TABLES, Record

_logger = logging.getLogger("arvados.localcluster")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Tables that `groups/contents` lists.
_CONTENTS = ("groups", "collections")


async def _date(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Date"] = formatdate(clock.now(), usegmt=True)


class API:
    """The API server of a cluster."""

    def __init__(
        self,
        service: Service,
        faults: Faults,
        document: Callable[[], dict[str, Any]],
        config: Callable[[], dict[str, Any]],
    ) -> None:
        self._service = service
        self._faults = faults
        self._document = document
        self._config = config

    def application(self) -> web.Application:
        """Return the HTTP server."""
        app = web.Application(client_max_size=256 << 20, middlewares=[self._guard])
        root = "/arvados/v1"
        app.on_response_prepare.append(_date)
        add = app.router.add_route
        add("GET", "/discovery/v1/apis/arvados/v1/rest", self._discovery)
        add("GET", root + "/config", self._get_config)
        add("GET", "/_health/ping", self._ping)
        add("*", root + "/users/current", self._current_user)
        add("*", root + "/api_client_authorizations/current", self._current_token)
        add("*", root + "/keep_services/accessible", self._accessible)
        add("*", root + "/groups/shared", self._shared)
        add("*", root + "/groups/contents", self._contents)
        add("*", root + "/groups/{uuid}/contents", self._contents)
        add("*", root + "/{kind}", self._table)
        add("*", root + "/{kind}/{uuid}", self._record)
        add("*", root + "/{kind}/{uuid}/{action:trash|untrash}", self._trash)
        return app

    # The way of a request

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        status = 500
        service = "ws" if request.path == "/websocket" else "api"
        method = request.headers.get("X-Http-Method-Override", request.method).upper()
        try:
            if not request.path.startswith("/_local/"):
                request["fault"] = await self._faults.before(service, request)
            response = await self._answer(request, handler)
            status = response.status
            if "X-Request-Id" in request.headers and not response.prepared:
                response.headers["X-Request-Id"] = request.headers["X-Request-Id"]
            return response
        except Hangup:
            status = 0
            hang_up(request)
            return web.Response(status=500)
        except web.HTTPException as error:
            status = error.status
            if error.content_type == "application/json" or status == 302:
                raise
            return _errors(status, f"{error.reason}: {request.path}")
        except APIError as error:
            status = error.status
            return _errors(error.status, str(error))
        except Exception as error:
            _logger.exception("request %s %s failed", request.method, request.path)
            return _errors(500, f"{type(error).__name__}: {error}")
        finally:
            if not request.path.startswith("/_local/"):
                self._faults.note(service, request, method, status)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = request.get("fault") or {}
        if fault.get("action") == "body":
            return web.Response(text=fault["value"], content_type="application/json")
        if fault.get("action") == "cut":
            return await cut(request)
        response = await handler(request)
        await follow(request.get("fault"))
        return response

    async def _asked(self, request: web.Request) -> tuple[Record, str, str, dict[str, Any]]:
        """Return the user, the token, the method and the parameters of a request."""
        params: dict[str, Any] = dict(request.query)
        if request.can_read_body:
            params.update(await self._body(request))
        token = params.pop("api_token", None)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme in ("Bearer", "OAuth2"):
            token = given.strip()
        user, _ = self._service.authenticate(token)
        method = request.headers.get("X-Http-Method-Override") or params.pop("_method", None)
        return user, token or "", (method or request.method).upper(), params

    @staticmethod
    async def _body(request: web.Request) -> dict[str, Any]:
        if request.content_type == "application/json":
            try:
                body = json.loads(await request.read() or b"{}")
            except ValueError as error:
                raise APIError(400, f"the body is no JSON: {error}") from error
            if not isinstance(body, dict):
                raise invalid("the body must be a JSON object")
            return body
        return dict(await request.post())

    def _one(
        self, kind: str, record: Record, user: Record, token: str, params: dict
    ) -> web.Response:
        select = query.selection(params)
        # Signing a large manifest takes a while.
        full = kind != "collections" or not select or _with_manifest(select)
        shown = self._service.shown(kind, record, user, token, full=full)
        return _json(_selected(shown, params, always=("kind", "etag", "uuid")))

    def _page(
        self, kind: str, records: list[Record], user: Record, token: str, params: dict,
        default_order: str = "modified_at desc",
    ) -> dict[str, Any]:  # fmt: skip
        page = query.page(records, params, default_order)
        page["kind"] = kind_name(kind) + "List"
        full = _with_manifest(query.selection(params) or [])
        page["items"] = [
            _selected(self._service.shown(kind, r, user, token, full=full), params)
            for r in page["items"]
        ]
        return page

    # Handlers

    async def _discovery(self, request: web.Request) -> web.Response:
        return _json(self._document())

    async def _get_config(self, request: web.Request) -> web.Response:
        return _json(self._config())

    async def _ping(self, request: web.Request) -> web.Response:
        return _json({"health": "OK"})

    async def _current_user(self, request: web.Request) -> web.Response:
        user, token, _, params = await self._asked(request)
        return self._one("users", user, user, token, params)

    async def _current_token(self, request: web.Request) -> web.Response:
        user, token, _, params = await self._asked(request)
        _, auth = self._service.authenticate(token)
        return self._one("api_client_authorizations", auth, user, token, params)

    async def _accessible(self, request: web.Request) -> web.Response:
        user, token, _, params = await self._asked(request)
        outside = request.headers.get("X-External-Client") == "1"
        services = [
            service
            for service in self._service.store.all("keep_services")
            if (service["service_type"] == "proxy") is outside
        ]
        return _json(self._page("keep_services", services, user, token, params, "uuid"))

    async def _table(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        user, token, method, params = await self._asked(request)
        if method == "GET":
            records = self._service.list(kind, user, params)
            return _json(self._page(kind, records, user, token, params))
        if method == "POST":
            attributes = _attributes(kind, params)
            record = self._service.create(kind, attributes, user, token, params)
            return self._one(kind, record, user, token, params)
        raise APIError(405, "Method not allowed")

    async def _record(self, request: web.Request) -> web.Response:
        kind, uuid = _kind(request), request.match_info["uuid"]
        user, token, method, params = await self._asked(request)
        if method == "GET":
            trashed = query.parameter(params, "include_trash") in (True, "true")
            record = self._service.get(kind, uuid, user, trashed=trashed)
            if kind == "collections" and uuid != record["uuid"]:
                # Asked for by contents: whose record these are is nobody's business.
                shown = self._service.shown(kind, record, user, token, full=True)
                fields = ("portable_data_hash", "manifest_text", "unsigned_manifest_text", "kind")
                return _json({field: shown[field] for field in fields})
        elif method in ("PUT", "PATCH"):
            attributes = _attributes(kind, params)
            record = self._service.update(kind, uuid, attributes, user, token, params)
        elif method == "DELETE":
            record = self._service.delete(kind, uuid, user)
        else:
            raise APIError(405, "Method not allowed")
        return self._one(kind, record, user, token, params)

    async def _trash(self, request: web.Request) -> web.Response:
        kind, uuid = _kind(request), request.match_info["uuid"]
        user, token, _, params = await self._asked(request)
        if kind not in _CONTENTS:
            raise not_found(request.path)
        trashed = request.match_info["action"] == "trash"
        record = self._service.set_trashed(kind, uuid, user, trashed)
        return self._one(kind, record, user, token, params)

    async def _contents(self, request: web.Request) -> web.Response:
        user, token, _, params = await self._asked(request)
        uuid = request.match_info.get("uuid") or query.parameter(params, "uuid")
        recursive = query.parameter(params, "recursive") in (True, "true")
        not_from = None
        if not uuid and query.parameter(params, "exclude_home_project") in (True, "true"):
            not_from = user["uuid"]
        owners = None
        filters = list(query.parameter(params, "filters") or [])
        if uuid:
            found = self._service.find(str(uuid))
            if found is None or not self._service.readable(found[0], user, found[1]):
                raise not_found(str(uuid))
            trash = query.parameter(params, "include_trash") in (True, "true")
            if self._service.store.trashed(found[1]) and not trash:
                raise not_found(str(uuid))
            if found[1].get("group_class") == "filter":
                filters += (found[1].get("properties") or {}).get("filters") or []
            else:
                owners = self._below(str(uuid)) if recursive else {str(uuid)}
        wanted = dict(params, filters=filters)
        records: list[Record] = []
        kinds: dict[str, str] = {}
        for kind in _CONTENTS:
            for record in self._service.list(
                kind, user, wanted, only=lambda r: owners is None or r["owner_uuid"] in owners
            ):
                if record.get("group_class") != "role" and record["owner_uuid"] != not_from:
                    records.append(record)
                    kinds[record["uuid"]] = kind
        page = query.page(records, params, "uuid")
        page["kind"] = "arvados#objectList"
        page["items"] = [
            _selected(
                self._service.shown(kinds[r["uuid"]], r, user, token, full=False),
                params,
                always=("uuid", "kind"),
            )
            for r in page["items"]
        ]
        self._include(page, params, user, token)
        return _json(page)

    def _below(self, uuid: str) -> set[str]:
        owners, pending = {uuid}, [uuid]
        while pending:
            for kind, record in self._service.store.owned(pending.pop()):
                if kind == "groups" and record["uuid"] not in owners:
                    owners.add(record["uuid"])
                    pending.append(record["uuid"])
        return owners

    async def _shared(self, request: web.Request) -> web.Response:
        """Projects that the user may read although it may not read what they are in."""
        user, token, _, params = await self._asked(request)

        def is_root(group: Record) -> bool:
            if group["owner_uuid"] == user["uuid"] or group["group_class"] == "role":
                return False
            owner = self._service.find(group["owner_uuid"])
            if owner is None:
                return True
            if owner[0] == "users":
                return owner[1]["uuid"] != user["uuid"]
            return not self._service.permissions.can(user, owner[1], READ)

        records = self._service.list("groups", user, params, only=is_root)
        page = self._page("groups", records, user, token, params, "uuid")
        page.setdefault("included", [])
        self._include(page, params, user, token)
        return _json(page)

    def _include(self, page: dict, params: dict, user: Record, token: str) -> None:
        include = query.parameter(params, "include")
        if isinstance(include, str):
            include = [include]
        if "owner_uuid" not in (include or []):
            return
        included: dict[str, Record] = {}
        for item in page["items"]:
            found = self._service.find(item.get("owner_uuid") or "")
            if found is not None and self._service.readable(found[0], user, found[1]):
                shown = self._service.shown(found[0], found[1], user, token, full=False)
                included[found[1]["uuid"]] = shown
        page["included"] = list(included.values())


def _kind(request: web.Request) -> str:
    kind = request.match_info["kind"]
    if kind not in TABLES:
        raise not_found(request.path)
    return kind


def _attributes(kind: str, params: dict[str, Any]) -> Record:
    """Return the attributes that a request carries: under the record's name, or bare."""
    given = query.parameter(params, singular(kind))
    if given is None:
        known = query.ATTRIBUTES[kind]
        given = {name: value for name, value in params.items() if name in known}
    if not isinstance(given, dict):
        raise invalid(f"{singular(kind)} must be an object")
    return given


def _with_manifest(select: list[str]) -> bool:
    return "manifest_text" in select or "unsigned_manifest_text" in select


def _selected(shown: Record, params: dict, always: tuple[str, ...] = ("kind",)) -> Record:
    select = query.selection(params)
    if not select:
        return shown
    wanted = set(select) | set(always)
    return {name: value for name, value in shown.items() if name in wanted}


def _json(body: Any) -> web.Response:
    # The discovery document changes with the cluster; clients would keep it for days.
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def _errors(status: int, message: str) -> web.Response:
    token = f"{int(time.time())}+{secrets.token_hex(4)}"
    body = {"errors": [message], "error_token": token}
    return web.json_response(body, status=status)
