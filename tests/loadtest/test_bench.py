"""The command line of ``make bench``, and the rows as a whole: each can be imported and found."""

from __future__ import annotations

import importlib

import pytest

from loadtest.bench import RESULTS, ROWS, arguments
from loadtest.generators import flags


def test_everything_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FULL", raising=False)
    wanted = arguments([])
    assert wanted.rows == ROWS
    assert not wanted.full
    assert wanted.json == RESULTS


@pytest.mark.parametrize(("value", "full"), [("1", True), ("0", False), ("", False)])
def test_full_comes_from_make(monkeypatch: pytest.MonkeyPatch, value: str, full: bool) -> None:
    monkeypatch.setenv("FULL", value)
    assert arguments([]).full is full


def test_rows_are_named_as_they_are_printed() -> None:
    assert arguments(["--rows", "fan-out, slow"]).rows == ("fan_out", "slow")


def test_an_unknown_row_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--rows", "fan-out,nothing"])
    assert "no such row: nothing; there are fan_out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ROWS)
def test_every_row_can_be_run(name: str) -> None:
    assert callable(importlib.import_module(f"loadtest.rows.{name}").run)


def test_options_of_the_generators() -> None:
    assert flags({"at_once": 0, "until_kth": True, "rate": None, "hex": False}) == ["--at-once", "0", "--until-kth"]
