# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""What was measured: a value for each row, its parameters, and a contestant; medians and ratios."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS, CORE, PEER, LIMIT = "ours", "core", "peer", "limit"
#: An earlier version of ours.
BEFORE = "before"


@dataclass(frozen=True)
class Row:
    """A kind of measurement. `unit` is s, 1/s, B/s, B or requests; `limit` says what its limit is."""

    name: str
    title: str
    unit: str
    limit: str = "the tree in memory"

    @property
    def better(self) -> str:
        """`lower` or `higher`."""
        return "higher" if self.unit.endswith("/s") else "lower"


@dataclass
class Result:
    """What the rounds of a row gave for a contestant. Without a success `median` is None."""

    row: str
    params: dict[str, Any]
    contestant: str
    unit: str
    better: str
    median: float | None
    min: float | None
    max: float | None
    rounds: int
    error: str | None


@dataclass
class _Taken:
    values: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Recorder:
    """Takes values and failures, in the order of the rows' first appearance."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str, str], _Taken] = {}
        self._rows: dict[str, Row] = {}

    def _entry(self, row: Row, params: Mapping[str, Any], contestant: str) -> _Taken:
        self._rows[row.name] = row
        key = (row.name, json.dumps(params), contestant)
        return self._taken.setdefault(key, _Taken())

    def value(self, row: Row, params: Mapping[str, Any], contestant: str, value: float) -> None:
        """Note what a round gave."""
        self._entry(row, params, contestant).values.append(value)

    def failure(self, row: Row, params: Mapping[str, Any], contestant: str, reason: str) -> None:
        """Note that a round gave nothing, and why."""
        self._entry(row, params, contestant).errors.append(reason)

    def results(self) -> list[Result]:
        """Return what the rounds gave together."""
        results = []
        for (name, params, contestant), taken in self._taken.items():
            row, values, errors = self._rows[name], taken.values, taken.errors
            error = None
            if errors:
                rounds = len(values) + len(errors)
                error = f"failed in {len(errors)} of {rounds} rounds: {errors[0]}"
            results.append(
                Result(
                    row=name,
                    params=json.loads(params),
                    contestant=contestant,
                    unit=row.unit,
                    better=row.better,
                    median=statistics.median(values) if values else None,
                    min=min(values, default=None),
                    max=max(values, default=None),
                    rounds=len(values),
                    error=error,
                )
            )
        return results


def cost_ratio(result: Result | None, other: Result | None) -> float | None:
    """Return how many times what `other` takes `result` takes: 2.0 is twice as slow, or as large."""
    if result is None or other is None or not result.median or not other.median:
        return None
    if result.better == "higher":
        return other.median / result.median
    return result.median / other.median


#: The results of a row and its parameters, by contestant.
Line = dict[str, Result]


def lines(results: Iterable[Result]) -> list[Line]:
    """Put the contestants of each row and parameters side by side."""
    grouped: dict[tuple[str, str], Line] = {}
    for result in results:
        key = (result.row, json.dumps(result.params))
        grouped.setdefault(key, {})[result.contestant] = result
    return list(grouped.values())


def save(path: Path, results: Iterable[Result]) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def load(path: Path) -> list[Result]:
    """Read results that `save` wrote."""
    return [Result(**entry) for entry in json.loads(path.read_text())]
