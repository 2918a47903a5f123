"""What kept events say is replaced in Redis: that and nothing else, whatever goes on at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import HistoryPage, HistoryRequest, Published
from hub.fanout.publisher import NewEvent, Publisher
from hub.fanout.redaction import READS_AT_ONCE, Redaction
from hub.orgs import rewriting_key
from hub.telemetry import Metrics
from hub.topics.kinds import History, SlowPolicy, TopicKind, TopicKinds
from hub.topics.topic import Topic
from tests.support.redis_world import World, draft, page, restart, topic, world
from tests.support.servers import running_redis
from tests.support.topologies import redis_cluster

FEW = History(count=40, bytes=9000, age_s=3600)
KINDS = TopicKinds(
    [
        TopicKind(name="chat"),
        TopicKind(name="few", history=FEW),
        TopicKind(name="typing", history=None, slow=SlowPolicy.GAP),
    ]
)
TALL = 100
"""More events than the script has at a time."""


class Desk:
    """Who publishes and takes back."""

    def __init__(self, hub: World) -> None:
        self.hub = hub
        self.redaction = Redaction(hub.settings, KINDS, hub.broker)
        self.publisher = Publisher(hub.settings, Metrics(), KINDS, hub.broker)

    async def fill(self, subject: Topic, count: int = TALL, data: Any = "secret") -> str:
        """Publishes so many events of different sizes; returns their epoch."""
        for number in range(1, count + 1):
            event = NewEvent(subject.text, "said", [data, "x" * (number % 7)], tags={"n": number})
            done = await self.publisher.publish(subject, event, by="ü1")
        return done.epoch

    async def redact(self, subject: Topic, epoch: str, *numbers: int, data: Any = "gone") -> int:
        return await self.redaction.redact(subject, epoch, dict.fromkeys(numbers, data))

    async def page(self, subject: Topic) -> HistoryPage:
        return await page(self.hub.broker, subject)

    async def bytes(self, subject: Topic) -> int:
        return int(await self.hub.redis.command(subject.names.position, "HGET", subject.names.position, "bytes"))


@pytest.fixture
async def desk(redis_url: str) -> AsyncIterator[Desk]:
    async with world(redis_url, listening=False) as hub:
        yield Desk(hub)


async def test_only_the_data_is_another(desk: Desk) -> None:
    subject = topic("a", "chat")
    epoch = await desk.fill(subject)
    before = await desk.page(subject)
    numbers = (1, 31, 32, 33, 64, 65, TALL)  # around what the script has at a time
    assert await desk.redact(subject, epoch, *numbers, data={"gone": ["é", None, 2**60]}) == len(numbers)
    after = await desk.page(subject)
    assert after.state == before.state
    for old, new in zip(before.publications, after.publications, strict=True):
        assert (new.epoch, new.seq, new.ts) == (old.epoch, old.seq, old.ts)
        if old.seq in numbers:
            assert b"secret" not in new.body
            expected = msgspec.json.decode(old.body) | {"data": {"gone": ["é", None, 2**60]}}
            assert msgspec.json.decode(new.body) == expected
            assert list(msgspec.json.decode(new.body)) == ["id", "name", "data", "tags", "by"]
        else:
            assert new.body == old.body
    assert await desk.bytes(subject) == sum(len(event.body) + 48 for event in after.publications)


async def test_what_follows_is_as_if_it_had_been_published_so(desk: Desk) -> None:
    """Bounds of the history, ``if_top``, reading and numbers."""
    redacted, control = topic("a", "few"), topic("b", "few")
    await desk.fill(control, 30, data="a very long text indeed, which is what was wrong with it")
    epoch = await desk.fill(redacted, 30, data="short")
    long = ["a very long text indeed, which is what was wrong with it"]
    for number in range(1, 31):
        assert await desk.redact(redacted, epoch, number, data=[*long, "x" * (number % 7)]) == 1
    for _ in range(25):
        both = [(await desk.page(subject)).publications for subject in (redacted, control)]
        assert [(item.seq, len(item.body)) for item in both[0]] == [(item.seq, len(item.body)) for item in both[1]]
        assert await desk.bytes(redacted) == await desk.bytes(control)
        top = both[0][-1].seq
        for subject in (redacted, control):
            assert await desk.publisher.append(subject, [("said", "y" * 300)], top) == top + 1
    assert (await desk.page(redacted)).state.first > 1


async def test_the_history_lives_as_long_as_before(desk: Desk) -> None:
    subject = topic("a", "chat")
    epoch = await desk.fill(subject, 3)
    names = subject.names
    for name in (names.history, names.position):
        await desk.hub.redis.command(name, "PEXPIRE", name, 1_000_000)
    await desk.redact(subject, epoch, 2)
    for name in (names.history, names.position):
        assert 900_000 < await desk.hub.redis.command(name, "PTTL", name) <= 1_000_000
    left = rewriting_key(subject.org, subject.text)
    assert await desk.hub.redis.command(left, "EXISTS", left) == 0


async def test_events_that_are_not_there_are_passed_over(desk: Desk) -> None:
    subject = topic("a", "few")
    epoch = await desk.fill(subject, 60)
    first = (await desk.page(subject)).state.first
    assert first > 2
    assert await desk.redact(subject, epoch, 0, 1, first - 1, first, 60, 61, 10**9) == 2
    before = await desk.page(subject)
    assert [event.seq for event in before.publications if b"gone" in event.body] == [first, 60]
    assert await desk.redact(subject, epoch, 1, 61) == 0
    assert await desk.redact(subject, epoch) == 0
    assert await desk.page(subject) == before


async def test_a_script_is_not_misled_by_what_has_gone_meanwhile(desk: Desk) -> None:
    subject = topic("a", "few")
    epoch = await desk.fill(subject, 60)
    first = (await desk.page(subject)).state.first
    before = await desk.page(subject)
    assert await desk.hub.broker.redact(subject, epoch, {1: b"{}", first - 1: b"{}", 61: b"{}"}) == 0
    assert await desk.hub.broker.redact(subject, "another", {first: b"{}"}) == 0
    assert await desk.page(subject) == before
    await desk.hub.redis.command(subject.names.history, "DEL", subject.names.history)
    assert await desk.hub.broker.redact(subject, epoch, {60: b"{}"}) == 0
    nothing = topic("nothing", "few")
    assert await desk.hub.broker.redact(nothing, epoch, {1: b"{}"}) == 0
    assert await desk.hub.redis.command(nothing.names.position, "EXISTS", nothing.names.position) == 0


async def test_another_epoch_has_other_events(desk: Desk) -> None:
    subject = topic("a", "chat")
    epoch = await desk.fill(subject, 3)
    await desk.hub.redis.command(subject.names.position, "HSET", subject.names.position, "server", "another")
    await desk.fill(subject, 1)
    before = await desk.page(subject)
    assert (before.state.previous_epoch, before.state.top) == (epoch, 4)
    assert await desk.redact(subject, epoch, 1, 4) == 0
    assert await desk.page(subject) == before
    # What both epochs have in common goes by the one that there is.
    assert await desk.redact(subject, before.state.epoch, 1, 4) == 2


async def test_redis_is_not_asked_to_change_what_is_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = topic("a", "few")
    epoch = await desk.fill(subject, 60)
    monkeypatch.delattr(type(desk.hub.broker), "redact")
    assert await desk.redact(subject, epoch, 1, 2, 61) == 0
    assert await desk.redact(subject, "another", 60) == 0


@pytest.mark.parametrize(
    ("data", "code"), [("x" * 70_000, ErrorCode.TOO_LARGE), (b"bytes", ErrorCode.BAD_REQUEST), (2**70, "bad_request")]
)
async def test_data_that_cannot_be_published_replaces_nothing(desk: Desk, data: Any, code: str) -> None:
    subject = topic("a", "chat")
    epoch = await desk.fill(subject, 3)
    before = await desk.page(subject)
    with pytest.raises(HubError) as caught:
        await desk.redaction.redact(subject, epoch, {1: "fine", 2: data})
    assert caught.value.code == code
    assert await desk.page(subject) == before


async def test_kinds_that_keep_nothing_have_nothing_to_redact(desk: Desk) -> None:
    assert await desk.redact(topic("a", "typing"), "e", 1) == 0
    with pytest.raises(HubError) as caught:
        await desk.redact(topic("a", "unknown"), "e", 1)
    assert caught.value.code == ErrorCode.NOT_FOUND


async def test_many_at_once_are_read_in_batches_and_written_in_one_step(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = topic("a", "chat")
    epoch = await desk.fill(subject)
    reads: list[int] = []
    written: list[int] = []
    read, redact = desk.hub.broker.read, desk.hub.broker.redact

    async def counted_read(requests: list[HistoryRequest]) -> Any:
        reads.append(len(requests))
        return await read(requests)

    async def counted_redact(subject: Topic, epoch: str, bodies: dict[int, bytes]) -> int:
        written.append(len(bodies))
        return await redact(subject, epoch, bodies)

    monkeypatch.setattr(desk.hub.broker, "read", counted_read)
    monkeypatch.setattr(desk.hub.broker, "redact", counted_redact)
    assert await desk.redact(subject, epoch, *range(1, TALL + 10)) == TALL
    assert written == [TALL]
    assert max(reads) == READS_AT_ONCE
    assert all(b"gone" in event.body for event in (await desk.page(subject)).publications)


async def test_publishing_goes_on_meanwhile(redis_url: str) -> None:
    """Nobody who hears or reads the topic sees a number twice, or misses one."""
    subject = topic("a", "chat")
    async with world(redis_url) as hub:
        desk = Desk(hub)
        await hub.broker.subscribe([subject])
        epoch = await desk.fill(subject)
        over = asyncio.Event()

        async def publish() -> None:
            while not over.is_set():
                outcomes = await hub.broker.publish_many([draft(subject, b'{"id":"1","data":1}', History())] * 10)
                assert all(isinstance(item, Published) for item in outcomes)

        publishing = asyncio.create_task(publish())
        try:
            for number in range(50, 80):
                assert await desk.redact(subject, epoch, number) == 1
                history = await desk.page(subject)
                seqs = [event.seq for event in history.publications]
                assert seqs == list(range(history.state.first, history.state.top + 1))
        finally:
            over.set()
            await publishing
        top = (await desk.page(subject)).state.top
        heard = [event.seq for event in hub.ear.heard(subject)]
        assert heard == list(range(1, len(heard) + 1))
        assert top > TALL + 100


async def test_it_outlives_redis(redis_url: str) -> None:
    subject = topic("a", "chat")
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        async with world(server.url, listening=False) as hub:
            desk = Desk(hub)
            epoch = await desk.fill(subject, 3)
            await desk.redact(subject, epoch, 2)
            before = await desk.page(subject)
            await restart(server)
            after = await desk.page(subject)
            assert [(event.seq, event.ts, event.body) for event in after.publications] == [
                (event.seq, event.ts, event.body) for event in before.publications
            ]
            assert (await desk.publisher.publish(subject, NewEvent(subject.text, "said", 1))).seq == 4


async def test_in_a_cluster() -> None:
    async with redis_cluster() as cluster, world(cluster.url, listening=False) as hub:
        desk = Desk(hub)
        for number in range(6):
            subject = topic(f"c{number}", "chat")
            epoch = await desk.fill(subject, 3)
            assert await desk.redact(subject, epoch, 1, 3) == 2


async def test_without_redis_it_is_unavailable(redis_server: RedisServer) -> None:
    with running_redis() as server:
        async with world(server.url, listening=False, redis_timeout_s=2.0) as hub:
            desk = Desk(hub)
            epoch = await desk.fill(topic("a", "chat"), 1)
            server.stop()
            with pytest.raises(HubError) as caught:
                await desk.redact(topic("a", "chat"), epoch, 1)
            assert caught.value.code == ErrorCode.UNAVAILABLE
            server.start()
