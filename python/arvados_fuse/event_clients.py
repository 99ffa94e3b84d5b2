# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The SDK's event clients, made to go on whatever the server does.

The SDK's own end for good with a frame that is no object, and interrupt the whole program where the server
is away for long. These stand in for them while `arvados.events.subscribe` makes a client for a mount.
"""

import contextlib
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import arvados.config
import arvados.events
import arvados.util
from llfuse import _core

from . import listing
from .apierrors import ServerError, explain
from .fresh import convertTime
from .native_client import NativeClient
from .reports import report

#: Shortest and longest pause before connecting again, in seconds.
_PAUSES = (0.1, 15.0)
#: A connection that lasted as long, in seconds, was a good one: the next pause is the shortest again.
_GOOD = 30.0

#: The subscriptions that are under way: their numbers, by the client.
_live: dict[int, int] = {}
_numbers = itertools.count(1)

_SDK_CLIENTS = (arvados.events.EventClient, arvados.events.PollClient)
_SDK_SUBSCRIBE = arvados.events.subscribe
_subscribing = threading.Lock()


def subscriptions() -> frozenset[int]:
    """Return the numbers of the subscriptions by which this process is told of changes as they happen.

    One that is among them twice was under way all the time between: nothing went unheard.
    """
    return frozenset(_live.values())


class Change(NamedTuple):
    """A collection's portable data hash before and after a change, and when that was, by the API's clock in
    whole Unix seconds; None where the event does not say."""

    old: str | None
    new: str | None
    at: int | None


def change_in(properties: dict) -> Change:
    """Return what the properties of an event tell of the change of a collection."""
    old = properties.get("old_attributes") or {}
    new = properties.get("new_attributes") or {}
    at = convertTime(new.get("modified_at")) or None
    return Change(old.get("portable_data_hash"), new.get("portable_data_hash"), at)


class EventClient(arvados.events.EventClient):
    """Follows the event bus: connects again for as long as it is not closed.

    The callback is given `{"status": 200}` whenever a subscription begins, with `"after_gap": True` where
    it is not that of the first connection. The events in the gap are asked for by the last id that was
    heard, if there is one.
    """

    # Whether anything came since the last connection. An event that breaks every connection is not
    # asked for again.
    _heard = False
    _connected_again = False
    last_log_id: int | None

    def run(self) -> None:
        self.name = f"ArvadosWebsockets-{self.ident}"
        pause = _PAUSES[0]
        while not self.is_closed.is_set():
            began = time.monotonic()
            self._heard = False
            reason = self._follow()
            if not self._heard:
                self.last_log_id = None
            if time.monotonic() - began > _GOOD:
                pause = _PAUSES[0]
            while not self.is_closed.is_set():
                report(f"event bus at {self._place()}: {reason}; connecting again", "warn")
                if self.is_closed.wait(pause * random.uniform(0.5, 1)):
                    return
                pause = min(2 * pause, _PAUSES[1])
                try:
                    self._connect()
                    self._connected_again = True
                    break
                except Exception as error:
                    reason = _reason(error)

    def _follow(self) -> str:
        """Subscribe and pass on what comes; return why it ended."""
        try:
            with self._subscribe_lock:
                for subscription in self.filters:
                    self._subscribe(subscription, self.last_log_id)
            for text in self._client:
                if self.is_closed.is_set():
                    break
                self._pass_on(text)
            return "the connection was closed"
        except Exception as error:
            return _reason(error)
        finally:
            _live.pop(id(self), None)
            with contextlib.suppress(Exception):
                self._client.close_timeout = 1
                self._client.close()

    def _pass_on(self, text: Any) -> None:
        event = _event_in(text, self._place())
        if event is None:
            return
        number = event.get("id")
        if isinstance(number, int) and not isinstance(number, bool):
            self.last_log_id = number
            self._heard = True
        if event.get("status") == 200:
            _live.setdefault(id(self), next(_numbers))
            if self._connected_again:
                event["after_gap"] = True
        self.on_event_cb(event)

    def _place(self) -> str:
        # Behind the question mark is the token.
        return self.url.partition("?")[0]


class CoreEventClient:
    """Follows the event bus as `EventClient` does, in a thread of the core.

    Where `inodes` is given, the callback hears of events that are about what is in it, and of no other:
    those do not take the GIL.
    """

    def __init__(self, api: Any, filters: Any, on_event: Any, inodes: Any) -> None:
        endpoint = api._rootDesc.get("websocketUrl")
        if not endpoint:
            raise ServerError("the cluster has no event bus")
        self._place = endpoint
        self._on_event = on_event
        self._bus: Any = _core.EventBus(
            f"{endpoint}?api_token={api.api_token}",
            self,
            filters=json.dumps(filters),
            insecure=api.insecure,
            ca_file=arvados.util.ca_certs_path(),
            inodes=inodes,
        )

    def subscribed(self, after_gap: bool) -> None:
        """A subscription begins."""
        _live[id(self)] = next(_numbers)
        event: dict[str, Any] = {"status": 200}
        if after_gap:
            event["after_gap"] = True
        self._on_event(event)

    def ended(self) -> None:
        """It ended."""
        _live.pop(id(self), None)

    def told(self, text: str) -> None:
        """A message came."""
        event = _event_in(text, self._place)
        if event is not None:
            self._on_event(event)

    def close(self, code: int = 1000, reason: str = "", timeout: float = 0) -> None:
        """End the subscription; arguments as of the SDK's."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()


