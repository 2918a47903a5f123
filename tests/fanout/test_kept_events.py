"""What a service reads of a topic: the pages that Redis gives, decoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.errors import ErrorCode, HubError
from hub.fanout.kept_events import KeptEvent, KeptEvents, Page
from hub.fanout.publisher import NewEvent, Publisher
from hub.telemetry import Metrics
from hub.topics.kinds import History, SlowPolicy, TopicKind, TopicKinds
from tests.support.redis_world import World, topic, world

KINDS = TopicKinds(
    [
        TopicKind(name="content"),
        TopicKind(name="few", history=History(count=3)),
        TopicKind(name="typing", history=None, slow=SlowPolicy.GAP),
    ]
)


class Desk:
    """A service's two ways to a topic."""

    def __init__(self, hub: World) -> None:
        self.hub = hub
        self.events = KeptEvents(hub.settings, KINDS, hub.broker)
        self.publisher = Publisher(hub.settings, Metrics(), KINDS, hub.broker)

    async def fill(self, key: str, count: int, kind: str = "content", data: Any = None) -> None:
        """Publishes so many events; their data are their numbers."""
        new = [("n", data or number) for number in range(1, count + 1)]
        await self.publisher.append(topic(key, kind), new, 0)

    async def read(
        self, key: str, kind: str = "content", *, after: int = 0, last: int | None = None, limit: int = 500
    ) -> Page:
        """A page."""
        return await self.events.read(topic(key, kind), after, last, limit)


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    async with world(redis_url, listening=False, replay_page_events=20, replay_page_bytes=65_536) as hub:
        yield Desk(hub)


def seqs(page: Page) -> list[int]:
    return [event.seq for event in page.events]


async def test_events_come_back_as_they_were_published(desk: Desk) -> None:
    data = {"html": "<p>é</p>", "list": [1, 2.5, None, True]}
    top = await desk.publisher.append(topic("a", "content"), [("chunk", data), ("end", None)], 0)
    tagged = NewEvent("content:a", "other", "x", tags={"t": 1})
    await desk.publisher.publish(topic("a", "content"), tagged, by="u1")
    page = await desk.read("a")
    assert page.events == (KeptEvent(1, "chunk", data), KeptEvent(2, "end", None), KeptEvent(3, "other", "x"))
    assert (page.top, page.more, len(page.epoch)) == (top + 1, False, 16)


@pytest.mark.parametrize(
    ("asked", "expected", "more"),
    [
        ({}, [1, 2, 3, 4, 5, 6], False),
        ({"after": 4}, [5, 6], False),
        ({"after": 2, "limit": 3}, [3, 4, 5], True),
        ({"after": 6}, [], False),
        ({"after": 60}, [], False),
        ({"last": 2}, [5, 6], False),
        ({"last": 0}, [], False),
        ({"last": 60}, [1, 2, 3, 4, 5, 6], False),
        ({"last": 4, "limit": 3}, [3, 4, 5], True),
    ],
)
async def test_a_part(desk: Desk, asked: dict[str, Any], expected: list[int], more: bool) -> None:
    await desk.fill("part", 6)
    page = await desk.read("part", **asked)
    assert (seqs(page), page.more, page.top) == (expected, more, 6)
    assert [event.data for event in page.events] == expected


async def test_pages_are_bounded_in_events_and_bytes_and_join(desk: Desk) -> None:
    await desk.fill("many", 50)
    await desk.fill("large", 4, data="x" * 30_000)
    for key, size, count in (("many", 20, 50), ("large", 2, 4)):
        seen: list[int] = []
        page = await desk.read(key)
        assert page.more
        while page.more:
            assert len(page.events) == size
            seen += seqs(page)
            page = await desk.read(key, after=seen[-1])
        assert seen + seqs(page) == list(range(1, count + 1))


async def test_what_is_no_longer_kept_is_left_out(desk: Desk) -> None:
    await desk.fill("old", 7, "few")
    assert seqs(await desk.read("old", "few", after=2)) == [5, 6, 7]


async def test_a_new_topic_has_an_epoch_and_no_events(desk: Desk) -> None:
    page = await desk.read("new", after=3)
    assert (page.top, page.events, page.more) == (0, (), False)
    await desk.fill("new", 1)
    assert (await desk.read("new")).epoch == page.epoch


async def test_a_number_is_one_of_the_epoch_that_the_topic_has_now(desk: Desk) -> None:
    await desk.fill("forked", 3)
    before = await desk.read("forked")
    name = topic("forked", "content").names.position
    await desk.hub.redis.command(name, "HSET", name, "server", "another")
    assert await desk.publisher.append(topic("forked", "content"), [("n", 4)], 3) == 4
    page = await desk.read("forked", after=2)
    assert seqs(page) == [3, 4]
    assert page.epoch != before.epoch


async def test_a_kind_without_history_and_a_topic_that_cannot_be(desk: Desk) -> None:
    assert await desk.read("x", "typing") == Page("", 0, (), more=False)
    with pytest.raises(HubError) as caught:
        await desk.read("x", "unknown")
    assert caught.value.code == ErrorCode.NOT_FOUND


async def test_redis_that_is_not_there_is_told(redis_url: str) -> None:
    async with world("redis://127.0.0.1:1/0", listening=False, redis_connect_timeout_s=0.2) as hub:
        with pytest.raises(HubError) as caught:
            await Desk(hub).read("x")
        assert caught.value.code == ErrorCode.UNAVAILABLE
