# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The parameters of list methods: filters, order, select, distinct, limit, offset, count."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from .errors import invalid
from .store import TABLES, Record

#: Most records in one answer.
MAX_LIMIT = 1000

_KINDS = {
    "arvados#collection": TABLES["collections"],
    "arvados#group": TABLES["groups"],
    "arvados#user": TABLES["users"],
    "arvados#link": TABLES["links"],
    "arvados#log": TABLES["logs"],
    "arvados#apiClientAuthorization": TABLES["api_client_authorizations"],
    "arvados#keepService": TABLES["keep_services"],
}


def parameter(params: dict[str, Any], name: str, default: Any = None) -> Any:
    """Return a parameter, parsed from JSON where it came as text."""
    value = params.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _count(params: dict[str, Any], name: str, default: int) -> int:
    value = parameter(params, name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise invalid(f"{name} must be a whole number that is not negative, not {value!r}")
    return value


def _names(params: dict[str, Any], name: str) -> list[str] | None:
    """Return a parameter that is a list of texts."""
    value = parameter(params, name)
    if value is not None and not (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    ):
        raise invalid(f"{name} must be an array of strings, not {value!r}")
    return value


def selection(params: dict[str, Any]) -> list[str] | None:
    """Return the attributes that a request asks for; None for all."""
    return _names(params, "select") or None


def _value(record: Record, attribute: str) -> Any:
    if attribute.startswith("properties."):
        return (record.get("properties") or {}).get(attribute[len("properties.") :])
    return record.get(attribute)


def _like(pattern: str, flags: int) -> Callable[[Any], bool]:
    parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    compiled = re.compile("".join(parts), flags | re.DOTALL)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Callable[[Any], bool]]:
    def test(operand: Any) -> Callable[[Any], bool]:
        def holds(value: Any) -> bool:
            if value is None or operand is None:
                return False
            if isinstance(value, (int, float)) and isinstance(operand, str):
                try:
                    return compare(value, float(operand))
                except ValueError:
                    return False
            return type(value) is type(operand) and compare(value, operand)

        return holds

    return test


def _is_a(operand: Any) -> Callable[[Any], bool]:
    kinds = operand if isinstance(operand, list) else [operand]
    infixes = {_KINDS.get(kind) for kind in kinds}
    return lambda value: isinstance(value, str) and value[6:11] in infixes


def _contains(operand: Any) -> Callable[[Any], bool]:
    wanted = operand if isinstance(operand, list) else [operand]

    def holds(value: Any) -> bool:
        values = value if isinstance(value, list) else [value]
        return all(w in values for w in wanted)

    return holds


_OPERATORS: dict[str, Callable[[Any], Callable[[Any], bool]]] = {
    "=": lambda operand: lambda value: value == operand,
    "!=": lambda operand: lambda value: value != operand,
    "<": _ordered(lambda a, b: a < b),
    "<=": _ordered(lambda a, b: a <= b),
    ">": _ordered(lambda a, b: a > b),
    ">=": _ordered(lambda a, b: a >= b),
    "like": lambda operand: _like(operand, 0),
    "ilike": lambda operand: _like(operand, re.IGNORECASE),
    "is_a": _is_a,
    "contains": _contains,
}


def _one(kind: str, filter_: Any) -> Callable[[Record], bool]:
    if not isinstance(filter_, list) or len(filter_) != 3:
        raise invalid(f"Invalid element in filters array: {filter_!r} is not an array of three")
    attribute, operator, operand = filter_
    if not isinstance(attribute, str) or not isinstance(operator, str):
        raise invalid(f"Invalid element in filters array: {filter_!r}")
    operator = operator.lower()
    table, dot, rest = attribute.partition(".")
    if dot and table in TABLES:
        if table != kind:
            # About records of another table, in a request for several.
            return lambda record: True
        attribute = rest
    if operator in ("in", "not in"):
        if not isinstance(operand, list):
            raise invalid(f"Invalid operand type '{type(operand).__name__}' for '{operator}'")
        try:
            members: Any = set(operand)
        except TypeError:
            members = operand
        wanted = operator == "in"
        return lambda record: (_value(record, attribute) in members) is wanted
    if operator == "exists":
        if attribute == "properties":
            return lambda record: operand in (record.get("properties") or {})
        return lambda record: (_value(record, attribute) is not None) is bool(operand)
    if operator not in _OPERATORS:
        raise invalid(f"Invalid operator '{operator}'")
    if operator in ("like", "ilike") and not isinstance(operand, str):
        raise invalid(f"Invalid operand type '{type(operand).__name__}' for '{operator}'")
    if attribute == "any":
        test = _OPERATORS[operator](operand)
        return lambda record: any(test(v) for v in record.values() if isinstance(v, str))
    if not attribute.startswith("properties.") and attribute not in ATTRIBUTES[kind]:
        raise invalid(f"Invalid attribute '{attribute}' in filter")
    test = _OPERATORS[operator](operand)
    return lambda record: test(_value(record, attribute))


#: What may be filtered by, for each table; filled by `schema`.
ATTRIBUTES: dict[str, set[str]] = {kind: set() for kind in TABLES}


def matcher(kind: str, filters: Any) -> Callable[[Record], bool]:
    """Return a function that tells whether a record of table `kind` passes all filters."""
    if filters is None:
        filters = []
    if not isinstance(filters, list):
        raise invalid("filters must be an array")
    tests = [_one(kind, f) for f in filters]
    return lambda record: all(test(record) for test in tests)


def _order_key(value: Any) -> tuple[int, Any]:
    # As in the API's database, what is missing comes last.
    if value is None:
        return (2, "")
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))


def order(records: list[Record], clauses: Any, default: str) -> list[Record]:
    """Sort by clauses like `modified_at desc`; uuid decides where they leave it open."""
    if clauses is None:
        clauses = [default]
    elif isinstance(clauses, str):
        clauses = clauses.split(",")
    keys = ["uuid"]
    result = sorted(records, key=lambda r: r.get("uuid") or "")
    if not isinstance(clauses, list):
        raise invalid(f"order must be an array of strings, not {clauses!r}")
    for clause in reversed(clauses):
        words = clause.split() if isinstance(clause, str) else []
        if len(words) not in (1, 2) or words[1:] and words[1].lower() not in ("asc", "desc"):
            raise invalid(f"invalid order {clause!r}")
        attribute = words[0].rpartition(".")[2]
        keys.append(attribute)
        descending = len(words) > 1 and words[1].lower() == "desc"
        result.sort(key=lambda r: _order_key(r.get(attribute)), reverse=descending)
    return result


def page(records: Iterable[Record], params: dict[str, Any], default_order: str) -> dict[str, Any]:
    """Return the part of the records that is asked for, with `items_available`."""
    chosen = order(list(records), parameter(params, "order"), default_order)
    select = selection(params)
    if parameter(params, "distinct") in (True, "true", 1):
        fields = select or ["uuid"]
        unique = {json.dumps([r.get(f) for f in fields], sort_keys=True): r for r in chosen}
        chosen = list(unique.values())
    limit = min(_count(params, "limit", 100), MAX_LIMIT)
    offset = _count(params, "offset", 0)
    answer: dict[str, Any] = {
        "kind": "",
        "offset": offset,
        "limit": limit,
        "items": chosen[offset : offset + limit],
    }
    if parameter(params, "count", "exact") != "none":
        answer["items_available"] = len(chosen)
    return answer
