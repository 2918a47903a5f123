"""What is typed: durations, positions, tags, JSON."""

from __future__ import annotations

import pytest
import typer

from hub.cli.values import duration_s, json_value, position, tags, wanted_tags
from hub.protocol.frames import Position


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1h", 3600), ("7d", 604_800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


def test_positions() -> None:
    assert position(None) is None
    assert position("start") == "start"
    assert position("k3:41") == Position("k3", 41)
    for wrong in ("later", "k3:", "k3:x", ""):
        with pytest.raises(typer.BadParameter, match="epoch:seq"):
            position(wrong)


def test_tags() -> None:
    assert tags(["a=1", "b=true", "c=x y", "d=", "e=1.5", 'f="1"', "g=a=b"]) == {
        "a": 1, "b": True, "c": "x y", "d": "", "e": 1.5, "f": "1", "g": "a=b",
    }  # fmt: skip
    assert wanted_tags(["a=1", "a=2", "b=x"]) == {"a": [1, 2], "b": "x"}
    assert tags(["l=[1]"]) == {"l": "[1]"}
    for wrong in ("a", "=1"):
        with pytest.raises(typer.BadParameter, match="key=value"):
            tags([wrong])


def test_json() -> None:
    assert json_value('{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(typer.BadParameter, match="quotes"):
        json_value("hello")
