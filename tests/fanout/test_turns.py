"""Turns: an idle topic never waits, a busy one gathers, a loud one delays nobody, and nothing is lost or reordered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from hub.config import Settings
from hub.fanout import turns as module
from hub.fanout.turns import Turns
from hub.orgs import OrgId
from hub.topics.kinds import TopicKind
from hub.topics.publication import TopicState
from hub.topics.subscriptions import LocalTopics
from hub.topics.topic import Topic
from hub.topics.walk import Walk
from tests.support.clock import Clock
from tests.support.waiting import until

STATE = TopicState("e", 1, 1, "", 0, "server")
SETTINGS = Settings(redis_url="x", database_url="x", join_ms=20)
KIND = TopicKind(name="k")
LISTENED = Topic(OrgId.from_operator("acme"), "k", "loud")
QUIET, LOUD = b"quiet", LISTENED.channel


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


@pytest.fixture
def topics() -> LocalTopics:
    """Enough people listen to LOUD for it to rest."""
    topics = LocalTopics()
    topics.hold(LISTENED, KIND)[0].holders = module.LIGHT
    return topics


@pytest.fixture
def turns(topics: LocalTopics, ear: Ear, clock: Clock) -> Turns:
    return Turns(SETTINGS, topics, ear, clock)


class Pauses(list[float]):
    """How long the rests are meant to be; they last until the test ends them."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[Callable[[], Any]] = []

    def note(self, pause: float, end: Callable[[], Any]) -> None:
        self.append(pause)
        self._ends.append(end)

    def end(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end()


@pytest.fixture
async def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(pause: float, callback: Any, *arguments: Any) -> Any:
        if isinstance(getattr(callback, "__self__", None), Turns):
            pauses.note(pause, partial(callback, *arguments))
            return None
        return call_later(pause, callback, *arguments)  # others are at work on this loop

    monkeypatch.setattr(loop, "call_later", note)
    return pauses


def message(number: int, channel: bytes = LOUD) -> tuple[bytes, bytes]:
    return channel, b"%d" % number


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


async def after_rest(ear: Ear, turns: list[list[bytes]]) -> None:
    """Everybody has rested, and these were the turns."""
    await until(lambda: len(ear.turns) >= len(turns))
    assert ear.turns == turns


async def test_an_idle_topic_never_waits(turns: Turns, ear: Ear) -> None:
    ear.cost_s = 0.001
    for number in range(20):
        turns.on_messages([message(number)])
        assert len(ear.turns) == number + 1
        await until(lambda: len(turns) == 0)
    assert ear.turns == [[b"%d" % number] for number in range(20)]


async def test_what_comes_during_a_rest_is_one_turn_in_order(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear)
    for number in range(5):
        turns.on_messages([message(number)])
    assert ear.turns == []
    pauses.end()
    assert ear.turns == [[b"%d" % number for number in range(5)]]


async def test_the_loop_looks_at_its_sockets_between_turns(turns: Turns, ear: Ear) -> None:
    for number in range(3):
        turns.on_messages([message(number)])
    assert ear.turns == [[b"0"]]
    await until(lambda: ear.turns == [[b"0"], [b"1", b"2"]])


async def test_a_rest_follows_from_the_turn(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear, cost_s=0.001)
    assert pauses == [pytest.approx(0.001 * module.REST)]


async def test_who_walks_rests_when_everybody_has_been_written_to(
    turns: Turns, topics: LocalTopics, ear: Ear, clock: Clock, pauses: Pauses
) -> None:
    """And keeps nobody who went out in the same turn from their own."""
    crowded = topics.get(LOUD)
    other = Topic(OrgId.from_operator("acme"), "k", "other")
    topics.hold(other, KIND)[0].holders = module.LIGHT
    assert crowded is not None
    crowded.walk = Walk([])
    ear.cost_s = 0.001
    turns.on_messages([message(1), message(2, other.channel)])
    assert pauses == [pytest.approx(0.001 * module.REST)]
    await loop_turn()
    clock.now += 0.002
    assert len(pauses) == 1
    crowded.walk = None
    await loop_turn()
    assert pauses[1] == pytest.approx(0.003 * module.REST)


async def test_a_rest_is_no_longer_than_join_ms(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear, cost_s=5.0)
    assert pauses == [0.02]


async def test_what_few_listen_to_does_not_rest(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    ear.cost_s = 5.0
    for number in range(3):
        turns.on_messages([message(number, QUIET)])
        await loop_turn()
    assert ear.turns == [[b"0"], [b"1"], [b"2"]]
    assert pauses == []


async def test_without_join_ms_nobody_rests(topics: LocalTopics, ear: Ear, clock: Clock, pauses: Pauses) -> None:
    turns = Turns(Settings(redis_url="x", database_url="x", join_ms=0), topics, ear, clock)
    await after_a_turn(turns, ear, cost_s=5.0)
    assert pauses == [0]


async def test_what_came_before_a_state_is_seen_before_it(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1)])
    turns.on_state(LOUD, STATE)
    assert ear.turns == [[b"1"], [b"state"]]


