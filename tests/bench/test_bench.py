"""Every micro-benchmark runs, once, and does what it says; how fast is not asked here."""

from __future__ import annotations

import pytest

from tests.bench import content, dispatch, recovery, wire
from tests.bench.report import rows, worse
from tests.bench.timer import Case, Timing, measure

CASES = [*dispatch.cases(), *wire.cases(), *content.cases(), *recovery.cases()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_runs(case: Case) -> None:
    (await case.prepare())()
    assert case.operations > 0


async def test_a_measurement_has_a_ratio_for_every_case() -> None:
    timings = await measure(CASES[-2:], repetitions=2, seconds=0.0001)
    assert [timing.case for timing in timings] == CASES[-2:]
    assert all(timing.ns > 0 and timing.ratio > 0 for timing in timings)


def test_what_became_slower_is_named() -> None:
    timings = [Timing(case, 100.0, ratio, 0.01) for case, ratio in zip(CASES, (10.0, 10.0, 10.0), strict=False)]
    before = {CASES[0].name: 9.5, CASES[1].name: 6.0}
    assert worse(timings, before, 1.3) == [CASES[1].name]
    lines = rows(timings, before)
    assert "+5 %" in lines[1]
    assert "+67 %" in lines[2]
    assert "new" in lines[3]
