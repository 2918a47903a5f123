"""read.lua on a real server: its answers are those of a small model in Python, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from hub.fanout.broker import AnyEpoch, HistoryPage
from hub.fanout.scripts import READ
from hub.protocol.frames import Position
from hub.topics.kinds import History
from tests.support.redis_world import World, draft, page, topic, wanted, world


@pytest.fixture
async def hub(redis_url: str) -> AsyncIterator[World]:
    async with world(redis_url, listening=False) as it:
        yield it


class Model(Struct):
    """A topic as PROTOCOL section 5 describes it. Events are (seq, size)."""

    epoch: str
    previous: str
    base: int
    top: int
    events: list[tuple[int, int]]

    def after(self, after: Any) -> int:
        """The number after which events are due."""
        if after == "top":
            return self.top
        if isinstance(after, int):
            return self.top - after
        if isinstance(after, AnyEpoch):
            return after.seq
        if isinstance(after, Position):
            if after.epoch == self.epoch and after.seq <= self.top:
                return after.seq
            if after.epoch == self.previous:
                return min(after.seq, self.base)
        return 0

    def page(self, after: Any, limit: int, max_bytes: int) -> tuple[list[int], bool]:
        """Numbers of the page, and whether there is more."""
        due = [event for event in self.events if event[0] > self.after(after)]
        taken: list[int] = []
        bytes_ = 0
        for seq, size in due[:limit]:
            if taken and bytes_ + size > max_bytes:
                break
            taken.append(seq)
            bytes_ += size
        return taken, len(taken) < len(due)


class Case(Struct):
    """A topic's past and a question."""

    sizes: list[int]
    fork_at: int | None
    keep: int
    after: Any
    limit: int
    max_bytes: int


AFTER = st.one_of(
    st.sampled_from(["start", "top"]),
    st.integers(0, 60),
    st.builds(AnyEpoch, st.integers(0, 60)),
    st.tuples(st.sampled_from(["now", "before", "never"]), st.integers(0, 60)),
)

CASES = st.builds(
    Case,
    sizes=st.lists(st.integers(1, 300), max_size=45),
    fork_at=st.none() | st.integers(0, 45),
    keep=st.integers(1, 50),
    after=AFTER,
    limit=st.integers(1, 50),
    max_bytes=st.integers(1, 4000),
)


async def build(hub: World, case: Case, key: str) -> Model:
    """Gives a topic that past. A record that names another server is what a failover leaves."""
    subject, bounds = topic(key), History(count=case.keep, bytes=10**9, age_s=3600)
    model = Model((await page(hub.broker, subject, "top")).state.epoch, "", 0, 0, [])
    for number, size in enumerate(case.sizes, 1):
        if number == case.fork_at:
            await hub.redis.command(subject.names.position, "HSET", subject.names.position, "server", "another")
            model.previous, model.base = model.epoch, model.top
        outcome = await hub.broker.publish(draft(subject, b"x" * size, bounds))
        model.epoch, model.top = outcome.epoch, outcome.seq
        model.events = [*model.events, (number, size)][-case.keep :]
    return model


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=CASES)
def test_a_page_is_what_the_model_says(redis_server: Any, case: Case) -> None:
    async def check() -> None:
        async with world(redis_server.unix_url, listening=False) as hub:
            await hub.redis.command("", "FLUSHALL")
            model = await build(hub, case, "model")
            epochs = {"now": model.epoch, "before": model.previous or "none", "never": "0" * 16}
            after = Position(epochs[case.after[0]], case.after[1]) if isinstance(case.after, tuple) else case.after
            answer = await page(hub.broker, topic("model"), after, limit=case.limit, max_bytes=case.max_bytes)
            numbers, more = model.page(after, case.limit, case.max_bytes)
            if after == "top":
                numbers, more = [], False
            assert [event.seq for event in answer.publications] == numbers
            assert answer.more == more
            state = answer.state
            first = model.events[0][0] if model.events else model.top + 1
            assert (state.epoch, state.top, state.first) == (model.epoch, model.top, first)
            assert (state.previous_epoch, state.base) == (model.previous, model.base)

    asyncio.run(check())


async def test_pages_join_without_a_hole(hub: World) -> None:
    subject = topic("pages")
    await hub.broker.publish_many([draft(subject, b"x" * 100, History(count=500)) for _ in range(300)])
    seen: list[int] = []
    answer = await page(hub.broker, subject, "start", limit=37, max_bytes=3000)
    while True:
        seen += [event.seq for event in answer.publications]
        if not answer.more:
            break
        answer = await page(hub.broker, subject, Position(answer.state.epoch, seen[-1]), limit=37, max_bytes=3000)
    assert seen == list(range(1, 301))


async def test_a_fork_shows_at_the_first_read_and_only_once(hub: World) -> None:
    subject = topic("fork")
    first = await hub.broker.publish(draft(subject))
    await hub.redis.command(subject.names.position, "HSET", subject.names.position, "server", "another")
    state = (await page(hub.broker, subject, Position(first.epoch, 1))).state
    assert (state.previous_epoch, state.base, state.top) == (first.epoch, 1, 1)
    assert (await page(hub.broker, subject, "top")).state == state


async def test_what_read_has_made_expires_too(hub: World) -> None:
    subject = topic("read-ttl")
    await page(hub.broker, subject, "top")
    assert await hub.redis.command(subject.names.position, "PTTL", subject.names.position) > 0


async def test_fifty_requests_are_one_batch(hub: World) -> None:
    subjects = [topic(f"batch-{number}") for number in range(50)]
    await hub.broker.publish_many([draft(subject) for subject in subjects])
    connection_reads = await _stat(hub, "total_reads_processed")
    answers = await hub.broker.read([wanted(subject) for subject in subjects])
    assert all(isinstance(answer, HistoryPage) and len(answer.publications) == 1 for answer in answers)
    # One for the batch and one for the question itself.
    assert await _stat(hub, "total_reads_processed") - connection_reads == 2


async def test_an_unknown_script_is_loaded_and_only_its_calls_repeated(hub: World) -> None:
    subject = topic("noscript")
    await hub.broker.publish(draft(subject))
    await hub.redis.command("", "SCRIPT", "FLUSH")
    answers = await hub.broker.read([wanted(subject)] * 3)
    assert all(isinstance(answer, HistoryPage) for answer in answers)
    assert await hub.redis.command("", "SCRIPT", "EXISTS", READ.sha) == [1]


async def _stat(hub: World, name: str) -> int:
    info = (await hub.redis.command("", "INFO", "stats")).decode()
    return int(info.split(f"{name}:")[1].split()[0])
