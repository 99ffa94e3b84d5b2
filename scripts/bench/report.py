# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The results as a table on the terminal, and as a page with a picture."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import picture
from .dataset import Sizes
from .results import CORE, LIMIT, OURS, PEER, Line, Result, Row, cost_ratio, lines
from .runner import human, shown


@dataclass
class About:
    """What a run was, besides its results."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: int
    sizes: Sizes
    #: All rows at full size.
    complete: bool
    rows: dict[str, Row] = field(default_factory=dict)
    seconds: float = 0


def title(line: Line, rows: dict[str, Row]) -> str:
    """Return what a line measures."""
    result = next(iter(line.values()))
    row = rows.get(result.row)
    return (row.title if row else result.row) + shown(result.params)


def factor(ratio: float | None) -> str:
    """Return a ratio for reading."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"


def _cells(line: Line) -> list[str]:
    found = [line.get(name) for name in (OURS, CORE, PEER, LIMIT)]
    cells = ["" if r is None else human(r.median, r.unit) + _mark(r) for r in found]
    ours, core, peer, limit = found
    return [*cells, *(factor(cost_ratio(ours, other)) for other in (core, limit, peer))]


def _mark(result: Result) -> str:
    return " !" if result.error and result.median is not None else ""


HEADS = ["", "ours", "core", "peer", "limit", "ours/core", "ours/limit", "ours/peer"]


def _table(found: Iterable[Result], about: About) -> list[list[str]]:
    return [[title(line, about.rows), *_cells(line)] for line in lines(found)]


def errors(found: Iterable[Result]) -> list[str]:
    """Return what failed, a line each."""
    return [f"{r.row}{shown(r.params)}, {r.contestant}: {r.error}" for r in found if r.error]


def table(found: list[Result], about: About) -> str:
    """Return the table for a terminal."""
    body = [HEADS, *_table(found, about)]
    widths = [max(len(row[column]) for row in body) for column in range(len(HEADS))]
    text = []
    for row in body:
        first = row[0].ljust(widths[0])
        text.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip())
    text.append("")
    text.append("Medians. Ratios are of costs: 2.00 is twice as slow, or as large.")
    text += errors(found)
    return "\n".join(text)


def _spread(result: Result | None) -> str:
    if result is None or result.min is None:
        return ""
    return f"{human(result.min, result.unit)} to {human(result.max, result.unit)}"


def page(found: list[Result], about: About) -> str:
    """Return the page for readers."""
    sizes = about.sizes
    text = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. "
        + ("" if about.complete else "**Not a complete run: smaller sizes, or only some rows.** ")
        + "`make bench QUICK=1` does a smaller size of every row, `ROWS=read,stat` some rows, and "
        "`make bench-compare A=old.json B=new.json` compares two runs by their `target/bench/latest.json`.",
        "",
        "- **ours**: `arv-mount` of this repository, release build, default options.",
        "- **core**: the same without Python, a collection by its manifest "
        "(`examples/mount-collection.rs`). What ours takes more is what Python costs.",
        "- **peer**: `arv-mount` of arvados_fuse 3.2.1 from PyPI on the same cluster, default options.",
        "- **limit**: a FUSE file system that answers at once from memory, through this project's own "
        "kernel interface and with its mount options (`benches/programs/limit`).",
        "",
        "Ratios are of costs: 2.00 is twice as slow, or twice as large; the picture has them on a scale "
        "of powers of two. A ratio to the limit of 1 cannot be bettered; one to the peer is better the "
        "smaller it is.",
        "",
        "![Costs of ours, as ratios to the limit and to the peer](benchmarks.svg)",
        "",
        "| " + " | ".join(["work", *HEADS[1:]]) + " |",
        "| --- |" + " ---: |" * (len(HEADS) - 1),
        *("| " + " | ".join(row) + " |" for row in _table(found, about)),
        "",
    ]
    failed = errors(found)
    if failed:
        text += ["What failed:", "", *(f"- {line}" for line in failed), ""]
    text += [
        "## How it was measured",
        "",
        f"On {about.date}, in {about.seconds / 60:.0f} minutes. "
        + "; ".join(f"{name}: {value}" for name, value in about.machine.items())
        + ". "
        + "; ".join(f"{name}: {value}" for name, value in about.versions.items())
        + ".",
        "",
        f"Medians of {about.rounds} rounds, of fewer where a row takes long; in each round every "
        "contestant has its turn, with a mount of its own. The processors carry client, mount and servers "
        "together. The mounted data: "
        f"{sizes.directories} directories of {sizes.files:,} files of 4 KiB, of which those of a "
        f"directory are in one block; a file of {sizes.large >> 20} MiB; collections of up to "
        f"{max(sizes.opened):,} files; a project of {sizes.project:,} collections. Blocks come from a "
        'Keep service that has them in memory (`benches/programs/blocks.rs`); the rows "the same blocks '
        'by `curl`" show what it gives without a mount. What is the limit of a row, where it is not the '
        "tree in memory:",
        "",
        *(
            f"- {row.title}: {row.limit}."
            for row in about.rows.values()
            if row.limit != Row.limit and any(r.row == row.name for r in found)
        ),
        "",
        "The smallest and the largest of the rounds:",
        "",
        "| work | ours | core | peer | limit |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {title(line, about.rows)} | "
            + " | ".join(_spread(line.get(name)) for name in (OURS, CORE, PEER, LIMIT))
            + " |"
            for line in lines(found)
        ),
        "",
    ]
    return "\n".join(text)


def write(folder: Path, found: list[Result], about: About) -> list[Path]:
    """Write the page and its picture into a folder; return their paths."""
    bars = [
        picture.Bar(
            title(line, about.rows).replace("`", ""),
            cost_ratio(line.get(OURS), line.get(LIMIT)),
            cost_ratio(line.get(OURS), line.get(PEER)),
        )
        for line in lines(found)
    ]
    paths = [folder / "benchmarks.md", folder / "benchmarks.svg"]
    paths[0].write_text(page(found, about))
    paths[1].write_text(picture.draw([bar for bar in bars if bar.limit or bar.peer]))
    return paths
