"""When chunks are due, with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.content.metrics import ContentMetrics
from services.content.pacer import Pacer
from services.content.pipeline import Complexity, Speed, interval_ms

GRID_S = 0.005
SPEEDS = {Speed.SLOW: 0.3, Speed.NORMAL: 0.1, Speed.FAST: 0.05, Speed.SUPERFAST: 0.03}


class Bench:
    """A pacer, its clock, and a watcher who may lag."""

    def __init__(self, now: float = 1000.0) -> None:
        self.registry = CollectorRegistry()
        self.lag = 0
        self.now = now
        self.pacer = Pacer(now, ContentMetrics(self.registry), lambda: self.lag)

    def run(self, chunks: int, speed: Speed = Speed.FAST, late: float = 0.0) -> list[float]:
        """When so many chunks go out, each ``late`` after it is due."""
        at = []
        for _ in range(chunks):
            self.now = max(self.now, self.pacer.due + late)
            at.append(self.now)
            self.pacer.passed(self.now, speed, Complexity.LOW)
        return at

    def count(self, name: str) -> float:
        return self.registry.get_sample_value(name) or 0


@pytest.mark.parametrize("speed", SPEEDS)
@given(start=st.floats(0, 1e6), late=st.floats(0, 0.02))
def test_the_pace_is_kept_on_average_and_no_chunk_is_early(speed: Speed, start: float, late: float) -> None:
    bench = Bench(start)
    at = bench.run(101, speed, late)
    for number, when in enumerate(at):
        ideal = start + number * SPEEDS[speed]
        assert ideal - 1e-6 <= when <= ideal + GRID_S + late + 1e-6


def test_adaptive_is_slower_for_what_is_complex() -> None:
    pace = [
        interval_ms(Speed.ADAPTIVE, complexity) for complexity in (Complexity.LOW, Complexity.MEDIUM, Complexity.HIGH)
    ]
    assert pace == [50, 100, 300]


def test_a_driver_that_was_held_up_makes_up_for_a_second_at_most() -> None:
    bench = Bench()
    bench.run(10)
    bench.now += 60
    at = bench.run(100)
    burst = [when for when in at if when == at[0]]
    assert len(burst) <= 1 / SPEEDS[Speed.FAST] + 2
    assert at[-1] - at[len(burst)] == pytest.approx((99 - len(burst)) * SPEEDS[Speed.FAST], abs=2 * GRID_S)


def test_a_lag_slows_down_to_a_second_and_its_end_speeds_up_again() -> None:
    bench = Bench()
    bench.run(3)
    intervals = []
    for bench.lag in (20, 60, 100, 5000, 0):
        first, second = bench.run(2)
        intervals.append(round(second - first, 2))
    assert intervals[0] == 0.05
    assert 0.05 < intervals[1] < 1.0
    assert intervals[2:4] == [1.0, 1.0]
    assert intervals[4] == 0.05
    assert bench.count("hub_content_slowed_total") == 1, "counted once for each time"


def test_whoever_changes_the_pace_does_not_wait_for_the_old_one() -> None:
    bench = Bench()
    bench.run(1, Speed.SLOW)
    bench.pacer.hurry(bench.now, Speed.SUPERFAST, Complexity.LOW)
    assert bench.pacer.due <= bench.now + 0.03 + GRID_S
    bench.run(1, Speed.SUPERFAST)
    before = bench.pacer.due
    bench.pacer.hurry(bench.now, Speed.SLOW, Complexity.LOW)
    assert bench.pacer.due == before, "what was due soon is not put off"


def test_after_a_pause_nothing_is_made_up_for() -> None:
    bench = Bench()
    bench.run(5)
    bench.now += 100
    bench.pacer.hurry(bench.now, Speed.FAST, Complexity.LOW)
    at = bench.run(20)
    assert at[0] >= 1100
    assert at[-1] - at[0] == pytest.approx(19 * 0.05, abs=2 * GRID_S)
