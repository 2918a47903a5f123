"""publish.lua on a real server: numbering, history and its bounds, idempotency, epochs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from hub.embedded import RedisServer
from hub.fanout.broker import Published, ServerChanged
from hub.topics.kinds import History
from tests.support.redis_world import KEPT, World, draft, page, restart, topic, world
from tests.support.servers import running_redis
from tests.support.waiting import until


@pytest.fixture
async def hub(redis_url: str) -> AsyncIterator[World]:
    async with world(redis_url, listening=False) as it:
        yield it


async def test_the_first_event_is_number_one_of_an_epoch_and_is_kept(hub: World) -> None:
    subject = topic("first")
    before = time.time() * 1000
    outcome = await hub.broker.publish(draft(subject, b'{"id":"a"}'))
    assert (outcome.seq, outcome.duplicate, len(outcome.epoch)) == (1, False, 16)
    assert [outcome.server] == list((await hub.broker.servers()).values())
    assert outcome.server == await hub.broker.server_of(subject)
    history = await page(hub.broker, subject)
    assert (history.state.epoch, history.state.top, history.state.first) == (outcome.epoch, 1, 1)
    (event,) = history.publications
    assert (event.seq, event.body, event.epoch) == (1, b'{"id":"a"}', outcome.epoch)
    assert abs(event.ts - before) < 60_000


async def test_a_topic_that_was_read_before_its_first_event_keeps_the_epoch(hub: World) -> None:
    subject = topic("quiet")
    state = (await page(hub.broker, subject, "top")).state
    assert (state.top, state.first, state.base, state.previous_epoch) == (0, 1, 0, "")
    outcome = await hub.broker.publish(draft(subject))
    assert (outcome.epoch, outcome.seq) == (state.epoch, 1)


async def test_topics_have_epochs_and_numbers_of_their_own(hub: World) -> None:
    one = await hub.broker.publish_many([draft(topic("a")), draft(topic("b")), draft(topic("a"))])
    assert [item.seq for item in one if isinstance(item, Published)] == [1, 1, 2]
    assert one[0].epoch == one[2].epoch != one[1].epoch


async def test_publish_many_keeps_the_order_of_a_topic(hub: World) -> None:
    subject = topic("order")
    outcomes = await hub.broker.publish_many([draft(subject, b"%d" % number) for number in range(1, 101)])
    assert [item.seq for item in outcomes] == list(range(1, 101))
    assert [event.body for event in (await page(hub.broker, subject)).publications] == [
        b"%d" % number for number in range(1, 101)
    ]


async def test_history_is_bounded_by_count(hub: World) -> None:
    subject, few = topic("count"), History(count=5, bytes=10**6, age_s=3600)
    await hub.broker.publish_many([draft(subject, b"x", few) for _ in range(12)])
    history = await page(hub.broker, subject)
    assert (history.state.top, history.state.first) == (12, 8)
    assert [event.seq for event in history.publications] == [8, 9, 10, 11, 12]


async def test_history_is_bounded_by_bytes_but_the_newest_event_stays(hub: World) -> None:
    subject, small = topic("bytes"), History(count=1000, bytes=1000, age_s=3600)
    await hub.broker.publish_many([draft(subject, b"x" * 152, small) for _ in range(9)])
    assert (await page(hub.broker, subject)).state.first == 5
    await hub.broker.publish(draft(subject, b"y" * 5000, small))
    history = await page(hub.broker, subject)
    assert [event.seq for event in history.publications] == [10]


async def test_a_burst_is_trimmed_by_a_few_events_per_publication(hub: World) -> None:
    subject = topic("burst")
    await hub.broker.publish_many([draft(subject, b"x") for _ in range(50)])
    few = History(count=10, bytes=10**6, age_s=3600)
    firsts = []
    for _ in range(7):
        await hub.broker.publish(draft(subject, b"x", few))
        firsts.append((await page(hub.broker, subject, "top")).state.first)
    assert firsts == [9, 17, 25, 33, 41, 47, 48]


async def test_the_recorded_bytes_are_those_of_what_is_kept(hub: World) -> None:
    subject, small = topic("account"), History(count=7, bytes=2000, age_s=3600)
    for size in (10, 900, 400, 1, 300, 5, 700, 20, 20, 20, 20, 20, 20, 20):
        await hub.broker.publish(draft(subject, b"z" * size, small))
        kept = (await page(hub.broker, subject)).publications
        recorded = int(await hub.redis.command(subject.names.position, "HGET", subject.names.position, "bytes"))
        assert recorded == sum(len(event.body) + 48 for event in kept) <= 2000


async def test_history_is_bounded_by_age(hub: World) -> None:
    subject, short = topic("age"), History(count=1000, bytes=10**6, age_s=1)
    first = await hub.broker.publish(draft(subject, b"old", short))

    async def trimmed() -> bool:
        await hub.broker.publish(draft(subject, b"new", short))
        return (await page(hub.broker, subject)).state.first > first.seq

    await until(trimmed, what="the first event to grow older than a second and go")


async def test_a_history_that_expired_as_a_whole_is_an_empty_one(hub: World) -> None:
    subject = topic("expired")
    await hub.broker.publish_many([draft(subject)] * 3)
    await hub.redis.command(subject.names.history, "DEL", subject.names.history)
    state = (await page(hub.broker, subject, "start")).state
    assert (state.top, state.first) == (3, 4)
    outcome = await hub.broker.publish(draft(subject))
    assert outcome.seq == 4
    history = await page(hub.broker, subject)
    assert ([event.seq for event in history.publications], history.state.first) == ([4], 4)
    recorded = await hub.redis.command(subject.names.position, "HGET", subject.names.position, "bytes")
    assert int(recorded) == len(draft(subject).body) + 48


async def test_everything_expires_and_the_record_outlives_the_history(hub: World) -> None:
    subject = topic("ttl")
    await hub.broker.publish(draft(subject, key="k"))
    names = subject.names
    history, record, key = [
        await hub.redis.command(name, "PTTL", name) for name in (names.history, names.position, names.dedupe + "k")
    ]
    assert KEPT.age_s * 1000 < history < record <= hub.settings.position_ttl_s * 1000
    assert 0 < key <= hub.settings.idempotency_ttl_s * 1000


async def test_a_history_without_its_record_is_deleted(hub: World) -> None:
    subject = topic("orphan")
    first = await hub.broker.publish(draft(subject, b"old"))
    await hub.redis.command(subject.names.position, "DEL", subject.names.position)
    second = await hub.broker.publish(draft(subject, b"new"))
    assert second.seq == 1
    assert second.epoch != first.epoch
    assert [event.body for event in (await page(hub.broker, subject)).publications] == [b"new"]


async def test_a_known_key_answers_the_first_position_and_publishes_nothing(hub: World) -> None:
    subject = topic("dedupe")
    first = await hub.broker.publish(draft(subject, b"one", key="k"))
    await hub.broker.publish(draft(subject, b"two", key="other"))
    again = await hub.broker.publish(draft(subject, b"one", key="k"))
    assert (again.epoch, again.seq, again.duplicate) == (first.epoch, 1, True)
    other_topic = await hub.broker.publish(draft(topic("dedupe-2"), key="k"))
    assert not other_topic.duplicate
    assert [event.body for event in (await page(hub.broker, subject)).publications] == [b"one", b"two"]


async def test_ephemeral_events_have_no_number_and_leave_no_trace(hub: World) -> None:
    subject = topic("ephemeral")
    for event in (draft(subject, ephemeral=True), draft(subject, history=None)):
        outcome = await hub.broker.publish(event)
        assert (outcome.epoch, outcome.seq, outcome.duplicate) == ("", 0, False)
    assert await hub.redis.command("", "DBSIZE") == 0
    await hub.broker.publish(draft(subject, ephemeral=True, key="k"))
    repeated = await hub.broker.publish(draft(subject, ephemeral=True, key="k"))
    assert (repeated.epoch, repeated.seq, repeated.duplicate) == ("", 0, True)


async def test_if_server_refuses_when_it_is_another(hub: World) -> None:
    subject = topic("if-server")
    here = await hub.broker.server_of(subject)
    assert (await hub.broker.publish(draft(subject, if_server=here))).seq == 1
    outcomes = await hub.broker.publish_many([draft(subject, if_server="0" * 40, key="k"), draft(subject)])
    assert isinstance(outcomes[0], ServerChanged)
    assert outcomes[0].server == here
    assert isinstance(outcomes[1], Published)
    assert outcomes[1].seq == 2
    with pytest.raises(ServerChanged):
        await hub.broker.publish(draft(subject, if_server="0" * 40))


async def test_flushall_begins_anew(hub: World) -> None:
    subject = topic("flushed")
    first = await hub.broker.publish(draft(subject))
    await hub.redis.command("", "FLUSHALL")
    second = await hub.broker.publish(draft(subject))
    assert second.seq == 1
    assert second.epoch != first.epoch


@pytest.fixture
def own_server():
    with running_redis(append_only=True, options={"appendfsync": "always"}) as server:
        yield server


@pytest.mark.parametrize("reads_first", [True, False])
async def test_a_restart_with_data_forks_the_epoch(own_server: RedisServer, reads_first: bool) -> None:
    subject, quiet = topic("restart"), topic("restart-quiet")
    async with world(own_server.url, listening=False) as hub:
        first = await hub.broker.publish(draft(subject, b"1", key="k"))
        await hub.broker.publish_many([draft(subject, b"2"), draft(subject, b"3")])
        before = (await page(hub.broker, quiet, "top")).state
        await restart(own_server)
        duplicate = await hub.broker.publish(draft(subject, b"1", key="k"))
        assert (duplicate.epoch, duplicate.seq, duplicate.duplicate) == (first.epoch, 1, True)
        if reads_first:
            assert (await page(hub.broker, subject, "top")).state.base == 3
        after = await hub.broker.publish(draft(subject, b"4"))
        assert after.seq == 4
        assert after.server != first.server
        history = await page(hub.broker, subject)
        state = history.state
        assert (state.epoch, state.previous_epoch, state.base, state.top, state.first) == (
            after.epoch,
            first.epoch,
            3,
            4,
            1,
        )
        assert [event.body for event in history.publications] == [b"1", b"2", b"3", b"4"]
        now = (await page(hub.broker, quiet, "top")).state
        assert (now.previous_epoch, now.base, now.top) == (before.epoch, 0, 0)
