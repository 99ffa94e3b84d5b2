# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Listings of the API: complete, or an error.

Every answer is checked: a page that lacks what was asked for, or that does not come any further, raises
`ServerError`. A part of a listing is never returned.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .apierrors import ServerError, api_host

#: Records asked for at a time; a server may answer with fewer.
_PAGE = 1000
#: Records of one listing, at most: whatever a server sends, it ends.
MAX_RECORDS = 1_000_000

#: Parts of a long listing that are asked for side by side, at most.
_BESIDE = 4
#: Digits of the last part of a uuid (15 of them), in their order.
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 15

T = TypeVar("T")

#: A field, and the types that its value may have.
Fields = Mapping[str, type | tuple[type, ...]]

#: What each record has to have.
UUID: Fields = {"uuid": str}


def _bad_answer(what: str, problem: str, got: Any = None) -> ServerError:
    came = "" if got is None else f": {got!r:.100}"
    return ServerError(
        f"the API at {api_host()} answered a request for {what} with {problem}{came}"
    )


def record(answer: Any, what: str, fields: Fields = UUID) -> dict:
    """Return `answer`, a record with these fields; `what` says in an error what was asked for.

    Raises ServerError where it is something else.
    """
    if not isinstance(answer, dict):
        raise _bad_answer(what, "something that is no record", answer)
    for field, kind in fields.items():
        if not isinstance(answer.get(field), kind):
            raise _bad_answer(what, f"a record without a proper {field}", answer.get(field))
    return answer


def page(answer: Any, what: str, fields: Fields = UUID, part: str = "items") -> list[dict]:
    """Return the records that a list method answered with.

    Raises ServerError where they are not a list of records with these fields.
    """
    if not isinstance(answer, dict):
        raise _bad_answer(what, "something that is no list", answer)
    items = answer.get(part)
    if not isinstance(items, list):
        raise _bad_answer(what, f"no {part}", answer.get(part, answer))
    return [record(item, what, fields) for item in items]


def pages(
    method: Callable[..., Any],
    what: str,
    *,
    num_retries: int,
    key: str = "uuid",
    fields: Fields = UUID,
    filters: list | None = None,
    above: str | None = None,
    up_to: str | None = None,
    **query: Any,
) -> Iterator[tuple[list[dict], dict]]:
    """Go through all that a list method lists, ordered by `key`: the new records of each page, and the
    whole answer. With `above` and `up_to`, only those whose key is greater than the one, and not than the
    other.

    Pages begin behind the last key before, so that a record is not missed when others come or go
    meanwhile. Raises ServerError, also for a page on which no record is new and for more than
    `MAX_RECORDS`.
    """
    fields = {key: str, **fields}
    seen: set[str] = set()
    until = [] if up_to is None else [[key, "<=", up_to]]
    after = [] if above is None else [[key, ">", above]]
    while True:
        answer = method(
            filters=[*after, *until, *(filters or [])],
            order=[f"{key} asc"],
            limit=_PAGE,
            count="none",
            **query,
        ).execute(num_retries=num_retries)
        items = page(answer, what, fields)
        if not items:
            return
        new = [item for item in items if item[key] not in seen]
        if not new:
            raise _bad_answer(what, "the same page over and over", items[-1][key])
        seen.update(item[key] for item in new)
        if len(seen) > MAX_RECORDS:
            raise _bad_answer(what, f"more than {MAX_RECORDS} records")
        yield new, answer
        after = [[key, ">", items[-1][key]]]


def every(
    method: Callable[..., Any], what: str, *, beside: bool = False, **query: Any
) -> list[dict]:
    """Return all records that a list method lists; arguments and errors as for `pages`.

    With `beside`, for which the key has to be `uuid` and the method to be one for several threads, a long
    listing is asked for in parts side by side.
    """
    found: list[dict] = []
    for items, _ in pages(method, what, **query):
        found += items
        if beside and (bounds := _bounds(items)):
            found += _side_by_side(method, what, bounds, **query)
            # A server may have its own idea of a part.
            found = list({item["uuid"]: item for item in found}.values())
            if len(found) > MAX_RECORDS:
                raise _bad_answer(what, f"more than {MAX_RECORDS} records")
            break
    return found


def _bounds(first: list[dict]) -> list[str]:
    """Return uuids that cut what may follow the first page in parts that are about as long, the last one of
    that page before them; none where it is no more than a page or two.

    The last part of a uuid is random: how far the page has come tells how many pages there may be.
    """
    if len(first) < _PAGE:
        return []
    last = first[-1]["uuid"]
    place = 0
    for digit in last[-_LENGTH:]:
        value = _DIGITS.find(digit)
        if value < 0:
            return []
        place = place * len(_DIGITS) + value
    rest = len(_DIGITS) ** _LENGTH - place
    count = min(_BESIDE, rest // max(place, 1))
    if count < 2:
        return []
    cuts = [place + rest * number // count for number in range(1, count)]
    return [last, *(last[:-_LENGTH] + _written(cut) for cut in cuts)]


def _written(place: int) -> str:
    digits = ""
    for _ in range(_LENGTH):
        place, digit = divmod(place, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def _side_by_side(
    method: Callable[..., Any], what: str, bounds: list[str], **query: Any
) -> list[dict]:
    """Return the records of the parts that begin with these uuids, asked for at the same time."""
    ends: list[str | None] = [*bounds[1:], None]
    failed = False

    def load(number: int) -> list[dict]:
        nonlocal failed
        above, up_to = bounds[number], ends[number]
        found: list[dict] = []
        try:
            for items, _ in pages(method, what, above=above, up_to=up_to, **query):
                found += items
                if failed:
                    break
        except BaseException:
            failed = True
            raise
        return found

    parts = together([functools.partial(load, number) for number in range(len(bounds))])
    return [item for part in parts for item in part]


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make calls at the same time, in threads; return what they return, once all have ended.

    Raises what the first of those raised that failed.
    """
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException | None] = [None] * len(calls)

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:
            errors[number] = error

    others = [
        # What hangs is nothing that the end of the program waits for.
        threading.Thread(target=make, args=(number,), name="listing", daemon=True)
        for number in range(1, len(calls))
    ]
    for thread in others:
        thread.start()
    make(0)
    for thread in others:
        thread.join()
    for error in errors:
        if error is not None:
            raise error
    return results
