"""The tables of the pace, and what makes a document complex."""

from __future__ import annotations

import pytest

from services.content.pipeline.pace import Complexity, Speed, complexity, interval_ms


@pytest.mark.parametrize(("speed", "expected"), [("slow", 300), ("normal", 100), ("fast", 50), ("superfast", 30)])
def test_fixed_speeds(speed: str, expected: int) -> None:
    assert {interval_ms(Speed(speed), each) for each in Complexity} == {expected}


def test_adaptive_is_slower_the_more_complex() -> None:
    assert [interval_ms(Speed.ADAPTIVE, each) for each in Complexity] == [50, 100, 300]


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<p>" + "word " * 300 + "</p>", Complexity.LOW),
        ("<p>short</p>", Complexity.LOW),
        ("<p>" + "word <b>bold</b> and <i>more</i> " * 50 + "</p>", Complexity.HIGH),
        (
            "<p>"
            + "word " * 20
            + "<b>bold</b></p>"
            + "<p>"
            + "word " * 10
            + "</p>"
            + "<ul>"
            + "<li>item of a list</li>" * 10
            + "</ul>",
            Complexity.MEDIUM,
        ),
        ("<table><tr>" + "<td>1</td>" * 40 + "</tr></table>", Complexity.HIGH),
        ("", Complexity.LOW),
    ],
)
def test_complexity(markup: str, expected: Complexity) -> None:
    assert complexity(markup) is expected
