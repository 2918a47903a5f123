"""Results as a table, as JSON, and as docs/performance.md with a plot. What stands around the table is kept by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from loadtest.measure import Result, Summary, thousands
from loadtest.plot import picture

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
_PICTURE = {"fan-out": "1 000 subscribers × 100 events/s", "saturation": "saturated"}
_VERDICTS = {True: "met", False: "**missed**", None: "–"}


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one ``make bench`` has to say."""

    machine: dict[str, str]
    full: bool
    missing: list[str]
    results: list[Result]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Out of the JSON that the bench keeps."""
        return msgspec.convert(json.loads(path.read_text()), cls)


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 1000:
        return thousands(value)
    return f"{value:.3g}"


def figure(summary: Summary, unit: str = "") -> str:
    """Median, and the spread when there were several runs."""
    text = f"{number(summary.median)} {unit}".rstrip()
    return text if summary.runs < 2 else f"{text} ({number(summary.least)} – {number(summary.most)})"


def row(result: Result) -> str:
    """A line of the table."""
    target = result.target.text if result.target is not None else "reported"
    verdict = f"void: {result.void}" if result.void else _VERDICTS[result.met]
    ratio = f"{result.ratio:.2f} × {result.against}" if result.ratio is not None else "–"
    return f"| {result.what} | {figure(result.figure, result.unit)} | {target} | {verdict} | {ratio} | {result.note} |"


def table(results: Sequence[Result]) -> str:
    """All of them."""
    head = ["| what | figure (spread) | target | | against | |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row(result) for result in results)])


def references_table(results: Sequence[Result]) -> str:
    """What each reference came to, and how the hub stands to it."""
    lines = ["| row | reference | its figure (spread) | hub / reference |", "|---|---|---|---|"]
    for result in results:
        for name, summary in result.references.items():
            ratio = f"{result.figure.median / summary.median:.2f}" if summary.median else "–"
            lines.append(f"| {result.row} | {name} | {figure(summary, result.unit)} | {ratio} |")
    return "\n".join(lines)


def write_page(run: Run, docs: Path = DOCS) -> None:
    """Puts table and picture into docs/performance.md."""
    page = docs / "performance.md"
    text = page.read_text() if page.exists() else "# Performance\n\n<!-- measured -->\n<!-- end -->\n"
    page.write_text(_BLOCK.sub(lambda match: match[1] + measured(run) + "\n" + match[2], text))
    drawn = [result for result in run.results if result.row in _PICTURE]
    if drawn:
        (docs / "performance.svg").write_text(picture(drawn, [_PICTURE[result.row] for result in drawn]))


def measured(run: Run) -> str:
    """The part of the page that the bench writes."""
    lines = [f"- {name}: {value}" for name, value in run.machine.items()]
    lines.append(f"- {'full run (FULL=1)' if run.full else 'quick run'}")
    lines += [f"- not measured: {reason}" for reason in run.missing]
    parts = ["\n".join(lines), table(run.results), "![Deliveries per core-second](performance.svg)"]
    return "\n\n".join([*parts, references_table(run.results)])
