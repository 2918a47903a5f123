"""The schedule of a flag: one stage after the other, whatever clocks, nodes and people do in between."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hub.flags import Guards, Stage, StageState
from hub.nodes.flags.guards import Trip
from hub.nodes.flags.stages import HELD, TABLE, Happening, Plan, Situation, Standing, decide, standing

HOUR = 3600.0
GUARDS = Guards(error_rate=0.1, window_s=60.0)
PLAN = Plan("chat", (Stage(0, 1000), Stage(48 * HOUR, 10_000), Stage(96 * HOUR, 100_000)), None, GUARDS)
TRIP = Trip("error_rate", 0.1, 0.5, 0.0, 100, "requests")
NOW = 1_800_000_000.0


class Row:
    """The row of one flag, and the clock; any leader may take the next step."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.plan = plan
        self.now = NOW
        self.state: StageState | None = None
        self.happened: list[Happening] = []

    def step(self, **situation: object) -> Happening | None:
        step = decide(self.plan, self.state, Situation(self.now, **situation))  # type: ignore[arg-type]
        if step is None:
            return None
        assert step.state.version == (self.state.version if self.state else 0)
        # Another leader reads it from the table.
        self.state = msgspec.convert(msgspec.to_builtins(step.state), StageState)
        self.state = replace(self.state, version=step.state.version + 1)
        self.happened.append(step.happening)
        assert step.why
        return step.happening

    def settle(self, **situation: object) -> None:
        for _ in range(10):
            if self.step(**situation) is None:
                return
        raise AssertionError(f"it does not come to rest: {self.happened}")

    @property
    def percent(self) -> int:
        return self.state.percent if self.state else self.plan.base

    @property
    def standing(self) -> Standing:
        return standing(self.state)


def test_a_schedule_goes_its_way() -> None:
    row = Row()
    row.settle()
    assert (row.percent, row.happened) == (1000, [Happening.SEEN, Happening.DUE])
    assert row.state is not None
    assert PLAN.next_at(row.state) == NOW + 48 * HOUR
    row.now += 48 * HOUR - 1
    assert row.step() is None
    row.now += 1
    row.settle()
    assert row.percent == 10_000
    row.now += 48 * HOUR
    row.settle()
    assert (row.percent, PLAN.next_at(row.state)) == (100_000, None)
    row.now += 1000 * HOUR
    assert row.step() is None


def test_it_begins_when_the_file_says() -> None:
    row = Row(replace(PLAN, starts_at=NOW + 100))
    row.settle()
    assert (row.percent, row.happened) == (0, [Happening.SEEN])
    row.now += 100
    row.settle()
    assert row.percent == 1000
    late = Row(replace(PLAN, starts_at=NOW - 200 * HOUR))
    late.settle()
    assert late.percent == 1000, "what nobody was there for is not made up for"


def test_a_guard_that_trips_brings_back_the_stage_before() -> None:
    row = Row()
    row.settle()
    row.now += 48 * HOUR
    row.settle()
    row.step(trip=TRIP)
    assert row.state is not None
    assert (row.percent, row.state.stopped, row.standing) == (1000, "error_rate", Standing.STOPPED)
    row.now += 1000 * HOUR
    for trip in (None, TRIP):
        assert row.step(trip=trip) is None
    first = Row()
    first.settle()
    first.step(trip=TRIP)
    assert (first.percent, first.state and first.state.stage) == (0, -1)


def test_before_the_first_stage_nothing_trips() -> None:
    row = Row(replace(PLAN, starts_at=NOW + 100))
    row.settle(trip=TRIP)
    assert row.standing is Standing.RUNNING


def test_somebody_who_takes_it_in_hand_stops_the_clock() -> None:
    row = Row()
    row.settle()
    row.now += 47 * HOUR
    row.settle(held=True)
    assert (row.standing, row.percent) == (Standing.HELD, 1000)
    row.now += 10 * HOUR
    assert row.step(held=True, trip=TRIP) is None
    row.settle()
    assert (row.standing, row.percent) == (Standing.RUNNING, 1000)
    row.now += 48 * HOUR - 1
    assert row.step() is None, "the stage begins anew"
    row.now += 1
    row.settle()
    assert row.percent == 10_000


def test_another_schedule_goes_on_from_where_the_old_one_stood() -> None:
    row = Row()
    row.settle()
    row.now += 48 * HOUR
    row.settle()
    row.plan = replace(PLAN, stages=(Stage(0, 500), Stage(HOUR, 5000), Stage(2 * HOUR, 50_000)))
    assert row.step() is Happening.CHANGED
    assert (row.percent, row.state and row.state.stage) == (5000, 1)
    row.now += HOUR - 1
    assert row.step() is None
    row.now += 1
    row.settle()
    assert row.percent == 50_000
    row.step(trip=TRIP)
    row.plan = replace(row.plan, guards=Guards(error_rate=0.9))
    for situation in ({}, {"off": True}, {}):
        row.settle(**situation)
    assert (row.standing, row.percent) == (Standing.STOPPED, 5000), "only somebody who says so lets it go on"


