"""publish.lua on a real server: numbering, history and its bounds, idempotency, conditions, epochs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from hub.embedded import RedisServer
from hub.errors import HubError
from hub.fanout.broker import Published, ServerChanged, TopMoved
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


async def test_if_top_refuses_when_the_newest_event_is_another(hub: World) -> None:
    subject = topic("if-top")
    outcomes = await hub.broker.publish_many([draft(subject, b"%d" % top, if_top=top) for top in (0, 1, 1, 0, 3, 2)])
    tops = [item.top if isinstance(item, TopMoved) else item.seq for item in outcomes if not isinstance(item, HubError)]
    assert [isinstance(item, TopMoved) for item in outcomes] == [False, False, True, True, True, False]
    assert tops == [1, 2, 2, 2, 2, 3]
    assert [event.body for event in (await page(hub.broker, subject)).publications] == [b"0", b"1", b"2"]
    with pytest.raises(TopMoved) as caught:
        await hub.broker.publish(draft(subject, if_top=4))
    assert (caught.value.top, caught.value.server) == (3, await hub.broker.server_of(subject))


async def test_several_events_are_one_step(hub: World) -> None:
    subject, five = topic("several"), History(count=5, bytes=10**6, age_s=3600)
    done = await hub.broker.publish(draft(subject, b"1", five, if_top=0, further=(b"2", b"3", b"4")))
    assert done.seq == 4
    # A writer behind by one gets none of its events in, though the number before its second is the top.
    with pytest.raises(TopMoved):
        await hub.broker.publish(draft(subject, b"no", five, if_top=3, further=(b"no", b"no")))
    assert (await hub.broker.publish(draft(subject, b"5", five, if_top=4, further=(b"6", b"7")))).seq == 7
    history = await page(hub.broker, subject)
    assert [(event.seq, event.body) for event in history.publications] == [(n, b"%d" % n) for n in range(3, 8)]
    again = await hub.broker.publish(draft(subject, b"8", five, key="k", further=(b"9",)))
    assert (again.seq, (await hub.broker.publish(draft(subject, key="k"))).seq) == (9, 9)


async def test_what_is_refused_because_of_its_top_reaches_nobody_and_leaves_no_key(hub: World) -> None:
    subject = topic("if-top-silent")
    with pytest.raises(TopMoved):
        await hub.broker.publish(draft(subject, if_top=1, key="k"))
    assert await hub.redis.command(subject.names.history, "EXISTS", subject.names.history) == 0
    assert not (await hub.broker.publish(draft(subject, if_top=0, key="k"))).duplicate


async def test_a_known_key_is_a_duplicate_whatever_the_top(hub: World) -> None:
    subject = topic("if-top-key")
    first = await hub.broker.publish(draft(subject, if_top=0, key="k"))
    again = await hub.broker.publish(draft(subject, if_top=0, key="k"))
    assert (again.epoch, again.seq, again.duplicate) == (first.epoch, 1, True)


async def test_ephemeral_events_have_no_top(hub: World) -> None:
    subject = topic("if-top-ephemeral")
    for event in (draft(subject, ephemeral=True, if_top=7), draft(subject, history=None, if_top=7)):
        assert (await hub.broker.publish(event)).seq == 0
    assert await hub.redis.command("", "DBSIZE") == 0


async def test_the_server_is_asked_before_the_top(hub: World) -> None:
    subject = topic("if-both")
    with pytest.raises(ServerChanged):
        await hub.broker.publish(draft(subject, if_server="0" * 40, if_top=9))


async def test_a_refusal_keeps_the_epoch_that_it_has_begun(hub: World) -> None:
    subject, forked = topic("if-top-new"), topic("if-top-fork")
    first = await hub.broker.publish(draft(forked))
    await hub.redis.command(forked.names.position, "HSET", forked.names.position, "server", "another")
    for of, base in ((subject, 0), (forked, 1)):
        with pytest.raises(TopMoved) as caught:
            await hub.broker.publish(draft(of, if_top=5))
        assert caught.value.top == base
        names = ("epoch", "previous", "base", "server")
        record = await hub.redis.command(of.names.position, "HMGET", of.names.position, *names)
        assert record[3].decode() == await hub.broker.server_of(of)
        assert await hub.redis.command(of.names.position, "PTTL", of.names.position) > 0
        done = await hub.broker.publish(draft(of, if_top=base))
        state = (await page(hub.broker, of)).state
        assert (done.epoch, done.seq) == (record[0].decode(), base + 1) == (state.epoch, state.top)
        assert (record[1].decode(), int(record[2])) == (state.previous_epoch, state.base)
        assert state.previous_epoch == ("" if of is subject else first.epoch)


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


async def test_a_writer_goes_on_after_a_restart_with_data_and_not_after_one_without(own_server: RedisServer) -> None:
    subject = topic("if-top-restart")
    async with world(own_server.url, listening=False) as hub:
        first = await hub.broker.publish(draft(subject, if_top=0, further=(b"2", b"3")))
        await restart(own_server)
        fourth = await hub.broker.publish(draft(subject, if_top=3))
        assert fourth.seq == 4
        assert fourth.epoch != first.epoch
        await hub.redis.command("", "FLUSHALL")
        with pytest.raises(TopMoved) as caught:
            await hub.broker.publish(draft(subject, if_top=4))
        assert caught.value.top == 0


async def test_a_writer_whose_newest_events_were_lost_is_told_the_top_that_survived(hub: World) -> None:
    subject = topic("if-top-lost")
    names = (subject.names.position, subject.names.history)
    await hub.broker.publish(draft(subject, b"1", if_top=0, further=(b"2",)))
    replicated = [await hub.redis.command(name, "DUMP", name) for name in names]
    await hub.broker.publish(draft(subject, b"lost", if_top=2))
    for name, dump in zip(names, replicated, strict=True):
        await hub.redis.command(name, "RESTORE", name, 0, dump, "REPLACE")
    await hub.redis.command(names[0], "HSET", names[0], "server", "the one before")
    with pytest.raises(TopMoved) as caught:
        await hub.broker.publish(draft(subject, b"4", if_top=3))
    assert caught.value.top == 2
    assert (await hub.broker.publish(draft(subject, b"3", if_top=2))).seq == 3
    history = await page(hub.broker, subject)
    assert [event.body for event in history.publications] == [b"1", b"2", b"3"]
    assert history.state.base == 2


async def test_of_writers_that_all_believe_to_be_the_only_one_one_is(hub: World) -> None:
    subject = topic("if-top-race")
    writers = (hub.broker.publish(draft(subject, b"%d" % number, if_top=0)) for number in range(40))
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sorted(type(item).__name__ for item in outcomes) == ["Published"] + ["TopMoved"] * 39
    assert len((await page(hub.broker, subject)).publications) == 1
