"""What a run looks like as a table, as a page and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtest.measure import Result, Target, summary
from loadtest.plot import bars, picture
from loadtest.report import Run, figure, number, row, table, write_page


def _result(name: str = "fan-out", void: str = "") -> Result:
    return Result(
        row=name,
        what="deliveries",
        unit="/s",
        figure=summary([210_000.0, 220_000.0, 230_000.0]),
        target=Target(text="≥ 200 000", at_least=200_000),
        references={"bare uvloop": summary([200_000.0]), "NATS": summary([110_000.0])},
        against="bare uvloop",
        void=void,
        note="p99 3 ms",
    )


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1 234"), (12.345, "12.3"), (0.1834, "0.183"), (7.0, "7")])
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_spread_is_shown_when_there_is_one() -> None:
    assert figure(summary([1.0]), "ms") == "1 ms"
    assert figure(summary([1.0, 2.0, 4.0]), "ms") == "2 ms (1 – 4)"


def test_a_row_says_figure_target_verdict_and_ratio() -> None:
    cells = [cell.strip() for cell in row(_result()).strip("|").split("|")]
    assert cells == [
        "deliveries",
        "220 000 /s (210 000 – 230 000)",
        "≥ 200 000",
        "met",
        "1.10 × bare uvloop",
        "p99 3 ms",
    ]


def test_a_miss_and_a_void_are_named() -> None:
    missed = Result(row="r", what="w", unit="", figure=summary([1.0]), target=Target(text="≥ 2", at_least=2.0))
    assert "**missed**" in row(missed)
    assert "void: noise" in row(_result(void="noise"))
    assert "met" not in row(_result(void="noise"))


def test_every_line_of_the_table_has_as_many_cells() -> None:
    lines = table([_result(), _result("x", "noise")]).splitlines()
    assert {line.count("|") for line in lines} == {7}


def test_a_run_survives_its_json_and_renders_twice_the_same(tmp_path: Path) -> None:
    run = Run(machine={"python": "3"}, full=False, missing=["NATS: not here"], results=[_result()])
    (tmp_path / "run.json").write_text(json.dumps(asdict(run)))
    read = Run.read(tmp_path / "run.json")
    assert read == run
    (tmp_path / "performance.md").write_text("# Mine\n\nwords\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    write_page(read, tmp_path)
    first = (tmp_path / "performance.md").read_text()
    write_page(read, tmp_path)
    assert (tmp_path / "performance.md").read_text() == first
    assert first.startswith("# Mine\n\nwords\n")
    assert first.endswith("<!-- end -->\nafter\n")
    assert "old" not in first
    assert "NATS: not here" in first
    ElementTree.parse(tmp_path / "performance.svg")


def test_the_best_stands_first_and_what_was_not_measured_has_no_bar() -> None:
    saturated = Result(
        row="saturation", what="", unit="", figure=summary([9.0e5]), references={"bare uvloop": summary([4.0e5])}
    )
    assert bars([_result(), saturated]) == [
        ("hub", [220_000.0, 9.0e5]),
        ("bare uvloop", [200_000.0, 4.0e5]),
        ("NATS", [110_000.0, 0.0]),
    ]
    drawn = picture([_result(), saturated], ["a & b", "c"])
    assert "a &amp; b" in drawn
    assert drawn.count('text-anchor="end"') == 3
