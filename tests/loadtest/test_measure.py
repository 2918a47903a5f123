"""Medians, voids, targets and the search for the highest rate."""

from __future__ import annotations

import pytest

from loadtest.machine import Load
from loadtest.measure import (
    Result,
    Sample,
    Target,
    attempted,
    highest,
    summary,
    summary_of,
    thousands,
    void_of,
    why_void,
)


def test_median_and_spread() -> None:
    got = summary([3.0, 1.0, 2.0])
    assert (got.median, got.least, got.most, got.runs) == (2.0, 1.0, 3.0, 3)


def test_void_runs_do_not_count_while_others_do() -> None:
    samples = [Sample({"x": 1.0}), Sample({"x": 100.0}, "noise"), Sample({"x": 3.0})]
    assert summary_of(samples, "x").median == 2.0
    assert summary_of(samples, "x").runs == 2
    assert void_of(samples) == ""


def test_only_void_runs_are_shown_as_such() -> None:
    samples = [Sample({"x": 1.0}, "noise"), Sample({"x": 3.0}, "more noise")]
    assert summary_of(samples, "x").median == 2.0
    assert void_of(samples) == "noise"


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(1.0, server=0.9, server_core=0.95, load_core=0.85), ""),
        (Load(1.0, server=0.9, server_core=0.95, load_core=0.86), "the load's core was 86% busy"),
        (Load(1.0, server=0.3, server_core=0.5, load_core=0.5), "others took 20% of the server's core"),
    ],
)
def test_a_busy_load_core_or_a_stranger_make_a_run_void(load: Load, reason: str) -> None:
    assert why_void(load) == reason


def test_a_late_publisher_makes_a_run_void() -> None:
    load = Load(1.0, server=0.5, server_core=0.5, load_core=0.5)
    assert why_void(load, 4.9) == ""
    assert why_void(load, 17.0) == "the publisher was 17 ms late"


def test_a_void_run_is_repeated_until_one_counts() -> None:
    runs = iter([Sample({}, "noise"), Sample({"x": 1.0}), Sample({"x": 2.0})])
    assert attempted(lambda: next(runs)).figures == {"x": 1.0}


def test_the_last_void_run_is_kept_with_its_reason() -> None:
    runs = iter([Sample({}, "first"), Sample({}, "second"), Sample({}, "third")])
    assert attempted(lambda: next(runs), 2).void == "second"


@pytest.mark.parametrize("limit", [100.0, 130.0, 777.0, 1499.0])
def test_the_highest_rate_is_found_to_within_the_tolerance(limit: float) -> None:
    asked: list[float] = []

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = highest(holds, 100.0, 1500.0, 0.05)
    assert found <= limit
    assert found >= limit / 1.06
    assert len(asked) < 15


def test_the_search_ends_at_its_bounds() -> None:
    assert highest(lambda rate: True, 100.0, 1500.0, 0.05) == 1500.0
    assert highest(lambda rate: False, 100.0, 1500.0, 0.05) == 0.0


def test_targets_and_ratio() -> None:
    result = Result(
        row="r",
        what="w",
        unit="ms",
        figure=summary([10.0]),
        target=Target(text="≤ 20 ms", at_most=20.0),
        references={"other": summary([5.0])},
        against="other",
    )
    assert result.met is True
    assert result.ratio == 2.0
    assert Target(text="", at_least=11.0).met(10.0) is False
    assert Target(text="", at_most=9.0).met(10.0) is False


def test_a_void_result_has_not_met_its_target() -> None:
    target = Target(text="", at_least=1.0)
    assert Result(row="r", what="w", unit="", figure=summary([2.0]), target=target, void="noise").met is None
    assert Result(row="r", what="w", unit="", figure=summary([2.0]), against="nobody").ratio is None


def test_thousands() -> None:
    assert thousands(1234567.8) == "1 234 568"
