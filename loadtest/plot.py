"""A picture of the fan-out rows as SVG: bars of deliveries per core-second, the hub's and everybody else's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtest.measure import Result, thousands

_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 760, 150, 80, 16, 14, 56
_COLOURS = ("#5b8def", "#16406f")


def bars(results: Sequence[Result]) -> list[tuple[str, list[float]]]:
    """Name and one value per result, the best of the last result first."""
    values: dict[str, list[float]] = {}
    for place, result in enumerate(results):
        for name, summary in {"hub": result.figure, **result.references}.items():
            values.setdefault(name, [0.0] * len(results))[place] = summary.median
    return sorted(values.items(), key=lambda item: -max(item[1]))


def picture(results: Sequence[Result], titles: Sequence[str]) -> str:
    """The SVG; one colour and one title per result."""
    rows = bars(results)
    longest = max((value for _, values in rows for value in values), default=1.0)
    height = _TOP + len(rows) * (len(results) * _BAR + _GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, "Deliveries per second of one core", 'font-size="15" font-weight="bold"'),
    ]
    for place, title in enumerate(titles):
        parts.append(f'<rect x="{10 + place * 330}" y="32" width="12" height="12" fill="{_COLOURS[place]}"/>')
        parts.append(_text(28 + place * 330, 43, title, 'font-size="12"'))
    y = _TOP
    for name, values in rows:
        weight = "bold" if name == "hub" else "normal"
        middle = y + len(values) * _BAR / 2 + 4
        parts.append(_text(_LEFT - 8, middle, name, f'font-size="12" text-anchor="end" font-weight="{weight}"'))
        for place, value in enumerate(values):
            width = value / longest * (_WIDTH - _LEFT - _RIGHT)
            top = y + place * _BAR
            parts.append(
                f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" fill="{_COLOURS[place]}"/>'
            )
            label = thousands(value) if value else "–"
            parts.append(_text(_LEFT + width + 6, top + _BAR - 5, label, 'font-size="11"'))
        y += len(values) * _BAR + _GAP
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'
