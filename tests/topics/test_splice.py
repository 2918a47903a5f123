"""Recovery against a brute-force model: a topic's whole truth, clients anywhere in it, and what they must be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.fanout.broker import HistoryRequest
from hub.protocol.frames import Event, Gap, Position, Verdict
from hub.topics.publication import Publication, TopicState
from hub.topics.splice import Asked, Hole, Plan, plan_recovery, splice
from tests.support.fake_broker import FakeBroker
from tests.support.fan_out import REPLAY, draft, topic
from tests.support.record import Record


def state(epoch: str = "e2", top: int = 100, first: int = 1, previous: str = "e1", base: int = 50) -> TopicState:
    """A topic's record."""
    return TopicState(epoch, top, first, previous, base, "s1")


CHANGED = (Hole("epoch_changed"),)


@pytest.mark.parametrize(
    ("asked", "of", "permitted", "plan"),
    [
        # No position: nothing can be missing.
        ("now", state(), 1, Plan(100, True)),
        ("start", state(), 1, Plan(0, True)),
        ("start", state(first=31), 1, Plan(30, True)),
        ("start", state(first=101), 1, Plan(100, True)),
        ("start", state(top=0), 1, Plan(0, True)),
        (3, state(), 1, Plan(97, True)),
        (0, state(), 1, Plan(100, True)),
        (500, state(first=31), 1, Plan(30, True)),
        # The same epoch.
        (Position("e2", 100), state(), 1, Plan(100, True)),
        (Position("e2", 40), state(), 1, Plan(40, True)),
        (Position("e2", 30), state(first=31), 1, Plan(30, True)),
        (Position("e2", 29), state(first=31), 1, Plan(30, False, (Hole("expired", 30, 30),))),
        (Position("e2", 0), state(first=31), 1, Plan(30, False, (Hole("expired", 1, 30),))),
        (Position("e2", 40), state(first=101), 1, Plan(100, False, (Hole("expired", 41, 100),))),
        (Position("e2", 100), state(first=101), 1, Plan(100, True)),
        (Position("e2", 0), state(top=0, first=1), 1, Plan(0, True)),
        # Beyond the top, or another epoch.
        (Position("e2", 101), state(), 1, Plan(0, False, CHANGED)),
        (Position("e1", 40), state(), 1, Plan(40, False, CHANGED)),
        (Position("e1", 60), state(), 1, Plan(50, False, CHANGED)),
        (Position("e1", 40), state(first=46), 1, Plan(45, False, CHANGED)),
        (Position("e0", 40), state(), 1, Plan(0, False, CHANGED)),
        (Position("e0", 40), state(first=46), 1, Plan(45, False, CHANGED)),
        (Position("", 40), state(previous=""), 1, Plan(0, False, CHANGED)),
        # Not everything may be seen.
        ("start", state(), 61, Plan(60, True)),
        (90, state(), 61, Plan(60, True)),
        ("start", state(), 500, Plan(100, True)),
        (Position("e2", 70), state(), 61, Plan(70, True)),
        (Position("e2", 40), state(), 61, Plan(60, False, (Hole("not_permitted", 41, 60),))),
        (
            Position("e2", 10),
            state(first=31),
            61,
            Plan(60, False, (Hole("expired", 11, 30), Hole("not_permitted", 31, 60))),
        ),
        (Position("e2", 40), state(), 500, Plan(100, False, (Hole("not_permitted", 41, 100),))),
        (Position("e2", 40), state(), 101, Plan(100, False, (Hole("not_permitted", 41, 100),))),
        (Position("e1", 40), state(), 61, Plan(60, False, CHANGED)),
    ],
)
def test_plans(asked: Asked, of: TopicState, permitted: int, plan: Plan) -> None:
    assert plan_recovery(asked, of, permitted) == plan


# --- against a topic's life


@dataclass
class Life:
    """A topic that lived: every position that a client may have seen, with the event it saw there."""

    broker: FakeBroker
    seen: dict[Position, int] = field(default_factory=dict)
    """Position -> the event's identity."""
    epochs: list[str] = field(default_factory=list)


happenings = st.lists(
    st.tuples(st.just("publish"), st.integers(1, 8))
    | st.tuples(st.just("trim"), st.integers(1, 8))
    | st.tuples(st.just("fail_over"), st.integers(0, 4))
    | st.tuples(st.just("forget"), st.just(0)),
    max_size=14,
)


def live(steps: list[tuple[str, int]]) -> Life:
    """Plays a topic's life on the broker."""
    life = Life(FakeBroker())
    of = topic(REPLAY)
    events = servers = 0
    for step, count in steps:
        if step == "publish":
            for _ in range(count):
                events += 1
                life.broker.publish_now(draft(REPLAY, data=events))
                now = life.broker.state(of)
                life.seen[Position(now.epoch, now.top)] = events
        elif step == "trim":
            life.broker.trim(of, count)
        elif step == "fail_over":
            servers += 1
            life.broker.fail_over(f"t{servers}", lost=count)
        else:
            life.broker.forget(of)
        now = life.broker.state(of)
        if now.epoch not in life.epochs:
            life.epochs.append(now.epoch)
    return life