class PollClient(arvados.events.PollClient):
    """Polls the API for its log, where there is no event bus; goes on after every failure."""

    def __init__(
        self,
        api: Any,
        filters: Any,
        on_event: Any,
        poll_time: float = 15,
        last_log_id: int | None = None,
    ) -> None:
        # Not by the SDK's, which names its own class by the name that stands for this one meanwhile.
        threading.Thread.__init__(self, name="events-poll", daemon=True)
        self.api = api
        self.filters = [filters or []]
        self.on_event = on_event
        self.poll_time = poll_time
        self.last_log_id = last_log_id
        self._closing = threading.Event()
        self._closing_lock = threading.RLock()

    def run(self) -> None:
        self.on_event({"status": 200})
        after: list | None = None
        if self.last_log_id is not None:
            after = ["id", ">", str(self.last_log_id)]
        failed = False
        while not self._closing.is_set():
            try:
                after = self._newest() if after is None else self._poll(after)
                if failed:
                    # Whatever the log says, this was a gap.
                    failed = False
                    self.on_event({"status": 200, "after_gap": True})
            except Exception as error:
                failed = True
                report(f"events cannot be polled: {explain(error)}; trying again", "warn")
            self._closing.wait(max(self.poll_time, _PAUSES[0]))

    def _logs(self, filters: list, order: str, limit: int) -> list[dict]:
        answer = (
            self.api.logs()
            .list(filters=filters, order=order, limit=limit, count="none")
            .execute(num_retries=0)
        )
        return listing.page(answer, "events", {"id": int})

    def _newest(self) -> list:
        """Return the filter behind the last event until now."""
        # A cluster's log is long; two hours allow for clocks that differ.
        recent = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))
        after = ["created_at", ">=", recent]
        logs = self._logs([after], "id desc", 1)
        return ["id", ">", str(logs[0]["id"])] if logs else after

    def _poll(self, after: list) -> list:
        """Pass on what passes the filter, in order; return the filter behind it."""
        newest = 0
        for subscription in self.filters:
            last, behind = 0, after
            while logs := self._logs([*subscription, behind], "id asc", 1000):
                if logs[-1]["id"] <= last:
                    raise ServerError("the same page of events came over and over")
                for log in logs:
                    if self._closing.is_set():
                        return after
                    self.on_event(log)
                last = logs[-1]["id"]
                behind = ["id", ">", str(last)]
            newest = max(newest, last)
        return ["id", ">", str(newest)] if newest else after


def subscribe(api: Any, filters: list, on_event: Any, inodes: Any = None) -> Any:
    """Have `on_event` called for each event that passes filters; return what that is closed by.

    Where `inodes` is given, it may be left uncalled for events about nothing that is in it. It is the core
    that listens in `arv-mount`, unless a program put something in the place of `arvados.events.subscribe`.
    """
    if arvados.events.subscribe is not _SDK_SUBSCRIBE or not isinstance(api, NativeClient):
        with lasting_clients():
            return arvados.events.subscribe(api, filters, on_event)
    if not arvados.config.flag_is_true("ARVADOS_DISABLE_WEBSOCKETS"):
        try:
            return CoreEventClient(api, filters, on_event, inodes)
        except (ConnectionError, ServerError) as error:
            report(f"events are polled: event bus: {error}", "warn")
    client = PollClient(api, filters, on_event)
    client.start()
    return client


def _event_in(text: Any, place: str) -> dict | None:
    """Return the event that a message is; None, and a line in the log, where it is none."""
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        event = None
    if isinstance(event, dict):
        return event
    report(f"event bus at {place}: a message that is no event was skipped", "warn")
    return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def lasting_clients() -> Iterator[None]:
    """Have `arvados.events.subscribe` make these clients, unless a program put others in their place."""
    with _subscribing:
        names = ("EventClient", "PollClient")
        ours = (EventClient, PollClient)
        swapped = [
            (name, sdk, own)
            for name, sdk, own in zip(names, _SDK_CLIENTS, ours, strict=True)
            if getattr(arvados.events, name) is sdk
        ]
        for name, _, own in swapped:
            setattr(arvados.events, name, own)
        try:
            yield
        finally:
            for name, sdk, _ in swapped:
                setattr(arvados.events, name, sdk)
