"""Turns: an idle node never waits, a busy one gathers, and nothing is lost or reordered by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hub.config import Settings
from hub.fanout import turns as module
from hub.fanout.turns import Turns
from hub.topics.publication import TopicState
from tests.support.clock import Clock
from tests.support.waiting import until

STATE = TopicState("e", 1, 1, "", 0, "server")
SETTINGS = Settings(redis_url="x", database_url="x", join_ms=20)


class Ear:
    """Remembers what came in which turn; delivering takes as long as the test says."""

    def __init__(self, clock: Clock) -> None:
        self.turns: list[list[bytes]] = []
        self.cost_s = 0.0
        self._clock = clock

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        self._clock.now += self.cost_s
        self.turns.append([envelope for _, envelope in batch])

    def on_state(self, channel: bytes, state: TopicState) -> None:
        self.turns.append([b"state"])

    def on_link(self, ready: bool) -> None:
        self.turns.append([b"link"])


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ear(clock: Clock) -> Ear:
    return Ear(clock)


def message(number: int) -> tuple[bytes, bytes]:
    return b"channel", b"%d" % number


def busy(turns: Turns, ear: Ear, clock: Clock) -> Turns:
    """Makes delivery take nine tenths of the time for a while."""
    ear.cost_s = 0.009
    for _ in range(20):
        clock.now += 0.001
        turns.on_messages([message(0)])
        turns.close()
    assert turns.busy
    ear.turns.clear()
    return turns


async def test_an_idle_node_never_waits(ear: Ear, clock: Clock) -> None:
    turns = Turns(SETTINGS, ear, clock)
    for number in range(50):
        clock.now += 0.01
        ear.cost_s = 0.001
        turns.on_messages([message(number)])
    assert ear.turns == [[b"%d" % number] for number in range(50)]


async def test_a_busy_node_gathers_in_order(ear: Ear, clock: Clock) -> None:
    turns = busy(Turns(SETTINGS, ear, clock), ear, clock)
    for number in range(5):
        turns.on_messages([message(number)])
    assert ear.turns == []
    await until(lambda: ear.turns == [[b"%d" % number for number in range(5)]])


async def test_what_came_before_a_state_is_seen_before_it(ear: Ear, clock: Clock) -> None:
    turns = busy(Turns(SETTINGS, ear, clock), ear, clock)
    turns.on_messages([message(1)])
    turns.on_state(b"channel", STATE)
    assert ear.turns == [[b"1"], [b"state"]]


async def test_a_turn_is_bounded(ear: Ear, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MESSAGES", 3)
    turns = busy(Turns(SETTINGS, ear, clock), ear, clock)
    for number in range(3):
        turns.on_messages([message(number)])
    assert ear.turns == [[b"0", b"1", b"2"]]


async def test_when_the_load_is_over_it_waits_no_more(ear: Ear, clock: Clock) -> None:
    turns = busy(Turns(SETTINGS, ear, clock), ear, clock)
    ear.cost_s = 0.0
    clock.now += 5
    turns.on_messages([message(1)])
    await asyncio.sleep(0)
    assert ear.turns == [[b"1"]]
    assert not turns.busy