asked_positions = st.one_of(
    st.sampled_from(["now", "start"]),
    st.integers(0, 20),
    st.tuples(st.integers(0, 5), st.integers(0, 40)),
)


@given(steps=happenings, wanted=asked_positions, permitted=st.integers(1, 12), page=st.integers(1, 5))
def test_a_client_is_told_everything_once_and_what_is_missing(
    steps: list[tuple[str, int]], wanted: str | int | tuple[int, int], permitted: int, page: int
) -> None:
    """Holes and pages, fed to the judge: each once, in order, no hole without its gap, all that is kept."""
    life = live(steps)
    of = topic(REPLAY)
    now = life.broker.state(of)
    asked: Asked
    if isinstance(wanted, tuple):
        asked = Position(life.epochs[-1 - wanted[0] % len(life.epochs)] if life.epochs else "", wanted[1])
    else:
        asked = wanted  # type: ignore[assignment]
    record = Record(of.wire)
    plan = plan_recovery(asked, now, permitted)
    record.joined(Verdict(of.wire, True, now.epoch, now.top, plan.recovered), asked)
    got: list[int] = []
    position: Asked = asked
    after = plan.after
    while True:
        plan = plan_recovery(position, now, permitted)
        for hole in plan.holes:
            span = (hole.from_, hole.to) if hole.from_ else (None, None)
            record.take(Gap(of.wire, now.epoch, hole.reason, *span))
        request = HistoryRequest(of, "top" if position == "now" else position, page, 1 << 20)
        found = life.broker._page(request)
        after = plan.after
        for publication in found.publications:
            if publication.seq > after:
                record.take(Event(of.wire, "id", "name", 1, None, publication.seq))
                got.append(publication.seq)
                after = publication.seq
        if not found.more:
            break
        position = Position(now.epoch, after)
    record.must_be_complete(now.epoch, now.top)
    _check_nothing_kept_was_withheld(life, asked, now, permitted, got)


def _check_nothing_kept_was_withheld(life: Life, asked: Asked, now: TopicState, permitted: int, got: list[int]) -> None:
    """By identity: who knew an event may miss or see it again only as section 5 says."""
    kept = [n for n in range(now.first, now.top + 1) if n >= permitted]
    assert all(b == a + 1 for a, b in pairwise(got))
    if asked == "now":
        assert got == []
    elif asked == "start":
        assert got == kept
    elif isinstance(asked, int):
        assert got == [n for n in kept if n > now.top - asked]
    elif isinstance(asked, Position):
        if asked.epoch == now.epoch and asked.seq <= now.top:
            assert got == [n for n in kept if n > asked.seq]
        elif asked.epoch == now.previous_epoch and asked.epoch:
            assert got == [n for n in kept if n > min(asked.seq, now.base)]
            # What the client is not given again, it had seen as the very same event.
            for n in kept:
                if n <= min(asked.seq, now.base) and Position(asked.epoch, n) in life.seen:
                    body = life.broker.published[topic(REPLAY).names.channel.encode(), now.epoch, n]
                    assert b'"data":%d' % life.seen[Position(asked.epoch, n)] in body
        else:
            assert got == kept


# --- splicing


def run_of(*positions: tuple[str, int]) -> list[Publication]:
    """Publications at these positions."""
    return [Publication(epoch, seq, 0, b"") for epoch, seq in positions]


@pytest.mark.parametrize(
    ("buffered", "seqs", "whole"),
    [
        ([], [], True),
        ([("e", 4), ("e", 5)], [], True),
        ([("e", 4), ("e", 5), ("e", 6), ("e", 7)], [6, 7], True),
        ([("e", 6), ("e", 6), ("e", 7)], [6, 7], True),
        ([("e", 7)], [], False),
        ([("e", 6), ("e", 8)], [6], False),
        ([("f", 6)], [], False),
        ([("e", 6), ("f", 1)], [6], False),
        ([("f", 1), ("e", 6)], [], False),
    ],
)
def test_splicing(buffered: list[tuple[str, int]], seqs: list[int], whole: bool) -> None:
    run, complete = splice(Position("e", 5), run_of(*buffered))
    assert ([item.seq for item in run], complete) == (seqs, whole)


@given(start=st.integers(0, 5), buffered=st.lists(st.tuples(st.sampled_from("ef"), st.integers(1, 12)), max_size=12))
def test_a_spliced_run_has_no_hole_and_no_repeat(start: int, buffered: list[tuple[str, int]]) -> None:
    items = run_of(*buffered)
    run, complete = splice(Position("e", start), items)
    assert [item.seq for item in run] == list(range(start + 1, start + 1 + len(run)))
    assert all(item.epoch == "e" for item in run)
    end = start + len(run)
    assert not complete or all(epoch == "e" and seq <= end for epoch, seq in buffered)
    if not complete:
        # The first that does not fit was neither a repeat nor the next.
        assert any(epoch != "e" or seq > end + 1 for epoch, seq in buffered)
