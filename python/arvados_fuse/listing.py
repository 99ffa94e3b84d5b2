# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Listings of the API: complete, or an error.

Every answer is checked: a page that lacks what was asked for, or that does not come any further, raises
`ServerError`. A part of a listing is never returned.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .apierrors import ServerError, api_host

#: Records asked for at a time; a server may answer with fewer.
_PAGE = 1000
#: Records of one listing, at most: whatever a server sends, it ends.
MAX_RECORDS = 1_000_000

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
    **query: Any,
) -> Iterator[tuple[list[dict], dict]]:
    """Go through all that a list method lists, ordered by `key`: the new records of each page, and the
    whole answer.

    Pages begin behind the last key before, so that a record is not missed when others come or go
    meanwhile. Raises ServerError, also for a page on which no record is new and for more than
    `MAX_RECORDS`.
    """
    fields = {key: str, **fields}
    seen: set[str] = set()
    after: list = []
    while True:
        answer = method(
            filters=[*after, *(filters or [])],
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


def every(method: Callable[..., Any], what: str, **query: Any) -> list[dict]:
    """Return all records that a list method lists; arguments and errors as for `pages`."""
    return [item for items, _ in pages(method, what, **query) for item in items]
