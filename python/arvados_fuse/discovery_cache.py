# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""A cluster's discovery document on disk, where and as the SDK keeps it.

Either reads what the other wrote.
"""

import datetime
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import arvados.api

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: What is not kept of an answer's headers.
_NOT_KEPT = ("status", "content-encoding", "transfer-encoding")


class DiscoveryCache:
    """What is kept of the answer to a URL."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.lower()).geturl()
        #: None where there can be no folder.
        self._files: Any = arvados.api.http_cache("discovery")

    def get(self) -> bytes | None:
        """Return the answer, as long as the server said that it may be kept."""
        kept = self._files.get(self._url) if self._files else None
        head, separator, body = (kept or b"").partition(b"\r\n\r\n")
        if not separator or not body:
            return None
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        return body if time.time() < _until(headers) else None

    def put(self, headers: Mapping[str, str], body: bytes) -> None:
        """Keep an answer, if it may be kept."""
        if not self._files or time.time() >= _until(headers):
            return
        kept = (f"{name}: {value}" for name, value in headers.items() if name not in _NOT_KEPT)
        head = "\r\n".join(["status: 200", *kept])
        self._files.set(self._url, head.encode("latin-1", "replace") + b"\r\n\r\n" + body)


def _until(headers: Mapping[str, str]) -> float:
    """Return until when an answer with these headers may be used, as a Unix time."""
    control = headers.get("cache-control", "").lower()
    begin = _time(headers.get("date", ""))
    if begin is None or re.search(r"\bno-(store|cache)\b", control):
        return 0
    age = re.search(r"\bmax-age=([0-9]+)", control)
    return begin + int(age[1]) if age else _time(headers.get("expires", "")) or 0


def _time(text: str) -> float | None:
    """Return the Unix time of a date as HTTP writes it, whatever the locale; None where it is none."""
    found = re.fullmatch(
        r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", text
    )
    if not found or found[2] not in _MONTHS:
        return None
    day, _, year, hour, minute, second = found.groups()
    month = 1 + _MONTHS.index(found[2])
    numbers = (int(year), month, int(day), int(hour), int(minute), int(second))
    try:
        date = datetime.datetime(*numbers, tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return date.timestamp()