def test_a_schedule_that_is_written_anew_takes_no_time_away() -> None:
    row = Row()
    row.settle()
    row.now += 47 * HOUR
    row.plan = replace(PLAN, guards=Guards(error_rate=0.9, window_s=60.0))
    row.settle()
    assert row.state is not None
    assert PLAN.next_at(replace(row.state, schedule=PLAN.digest)) == NOW + 48 * HOUR
    row.now += HOUR - 1
    row.plan = PLAN
    row.settle()
    row.now += 59
    assert row.step() is None, "but the guards look anew"
    row.now += 1
    row.settle()
    assert row.percent == 10_000


def test_a_file_that_not_all_nodes_have_does_nothing() -> None:
    row = Row()
    row.settle()
    for situation in ({"off": True}, {}):
        assert row.step(agreed=False, **situation) is None
    row.now += 48 * HOUR
    assert row.step(agreed=False) is None
    row.settle()
    row.plan = replace(PLAN, stages=(Stage(0, 20_000), Stage(HOUR, 100_000)))
    assert row.step(agreed=False) is None
    assert row.step(agreed=False, trip=TRIP) is Happening.TRIPPED
    assert (row.percent, row.state and row.state.stage) == (0, -1), "before the first stage, by this schedule"
    held = Row()
    held.settle()
    assert held.step(agreed=False, held=True) is Happening.TAKEN
    assert held.step(agreed=False) is None
    assert held.step() is Happening.FREED


def test_nobody_goes_on_before_the_guards_had_time_to_look() -> None:
    row = Row(replace(PLAN, stages=(Stage(0, 1000), Stage(1, 10_000), Stage(2, 100_000))))
    row.settle()
    row.now += 59
    assert row.step() is None
    row.now += 1
    row.settle()
    assert row.percent == 10_000


def test_nothing_grows_while_the_leader_is_blind() -> None:
    row = Row()
    row.settle()
    row.now += 48 * HOUR
    assert row.step(blind=True) is None
    assert row.step(blind=True, trip=TRIP) is Happening.TRIPPED


def test_all_that_can_happen_is_in_the_table() -> None:
    row = Row()
    row.settle()
    assert row.state is not None
    states = {
        Standing.UNKNOWN: None,
        Standing.RUNNING: row.state,
        Standing.HELD: replace(row.state, stopped=HELD),
        Standing.STOPPED: replace(row.state, stopped="p99_ms"),
    }
    for before, state in states.items():
        assert standing(state) is before
        for held in (True, False):
            for trip in (None, TRIP):
                step = decide(PLAN, state, Situation(NOW + 96 * HOUR, held, trip))
                assert step is None or standing(step.state) is TABLE[before, step.happening]


_ends = st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 100_000)), min_size=1, max_size=5)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    times, percents = zip(*draw(_ends), strict=True)
    stages = tuple(Stage(*one) for one in zip(sorted(times), sorted(percents), strict=True))
    starts_at = draw(st.none() | st.floats(NOW - 2000, NOW + 2000))
    return Plan("chat", stages, starts_at, draw(st.none() | st.just(GUARDS)), draw(st.integers(0, min(percents))))


_moments = st.lists(
    st.tuples(
        st.floats(-3000, 3000),  # clocks go back, and forward
        st.sampled_from([{}, {}, {}, {"held": True}, {"trip": TRIP}, {"blind": True}]),
        st.sampled_from(["", "", "", "", "cleared", "new schedule"]),
    ),
    max_size=40,
)


@given(plans(), plans(), _moments)
def test_whatever_happens(plan: Plan, another: Plan, moments: list[tuple[float, dict[str, object], str]]) -> None:
    row = Row(plan)
    stopped = False
    for jump, situation, word in moments:
        row.now += jump
        if word == "cleared" and row.standing is Standing.STOPPED:
            row.state, stopped = None, False  # what the store does
        if word == "new schedule":
            row.plan = another if row.plan is plan else plan
        before, stage, percent = row.standing, row.state.stage if row.state else -1, row.percent
        happening = row.step(**situation)
        if happening is Happening.DUE:
            assert row.state is not None
            assert row.state.stage == stage + 1, "a stage was jumped over"
            assert before is Standing.RUNNING
            assert not situation.keys() & {"held", "blind"}
            assert stage == -1 or not situation, "it grew although a guard tripped"
        else:
            assert row.percent <= max(percent, row.plan.base), "it grew without being due"
        if happening is Happening.TRIPPED:
            stopped = True
            assert row.percent == row.plan.percent(stage - 1)
        elif stopped:
            assert happening is None, "it goes on by itself after a guard tripped"
    row.settle(held=True)


@given(plans(), st.lists(st.floats(-5000, 0), max_size=20))
def test_a_clock_that_only_goes_back_grows_nothing(plan: Plan, jumps: list[float]) -> None:
    row = Row(plan)
    row.settle()
    percent = row.percent
    for jump in jumps:
        row.now += jump
        assert row.step() is None
    assert row.percent == percent


@pytest.mark.parametrize("change", [{"starts_at": NOW}, {"guards": None}, {"stages": PLAN.stages[:2]}])
def test_any_change_of_a_schedule_is_another_schedule(change: dict[str, object]) -> None:
    assert replace(PLAN, **change).digest != PLAN.digest == replace(PLAN).digest
