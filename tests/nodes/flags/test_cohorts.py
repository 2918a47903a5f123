"""What a node counts for guards: under the value at the time, over a window, anew with every step of a schedule."""

from __future__ import annotations

import pytest

from hub.errors import ErrorCode
from hub.flags import Guards
from hub.nodes.flags.cohorts import Cohorts, Watched
from hub.nodes.flags.guards import Figures, judge, p99_ms
from tests.support.clock import Clock

ON, OFF, NEITHER = {"chat": True, "other": True}, {"chat": False, "other": True}, {"other": True}
ANN = ("acme", "ann")
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


def fail(cohorts: Cohorts, user: str, code: ErrorCode = ErrorCode.INTERNAL, *, times: int = 1) -> None:
    """Requests that end so."""
    for _ in range(times):
        cohorts.failed(cohorts.asked(("acme", user), ON), code)


@pytest.mark.parametrize("code", ErrorCode)
def test_only_what_the_hub_does_is_a_fault(cohorts: Cohorts, code: ErrorCode) -> None:
    fail(cohorts, "ann", code)
    cohorts.joined(cohorts.asked(ANN, ON), ["not_found", code.value])
    _, cohort, _ = figures(cohorts)
    assert cohort.requests == 2
    assert cohort.errors == (2 if code.value in ("internal", "unavailable", "timeout", "upstream_failed") else 0)


def test_one_client_counts_for_no_more_than_its_share(cohorts: Cohorts, clock: Clock) -> None:
    for _ in range(3 * int(WINDOW_S)):
        fail(cohorts, "ann", times=10)
        for _ in range(10):
            cohorts.acknowledged(ANN, ON, 50_000.0)
            cohorts.gapped(7, ON)
        clock.now += 1
        _, cohort, _ = figures(cohorts, ON)
        assert max(cohort.requests, cohort.errors, cohort.acks.total(), cohort.gaps) <= 10
    assert (cohort.requests, cohort.errors) == (5, 5)
    fail(cohorts, "bob")
    assert figures(cohorts)[1].errors == 6


def test_half_of_the_connections_can_trip_what_one_cannot(cohorts: Cohorts) -> None:
    guards = Guards(gap_rate=3.0, window_s=300.0)
    for many, trips in ((1, False), (11, True)):
        cohorts.watch({"chat": Watched.by(guards, many)})
        cohorts.look([ON] * 20)
        for connection in range(many):
            for _ in range(1000):
                cohorts.gapped(connection, ON)
        cohorts.clock.now += 1  # type: ignore[attr-defined]
        _, cohort, rest = figures(cohorts, *[ON] * 20)
        assert (judge(guards, cohort, rest) is not None) == trips


def test_what_happens_counts_for_the_side_it_happened_on(cohorts: Cohorts, clock: Clock) -> None:
    early = cohorts.asked(ANN, OFF)
    asked = cohorts.asked(ANN, ON)
    clock.now += 0.25
    cohorts.answered(asked)
    cohorts.answered(early)
    cohorts.failed(asked, ErrorCode.INTERNAL)
    cohorts.gapped(1, OFF)
    cohorts.acknowledged(ANN, OFF, 100.0)
    cohorts.acknowledged(ANN, OFF, 86_400_000.0)
    for nobody in (NEITHER, {}):
        assert cohorts.asked(ANN, nobody) is None
        cohorts.gapped(1, nobody)
    _, cohort, rest = figures(cohorts)
    assert (cohort.requests, cohort.errors, cohort.gaps, cohort.acks.total()) == (1, 1, 0, 0)
    assert 250 <= p99_ms(cohort.replies) <= 275
    assert (rest.requests, rest.errors, rest.gaps, rest.acks.total()) == (1, 0, 1, 1)
    assert rest.replies.total() == 1


def test_a_flip_in_the_middle_of_a_request_moves_nothing(cohorts: Cohorts, clock: Clock) -> None:
    flags = OFF
    asked = cohorts.asked(ANN, flags)
    flags = ON
    cohorts.answered(asked)
    cohorts.gapped(1, flags)
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
        fail(cohorts, f"user-{second}")
        _, cohort, _ = figures(cohorts, ON)
        assert min(second + 1, 60) <= cohort.errors <= 63
        clock.now += 1


def test_however_seldom_somebody_looks(cohorts: Cohorts, clock: Clock) -> None:
    for _ in range(20):
        fail(cohorts, "ann")
        clock.now += 20
        _, cohort, _ = figures(cohorts, ON)
    assert cohort.errors == 3


def test_a_step_of_the_schedule_begins_anew(cohorts: Cohorts, clock: Clock) -> None:
    before = cohorts.asked(ANN, ON)
    fail(cohorts, "ann")
    cohorts.watch({"chat": Watched(1, WINDOW_S)})
    version, cohort, _ = figures(cohorts)
    assert (version, cohort.errors) == (1, 1), "nothing has changed"
    cohorts.watch({"chat": Watched(2, WINDOW_S)})
    version, cohort, _ = figures(cohorts)
    assert (version, cohort.errors, cohort.requests) == (2, 0, 0)
    cohorts.answered(before)
    assert figures(cohorts)[1].replies.total() == 1


def test_a_clock_that_stands_or_goes_back_breaks_nothing(cohorts: Cohorts, clock: Clock) -> None:
    fail(cohorts, "ann")
    figures(cohorts, ON)
    clock.now -= 100
    _, cohort, _ = figures(cohorts, ON)
    assert cohort.errors == 1
    assert cohort.connections == 0


def test_without_stages_nothing_is_counted(cohorts: Cohorts) -> None:
    cohorts.watch({})
    assert cohorts.asked(ANN, ON) is None
    cohorts.answered(None)
    cohorts.failed(None, ErrorCode.INTERNAL)
    cohorts.gapped(1, ON)
    cohorts.acknowledged(ANN, ON, 1.0)
    assert not cohorts.counting
    assert cohorts.look([ON]) == {}
