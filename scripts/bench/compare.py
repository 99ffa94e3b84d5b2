# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""`make bench-compare A=old.json B=new.json`: what changed from one run to another; and within one, from an
earlier version to this (`make bench BEFORE=its.whl`)."""

import json
import sys
from pathlib import Path

from .report import errors
from .results import OURS, Result, cost_ratio, load
from .runner import human, shown


def verdict(old: Result, new: Result) -> str:
    """Return `better`, `worse`, or nothing where the rounds of the two overlap."""
    if old.median is None or new.median is None:
        return "failed" if new.median is None else "works now"
    assert old.min is not None and old.max is not None
    assert new.min is not None and new.max is not None
    if old.min <= new.max and new.min <= old.max:
        return ""
    return "better" if (new.median < old.median) == (new.better == "lower") else "worse"


def compare(
    old: list[Result], new: list[Result], contestants: tuple[str, str] = (OURS, OURS)
) -> str:
    """Return a table of the rows that both runs have: a contestant of the one, and of the other."""

    def by_key(results: list[Result], contestant: str) -> dict[tuple[str, str], Result]:
        mine = (r for r in results if r.contestant == contestant)
        return {(r.row, json.dumps(r.params)): r for r in mine}

    before, after = by_key(old, contestants[0]), by_key(new, contestants[1])
    text = [f"{'':48}{'A':>12}{'B':>12}{'cost B/A':>10}"]
    for key, a in before.items():
        if key in after:
            b = after[key]
            ratio = cost_ratio(b, a)
            figure = "" if ratio is None else f"{ratio:.2f}"
            text.append(
                f"{a.row + shown(a.params):48}{human(a.median, a.unit):>12}"
                f"{human(b.median, b.unit):>12}{figure:>10}  {verdict(a, b)}".rstrip()
            )
    text += errors(r for r in new if r.contestant == contestants[1])
    return "\n".join(text)


def main() -> int:
    """Compare the two files on the command line."""
    if len(sys.argv) != 3:
        print("usage: make bench-compare A=old.json B=new.json", file=sys.stderr)
        return 2
    try:
        old, new = (load(Path(name)) for name in sys.argv[1:])
    except (OSError, ValueError, TypeError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    print(compare(old, new))
    return 0


if __name__ == "__main__":
    sys.exit(main())
