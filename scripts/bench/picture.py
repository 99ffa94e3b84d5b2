# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Ratios as bars, in SVG: two for each row, from the line of 1 to the left (less) or right (more)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_LABELS, _PLOT, _FIGURES, _HEIGHT, _TOP = 490, 480, 60, 34, 64
_COLOURS = {"limit": "#3b6ea5", "peer": "#d98032"}
#: The scale ends at this power of two, on either side, at most.
_MOST = 8


@dataclass
class Bar:
    """A row's ratios; None where there is none."""

    title: str
    limit: float | None
    peer: float | None


def draw(bars: Sequence[Bar]) -> str:
    """Return the picture."""
    ratios = [r for bar in bars for r in (bar.limit, bar.peer) if r]
    logs = [math.log2(r) for r in ratios] or [0]
    low = max(-_MOST, min(-1, math.floor(min(logs))))
    high = min(_MOST, max(1, math.ceil(max(logs))))

    def x(ratio: float) -> float:
        power = min(max(math.log2(ratio), low), high)
        return _LABELS + _FIGURES + (power - low) / (high - low) * _PLOT

    width = _LABELS + _PLOT + 2 * _FIGURES
    height = _TOP + _HEIGHT * len(bars) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="21" fill="#666666">left of 1, ours costs less; right of it, more</text>',
        _key(_LABELS + _FIGURES, "limit", "cost of ours / the limit's"),
        _key(_LABELS + _FIGURES + 230, "peer", "cost of ours / the peer's"),
    ]
    for power in range(low, high + 1):
        at = x(2.0**power)
        parts.append(
            f'<line x1="{at:.1f}" y1="{_TOP - 8}" x2="{at:.1f}" y2="{height - 16}" '
            f'stroke="{"#333333" if power == 0 else "#dddddd"}"/>'
            f'<text x="{at:.1f}" y="{_TOP - 14}" text-anchor="middle" fill="#666666">'
            f"{_power(power)}</text>"
        )
    for number, bar in enumerate(bars):
        top = _TOP + number * _HEIGHT
        parts.append(
            f'<text x="{_LABELS - 8}" y="{top + 18}" text-anchor="end">{escape(bar.title)}</text>'
        )
        for offset, (name, ratio) in enumerate((("limit", bar.limit), ("peer", bar.peer))):
            if ratio:
                parts.append(_bar(x(1), x(ratio), top + 2 + 13 * offset, name, ratio))
    return "\n".join([*parts, "</svg>", ""])


def _power(power: int) -> str:
    return str(2**power) if power >= 0 else f"1/{2**-power}"


def _key(x: float, name: str, text: str) -> str:
    return (
        f'<rect x="{x}" y="10" width="12" height="12" fill="{_COLOURS[name]}"/>'
        f'<text x="{x + 18}" y="21">{text}</text>'
    )


def _bar(middle: float, end: float, y: float, name: str, ratio: float) -> str:
    figure = f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}"
    left, width = min(middle, end), max(abs(end - middle), 1)
    beside, anchor = (end + 4, "start") if end >= middle else (end - 4, "end")
    return (
        f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="12" fill="{_COLOURS[name]}"/>'
        f'<text x="{beside:.1f}" y="{y + 10}" text-anchor="{anchor}" font-size="11">{figure}</text>'
    )
