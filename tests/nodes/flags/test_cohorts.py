"""What a node counts for guards: under the value at the time, over a window, anew with every step of a schedule."""

from __future__ import annotations

import pytest

from hub.errors import ErrorCode
from hub.nodes.flags.cohorts import Cohorts, Watched
from hub.nodes.flags.guards import Figures, p99_ms
from tests.support.clock import Clock

ON, OFF, NEITHER = {"chat": True, "other": True}, {"chat": False, "other": True}, {"other": True}
WINDOW_S = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cohorts(clock: Clock) -> Cohorts:
    cohorts = Cohorts(clock)
    cohorts.watch({"chat": Watched(1, WINDOW_S)})
    return cohorts


def figures(cohorts: Cohorts, *connections: dict[str, bool]) -> tuple[int, Figures, Figures]:
    version, cohort, rest = cohorts.look(connections)["chat"]
    return version, Figures.heard(cohort), Figures.heard(rest)


def test_what_happens_counts_for_the_side_it_happened_on(cohorts: Cohorts, clock: Clock) -> None:
    early = cohorts.asked(OFF)
    asked = cohorts.asked(ON)
    clock.now += 0.25
    cohorts.answered(asked)
    cohorts.answered(early)
    cohorts.failed(ON, ErrorCode.INTERNAL)
    cohorts.failed(OFF, ErrorCode.FEATURE_DISABLED)
    cohorts.gapped(OFF)
    cohorts.acknowledged(OFF, 100.0)
    cohorts.acknowledged(OFF, 86_400_000.0)
    for nobody in (NEITHER, {}):
        cohorts.answered(cohorts.asked(nobody))
        cohorts.failed(nobody, ErrorCode.INTERNAL)
        cohorts.gapped(nobody)
    _, cohort, rest = figures(cohorts)
    assert (cohort.requests, cohort.errors, cohort.gaps, cohort.acks.total()) == (1, 1, 0, 0)
    assert 250 <= p99_ms(cohort.replies) <= 275
    assert (rest.requests, rest.errors, rest.gaps, rest.acks.total()) == (1, 0, 1, 1)
    assert rest.replies.total() == 1


def test_a_flip_in_the_middle_of_a_request_moves_nothing(cohorts: Cohorts, clock: Clock) -> None:
    flags = OFF
    asked = cohorts.asked(flags)
    flags = ON
    cohorts.answered(asked)
    cohorts.gapped(flags)
    _, cohort, rest = figures(cohorts)
    assert (cohort.replies.total(), rest.replies.total(), cohort.gaps) == (0, 1, 1)


def test_connections_are_averaged_over_the_window(cohorts: Cohorts, clock: Clock) -> None:
    figures(cohorts, *[ON] * 10, *[OFF] * 90, NEITHER)
    for _ in range(30):
        clock.now += 1
        figures(cohorts, *[ON] * 10, *[OFF] * 90, NEITHER)
    for _ in range(30):
        clock.now += 1
        _, cohort, rest = figures(cohorts, *[ON] * 30, *[OFF] * 90)
    assert (cohort.connections, rest.connections) == pytest.approx((20, 90))
    for _ in range(62):
        clock.now += 1
        _, cohort, _ = figures(cohorts, *[ON] * 30)
    assert cohort.connections == pytest.approx(30)


def test_what_is_older_than_the_window_is_forgotten(cohorts: Cohorts, clock: Clock) -> None:
    for second in range(200):
        cohorts.failed(ON, ErrorCode.INTERNAL)
        _, cohort, _ = figures(cohorts, ON)
        assert min(second + 1, 60) <= cohort.errors <= 63
        clock.now += 1


def test_however_seldom_somebody_looks(cohorts: Cohorts, clock: Clock) -> None:
    for _ in range(20):
        cohorts.failed(ON, ErrorCode.INTERNAL)
        clock.now += 20
        _, cohort, _ = figures(cohorts, ON)
    assert cohort.errors == 3


def test_a_step_of_the_schedule_begins_anew(cohorts: Cohorts, clock: Clock) -> None:
    before = cohorts.asked(ON)
    cohorts.failed(ON, ErrorCode.INTERNAL)
    cohorts.watch({"chat": Watched(1, WINDOW_S)})
    version, cohort, _ = figures(cohorts)
    assert (version, cohort.errors) == (1, 1), "nothing has changed"
    cohorts.watch({"chat": Watched(2, WINDOW_S)})
    version, cohort, _ = figures(cohorts)
    assert (version, cohort.errors, cohort.requests) == (2, 0, 0)
    cohorts.answered(before)
    assert figures(cohorts)[1].replies.total() == 1


def test_a_clock_that_stands_or_goes_back_breaks_nothing(cohorts: Cohorts, clock: Clock) -> None:
    cohorts.failed(ON, ErrorCode.INTERNAL)
    figures(cohorts, ON)
    clock.now -= 100
    _, cohort, _ = figures(cohorts, ON)
    assert cohort.errors == 1
    assert cohort.connections == 0


def test_without_stages_nothing_is_counted(cohorts: Cohorts) -> None:
    cohorts.watch({})
    assert cohorts.asked(ON) is None
    cohorts.answered(None)
    cohorts.failed(ON, ErrorCode.INTERNAL)
    cohorts.gapped(ON)
    cohorts.acknowledged(ON, 1.0)
    assert not cohorts.counting
    assert cohorts.look([ON]) == {}
