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
        self.writing_s = 0.0
        self._clock = clock

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        self._clock.now += self.cost_s
        self.turns.append([envelope for _, envelope in batch])
        if self.writing_s:
            asyncio.get_running_loop().call_soon(self._write)

    def on_state(self, channel: bytes, state: TopicState) -> None:
        self.turns.append([b"state"])

    def on_link(self, ready: bool) -> None:
        self.turns.append([b"link"])

    def _write(self) -> None:
        self._clock.now += self.writing_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ear(clock: Clock) -> Ear:
    return Ear(clock)


@pytest.fixture
def turns(ear: Ear, clock: Clock) -> Turns:
    return Turns(SETTINGS, ear, clock)


def message(number: int) -> tuple[bytes, bytes]:
    return b"channel", b"%d" % number


async def loop_turn() -> None:
    """Everything that is ready has run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def after_a_turn(turns: Turns, ear: Ear, cost_s: float = 0.004) -> None:
    """One turn that took ``cost_s`` has just ended."""
    ear.cost_s = cost_s
    turns.on_messages([message(0)])
    await loop_turn()
    ear.turns.clear()


async def test_an_idle_node_never_waits(turns: Turns, ear: Ear, clock: Clock) -> None:
    ear.cost_s = 0.001
    for number in range(50):
        turns.on_messages([message(number)])
        assert len(ear.turns) == number + 1
        await loop_turn()
        clock.now += 0.0011
    assert ear.turns == [[b"%d" % number] for number in range(50)]


async def test_what_comes_during_a_rest_is_one_turn_in_order(turns: Turns, ear: Ear, clock: Clock) -> None:
    await after_a_turn(turns, ear)
    for number in range(5):
        turns.on_messages([message(number)])
    assert ear.turns == []
    clock.now += 0.01
    await until(lambda: ear.turns == [[b"%d" % number for number in range(5)]])


async def test_what_comes_before_the_writes_are_out_belongs_to_the_next_turn(turns: Turns, ear: Ear) -> None:
    for number in range(3):
        turns.on_messages([message(number)])
    assert ear.turns == [[b"0"]]
    await until(lambda: ear.turns == [[b"0"], [b"1", b"2"]])


async def test_a_rest_counts_the_writes_of_the_loop(turns: Turns, ear: Ear, clock: Clock) -> None:
    ear.writing_s = 0.008
    await after_a_turn(turns, ear, cost_s=0.001)
    clock.now += 0.007
    turns.on_messages([message(1)])
    assert ear.turns == []
    await until(lambda: ear.turns == [[b"1"]])


async def test_a_rest_is_as_long_as_its_turn(turns: Turns, ear: Ear, clock: Clock) -> None:
    await after_a_turn(turns, ear, cost_s=0.004)
    clock.now += 0.0041
    turns.on_messages([message(1)])
    assert ear.turns == [[b"1"]]


async def test_a_rest_is_no_longer_than_join_ms(turns: Turns, ear: Ear, clock: Clock) -> None:
    await after_a_turn(turns, ear, cost_s=5.0)
    clock.now += 0.0201
    turns.on_messages([message(1)])
    assert ear.turns == [[b"1"]]


async def test_without_join_ms_there_is_no_rest(ear: Ear, clock: Clock) -> None:
    turns = Turns(Settings(redis_url="x", database_url="x", join_ms=0), ear, clock)
    await after_a_turn(turns, ear, cost_s=5.0)
    turns.on_messages([message(1)])
    assert ear.turns == [[b"1"]]


async def test_what_came_before_a_state_is_seen_before_it(turns: Turns, ear: Ear) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1)])
    turns.on_state(b"channel", STATE)
    assert ear.turns == [[b"1"], [b"state"]]


async def test_a_turn_is_bounded(turns: Turns, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MESSAGES", 3)
    await after_a_turn(turns, ear)
    for number in range(3):
        turns.on_messages([message(number)])
    assert ear.turns == [[b"0", b"1", b"2"]]


async def test_the_end_takes_what_waits(turns: Turns, ear: Ear) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1)])
    turns.close()
    assert ear.turns == [[b"1"]]
    await loop_turn()
    assert ear.turns == [[b"1"]]
