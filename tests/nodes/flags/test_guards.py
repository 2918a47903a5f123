"""When a guard trips: what is compared with what, and on how many observations."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.flags import Guards
from hub.nodes.flags.guards import Figures, bucket_of, judge, p99_ms

GUARDS = Guards(gap_rate=0.1, error_rate=0.05, p99_ms=200.0, window_s=60.0, least=20)


def side(
    connections: float = 0, gaps: int = 0, errors: int = 0, requests: int = 0, ms: tuple[float, ...] = (), acks: int = 0
) -> Figures:
    figures = Figures(connections, gaps, errors, requests)
    for one in ms:
        figures.replies[bucket_of(one)] += 1
    figures.acks[bucket_of(900.0)] += acks
    return figures


@pytest.mark.parametrize(
    ("cohort", "rest", "guard"),
    [
        pytest.param(side(), side(), None, id="nothing"),
        pytest.param(side(requests=100, errors=5), side(requests=100), None, id="at the limit"),
        pytest.param(side(requests=100, errors=6), side(requests=100), "error_rate", id="above it"),
        pytest.param(side(requests=100, errors=40), side(requests=900, errors=320), None, id="the rest is no better"),
        pytest.param(side(requests=100, errors=40), side(), "error_rate", id="no rest: the cohort alone"),
        pytest.param(side(requests=100, errors=40), side(requests=19, errors=19), "error_rate", id="hardly a rest"),
        pytest.param(side(requests=19, errors=19), side(requests=900), None, id="too few to say"),
        pytest.param(side(errors=20), side(requests=900), "error_rate", id="errors that answer nothing"),
        pytest.param(side(requests=100), side(requests=100, errors=90), None, id="better than the rest"),
        pytest.param(side(connections=100, gaps=10), side(connections=100), None, id="gaps at the limit"),
        pytest.param(side(connections=100, gaps=11), side(connections=100), "gap_rate", id="gaps"),
        pytest.param(side(connections=100, gaps=99), side(connections=100, gaps=95), None, id="everybody has gaps"),
        pytest.param(side(connections=19.9, gaps=99), side(connections=100), None, id="too few connections"),
        pytest.param(side(ms=(400.0,) * 20), side(ms=(10.0,) * 20), "p99_ms", id="slow"),
        pytest.param(side(ms=(400.0,) * 20), side(ms=(390.0,) * 20), None, id="slow for all"),
        pytest.param(side(ms=(10.0,) * 990 + (900.0,) * 9), side(), None, id="one in a hundred may be slow"),
        pytest.param(side(ms=(10.0,) * 990 + (900.0,) * 11), side(), "p99_ms", id="not more"),
        # Replies are not hidden behind acknowledgements, which take their time by themselves.
        pytest.param(side(ms=(400.0,) * 20, acks=500), side(ms=(9.0,) * 20, acks=500), "p99_ms", id="beside acks"),
        pytest.param(side(acks=50), side(), "p99_ms", id="late acknowledgements"),
    ],
)
def test_a_guard(cohort: Figures, rest: Figures, guard: str | None) -> None:
    trip = judge(GUARDS, cohort, rest)
    assert (trip.guard if trip else None) == guard
    if trip:
        assert guard in trip.text
        assert judge(Guards(window_s=60.0, least=20), cohort, rest) is None, "no guard, no trip"


def test_the_cohort_counts_alone_when_the_rest_had_its_time_or_is_nobody() -> None:
    cohort, few = side(connections=90, ms=(400.0,) * 90), side(connections=10, ms=(400.0,) * 10)
    assert judge(GUARDS, cohort, few, whole=False) is None
    assert judge(GUARDS, cohort, few) is not None
    assert judge(GUARDS, cohort, side(connections=0.5), whole=False) is not None
    assert judge(GUARDS, cohort, side(connections=10, ms=(10.0,) * 20), whole=False) is not None


@pytest.mark.parametrize(("window_s", "gaps"), [(10.0, 50), (60.0, 300), (600.0, 3000)])
def test_gaps_are_per_minute_whatever_the_window(window_s: float, gaps: int) -> None:
    guards = Guards(gap_rate=3.0, window_s=window_s, least=20)
    assert judge(guards, side(connections=100, gaps=gaps), side()) is None
    assert judge(guards, side(connections=100, gaps=gaps + 1), side()) is not None


def test_what_tripped_says_the_figures() -> None:
    trip = judge(GUARDS, side(requests=100, errors=40), side(requests=100, errors=1))
    assert trip is not None
    assert trip.text == "error_rate: 0.4 where the flag is on, 0.01 for the rest; the limit is 0.05 more (100 requests)"
    alone = judge(GUARDS, side(requests=100, errors=40), side())
    assert alone is not None
    assert "nobody to compare with" in alone.text


@given(st.lists(st.floats(0.2, 50_000), min_size=1, max_size=300))
def test_a_percentile_is_right_to_a_tenth(times: list[float]) -> None:
    figures = side(ms=tuple(times))
    exact = sorted(times)[-(-len(times) * 99 // 100) - 1]
    assert exact / 1.0001 <= p99_ms(figures.replies) <= exact * 1.1001
    assert len(figures.replies) <= 142


def test_times_at_the_ends() -> None:
    assert p99_ms(side().replies) == 0
    assert bucket_of(-1.0) == bucket_of(0.0) == 0
    assert bucket_of(10**9) == bucket_of(70_000) > bucket_of(50_000)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.lists(st.floats(0, 9000), max_size=20)), max_size=6)
)
def test_figures_of_nodes_add_up_as_if_they_were_one(parts: list[tuple[int, int, list[float]]]) -> None:
    nodes = [side(count, errors=errors, requests=count, ms=tuple(ms)) for count, errors, ms in parts]
    told = [Figures.heard(json.loads(json.dumps(node.told()))) for node in nodes]
    assert told == nodes
    total = Figures.sum(told)
    assert total.connections == statistics.fsum(count for count, _, _ in parts)
    assert total.errors == sum(errors for _, errors, _ in parts)
    assert total.replies == side(ms=tuple(one for _, _, ms in parts for one in ms)).replies