async def test_a_state_of_one_topic_does_not_end_the_rest_of_another(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1)])
    turns.on_state(QUIET, STATE)
    assert ear.turns == [[b"state"]]
    pauses.end()
    await after_rest(ear, [[b"state"], [b"1"]])


async def test_a_topic_that_rests_delays_no_other(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1), message(2, QUIET), message(3)])
    assert ear.turns == [[b"2"]]
    pauses.end()
    await after_rest(ear, [[b"2"], [b"1", b"3"]])


async def test_a_turn_ends_when_there_is_enough_to_write(ear: Ear, clock: Clock) -> None:
    topics = LocalTopics()
    crowded = [Topic(OrgId.from_operator("acme"), "k", f"{number}") for number in range(3)]
    for topic in crowded:
        topics.hold(topic, KIND)[0].holders = module.TURN_WORK
    turns = Turns(SETTINGS, topics, ear, clock)
    turns.on_messages([message(number, topic.names.channel.encode()) for number, topic in enumerate(crowded)])
    assert ear.turns == [[b"0"]]
    await after_rest(ear, [[b"0"], [b"1"], [b"2"]])


async def test_topics_take_turns(ear: Ear, clock: Clock) -> None:
    """A loud topic whose rest is over goes to the end of the queue."""
    topics = LocalTopics()
    for key in "abc":
        topics.hold(Topic(OrgId.from_operator("acme"), "k", key), KIND)[0].holders = module.TURN_WORK
    channels = [local.channel for local in topics]
    turns = Turns(Settings(redis_url="x", database_url="x", join_ms=0), topics, ear, clock)
    while len(ear.turns) < 9:
        turns.on_messages([message(index, channel) for index, channel in enumerate(channels)])
        await asyncio.sleep(0)
    assert [turn[0] for turn in ear.turns] == [b"0", b"1", b"2"] * 3


async def test_what_waits_is_bounded(topics: LocalTopics, ear: Ear, clock: Clock, pauses: Pauses) -> None:
    turns = Turns(Settings(redis_url="x", database_url="x", max_waiting_messages=3), topics, ear, clock)
    await after_a_turn(turns, ear)
    for number in range(3):
        turns.on_messages([message(number)])
    assert ear.turns == [[b"0", b"1", b"2"]]
    await after_a_turn(turns, ear)


async def test_a_topic_that_was_taken_out_of_turn_goes_on(turns: Turns, ear: Ear, clock: Clock) -> None:
    """Ready, then taken by a state: neither forgotten nor taken twice."""
    turns.on_messages([message(0, QUIET)])
    turns.on_messages([message(1)])
    turns.on_state(LOUD, STATE)
    assert ear.turns == [[b"0"], [b"1"], [b"state"]]
    await loop_turn()
    clock.now += 1
    turns.on_messages([message(2)])
    await after_rest(ear, [[b"0"], [b"1"], [b"state"], [b"2"]])


async def test_what_cannot_be_dispatched_does_not_stop_the_turns(
    turns: Turns, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(ear, "on_messages", lambda batch: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            turns.on_messages([message(0)])
    turns.on_messages([message(1)])
    await after_rest(ear, [[b"1"]])


async def test_topics_that_are_silent_again_are_forgotten(turns: Turns, ear: Ear) -> None:
    for number in range(100):
        turns.on_messages([message(number, b"%d" % number)])
    await until(lambda: len(turns) == 0)
    assert sum(len(turn) for turn in ear.turns) == 100


async def test_the_end_takes_what_waits(turns: Turns, ear: Ear, pauses: Pauses) -> None:
    await after_a_turn(turns, ear)
    turns.on_messages([message(1)])
    turns.close()
    assert ear.turns == [[b"1"]]
    await loop_turn()
    assert ear.turns == [[b"1"]]
