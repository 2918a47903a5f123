"""Positions, repeats and holes: by cases, and against a model hub that loses, repeats and forgets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.errors import ProtocolViolation
from hub.client.progress import Outcome, Progress
from hub.protocol.frames import Position


def live(top: int = 0, *, filtered: bool = False) -> Progress:
    progress = Progress(filtered=filtered)
    progress.joined(None, epoch="a", top=top, recovered=True, live_only=True)
    return progress


def test_live_only_starts_at_the_top() -> None:
    progress = live(7)
    assert progress.position == Position("a", 7)
    assert progress.event(8) is Outcome.NEW
    assert progress.event(8) is Outcome.REPEAT
    with pytest.raises(ProtocolViolation, match="10 came where 9"):
        progress.event(10)
    assert progress.position == Position("a", 8)
    assert progress.event(9) is Outcome.NEW


def test_from_the_start_any_number_up_to_the_top_may_be_first() -> None:
    progress = Progress()
    progress.joined(None, epoch="a", top=9, recovered=True, live_only=False)
    assert progress.position is None
    assert progress.event(4) is Outcome.NEW
    assert progress.position == Position("a", 4)


def test_from_the_start_nothing_beyond_the_top_may_be_first() -> None:
    progress = Progress()
    progress.joined(None, epoch="a", top=9, recovered=True, live_only=False)
    with pytest.raises(ProtocolViolation):
        progress.event(11)
    assert progress.event(10) is Outcome.NEW


def test_a_range_that_expired() -> None:
    progress = live(2)
    progress.joined(Position("a", 2), epoch="a", top=9, recovered=False, live_only=False)
    with pytest.raises(ProtocolViolation, match="before the gap"):
        progress.event(3)
    assert progress.gap("a", 3, 6) is Outcome.NEW
    assert progress.position == Position("a", 6)
    assert progress.event(6) is Outcome.REPEAT
    assert progress.event(7) is Outcome.NEW


def test_a_gap_may_not_hide_a_hole_before_it() -> None:
    progress = live(2)
    with pytest.raises(ProtocolViolation):
        progress.gap("a", 5, 6)
    assert progress.gap("a", 3, 6) is Outcome.NEW


def test_a_new_epoch_keeps_the_old_position_until_something_came() -> None:
    progress = live(5)
    progress.joined(Position("a", 5), epoch="b", top=8, recovered=False, live_only=False)
    with pytest.raises(ProtocolViolation):
        progress.event(6)
    assert progress.gap("b", None, None) is Outcome.NEW
    assert progress.position == Position("a", 5), "only this tells the hub where the client came from"
    assert progress.event(4) is Outcome.NEW, "numbers of the new epoch are other events"
    assert progress.position == Position("b", 4)
    assert progress.event(5) is Outcome.NEW


def test_a_position_beyond_the_top_starts_over_in_the_same_epoch() -> None:
    progress = live(50)
    progress.joined(Position("a", 50), epoch="a", top=3, recovered=False, live_only=False)
    assert progress.gap("a", None, None) is Outcome.NEW
    assert progress.event(1) is Outcome.NEW
    assert progress.position == Position("a", 1)


def test_an_epoch_that_changes_on_a_live_connection() -> None:
    progress = live(5)
    assert progress.gap("b", None, None) is Outcome.NEW
    assert progress.event(3) is Outcome.NEW
    with pytest.raises(ProtocolViolation):
        progress.event(5)


def test_a_move_with_both_connections_open_brings_repeats_only() -> None:
    progress = live(5)
    asked = progress.position
    assert progress.event(6) is Outcome.NEW  # still by the old connection
    progress.joined(asked, epoch="a", top=6, recovered=True, live_only=False)
    assert progress.received == 5, "the new connection has sent nothing yet"
    assert progress.event(6) is Outcome.REPEAT
    assert progress.received == 6
    assert progress.event(7) is Outcome.NEW


def test_a_move_to_a_node_that_has_not_heard_of_the_epoch_in_which_the_old_connection_is() -> None:
    progress = live(5)
    asked = progress.position
    assert progress.event(6) is Outcome.NEW
    assert progress.gap("b", None, None) is Outcome.NEW
    assert not progress.has_left(asked)
    progress.joined(asked, epoch="a", top=7, recovered=True, live_only=False)
    assert progress.event(6) is Outcome.REPEAT
    assert progress.event(7) is Outcome.NEW


def test_a_verdict_about_a_place_that_was_left() -> None:
    assert live(5).has_left(None), "what came between that question and its answer nobody can tell"
    progress = live(5)
    asked = progress.position
    progress.gap("b", None, None)
    progress.event(6)
    assert progress.has_left(asked)
    assert not progress.has_left(progress.position)
    assert not Progress().has_left(None)


def test_filtered() -> None:
    progress = live(0, filtered=True)
    assert progress.event(3) is Outcome.NEW
    assert progress.event(2) is Outcome.REPEAT
    assert progress.adopt("a", 500) is Outcome.NEW
    assert progress.adopt("a", 400) is Outcome.REPEAT
    assert progress.adopt("b", 900) is Outcome.REPEAT
    assert progress.position == Position("a", 500)
    assert progress.event(501) is Outcome.NEW


def test_a_position_may_not_skip_events_of_an_unfiltered_topic() -> None:
    progress = live(3)
    with pytest.raises(ProtocolViolation):
        progress.adopt("a", 5)
    assert progress.adopt("a", 3) is Outcome.REPEAT


class Model:
    """A hub with one topic. It replays, forgets old events and changes its epoch; it obeys the protocol."""

    def __init__(self) -> None:
        self.epoch, self.top, self.first = 0, 0, 1

    def join(self, asked: Position | None) -> tuple[bool, list[tuple[str, int, int]]]:
        """(recovered, what follows): ``("gap", from, to)`` with 0 for no range, ``("event", seq, 0)``."""
        if asked is None:
            return True, []
        if asked.epoch != str(self.epoch) or asked.seq > self.top:
            return False, [("gap", 0, 0), *(("event", seq, 0) for seq in range(self.first, self.top + 1))]
        start = max(asked.seq + 1, self.first)
        gap = [("gap", asked.seq + 1, start - 1)] if start > asked.seq + 1 else []
        return not gap, [*gap, *(("event", seq, 0) for seq in range(start, self.top + 1))]


class Run:
    """A client of that hub: what it took in as new, per epoch, gaps included."""

    def __init__(self) -> None:
        self.hub = Model()
        self.progress = Progress()
        self.covered: dict[str, list[int]] = {}
        self.join()

    def take(self, kind: str, first: int, last: int = 0) -> None:
        epoch = str(self.hub.epoch)
        if kind == "gap":
            outcome, numbers = self.progress.gap(epoch, first or None, last or None), list(range(first, last + 1))
        else:
            outcome, numbers = self.progress.event(first), [first]
        if outcome is Outcome.NEW and not first:
            self.covered[epoch] = []
        elif outcome is Outcome.NEW:
            self.covered.setdefault(epoch, []).extend(numbers)

    def join(self, asked: Position | None = None, *, cut: int | None = None) -> None:
        """Reconnects; the replay breaks off after ``cut`` frames."""
        asked = asked or self.progress.position
        recovered, follows = self.hub.join(asked)
        top = self.hub.top
        self.progress.joined(asked, epoch=str(self.hub.epoch), top=top, recovered=recovered, live_only=True)
        for frame in follows[:cut]:
            self.take(*frame)

    def publish(self, amount: int) -> None:
        for _ in range(amount):
            self.hub.top += 1
            self.take("event", self.hub.top)

    def lose(self, amount: int) -> None:
        self.hub.top += amount
        self.join(cut=amount // 2)
        self.join()

    def expire(self, amount: int) -> None:
        self.hub.top += amount
        self.hub.first = max(self.hub.first, self.hub.top - 1)
        self.join()

    def epoch(self, amount: int) -> None:
        self.hub.epoch, self.hub.top, self.hub.first = self.hub.epoch + 1, amount, 1
        self.join()

    def move(self, _: int) -> None:
        """The same events again, by another connection."""
        asked = self.progress.position
        self.publish(1)
        self.join(asked)


STEPS = st.lists(
    st.tuples(st.sampled_from([Run.publish, Run.lose, Run.expire, Run.epoch, Run.move]), st.integers(0, 4)),
    min_size=1,
    max_size=60,
)


@given(STEPS)
def test_every_event_once_in_order_or_announced(steps: list[tuple[Callable[[Run, int], None], int]]) -> None:
    run = Run()
    for step, amount in steps:
        step(run, amount)
    for numbers in run.covered.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    now = run.covered.get(str(run.hub.epoch), [])
    assert not now or now[-1] == run.hub.top
    if run.hub.top and now:
        assert run.progress.position == Position(str(run.hub.epoch), run.hub.top)


@given(st.integers(1, 30), st.data())
def test_any_event_left_out_is_noticed(count: int, data: st.DataObject) -> None:
    left_out = data.draw(st.integers(1, count))
    progress = live(0)
    for seq in range(1, left_out):
        progress.event(seq)
    with pytest.raises(ProtocolViolation):
        progress.event(left_out + 1)
    assert progress.position == Position("a", left_out - 1)
