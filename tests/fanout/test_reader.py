"""The reader on a real server: what it hears, and that nothing that is done to its link makes it deaf for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hub.embedded import RedisServer
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import TopicState
from hub.topics.topic import Topic
from tests.support.cut_proxy import CutProxy
from tests.support.redis_world import World, draft, topic, world
from tests.support.servers import client, running_redis
from tests.support.waiting import until


@pytest.fixture
async def hub(redis_url: str) -> AsyncIterator[World]:
    async with world(redis_url) as it:
        yield it


async def subscribed(it: World, *subjects: Topic) -> list[TopicState]:
    """Subscribes and insists on states."""
    outcomes = await it.broker.subscribe(subjects)
    assert all(isinstance(outcome, TopicState) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


async def hears(it: World, subject: Topic, number: int) -> None:
    """Publishes an event and waits until it comes."""
    body = b"heard %d" % number
    await it.broker.publish(draft(subject, body))
    await until(lambda: body in [event.body for event in it.ear.heard(subject)], what=f"{subject} to be heard")


async def test_an_event_arrives_with_its_position(hub: World) -> None:
    subject = topic("arrives")
    (state,) = await subscribed(hub, subject)
    assert (state.top, state.first) == (0, 1)
    outcome = await hub.broker.publish(draft(subject, b"body\nwith a newline"))
    await hub.broker.publish(draft(subject, b"passing", ephemeral=True))
    await until(lambda: len(hub.ear.heard(subject)) == 2)
    kept, passing = hub.ear.heard(subject)
    assert (kept.epoch, kept.seq, kept.body) == (outcome.epoch, 1, b"body\nwith a newline")
    assert (outcome.epoch, outcome.seq) == (state.epoch, 1)
    assert (passing.epoch, passing.seq, passing.body) == ("", 0, b"passing")
    assert 0 <= passing.ts - kept.ts < 60_000


async def test_events_of_one_step_arrive_with_numbers_of_their_own(hub: World) -> None:
    subject = topic("one-step")
    await subscribed(hub, subject)
    await hub.broker.publish(draft(subject, b"1", further=(b"2", b"3")))
    await hub.broker.publish(draft(subject, b"passing", ephemeral=True, further=(b"by",)))
    await until(lambda: len(hub.ear.heard(subject)) == 5)
    came = [(event.seq, event.body) for event in hub.ear.heard(subject)]
    assert came == [(1, b"1"), (2, b"2"), (3, b"3"), (0, b"passing"), (0, b"by")]


async def test_the_state_is_the_one_after_the_subscription_took_effect(hub: World) -> None:
    subject = topic("no-hole")
    busy = True

    async def publish() -> None:
        while busy:
            await hub.broker.publish_many([draft(subject)] * 5)

    publisher = asyncio.create_task(publish())
    try:
        (state,) = await subscribed(hub, subject)
        await until(lambda: len(hub.ear.heard(subject)) > 20)
    finally:
        busy = False
        await publisher
    numbers = [event.seq for event in hub.ear.heard(subject)]
    assert numbers[0] <= state.top + 1
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_messages_of_one_read_are_handed_up_together(hub: World) -> None:
    subject = topic("together")
    await subscribed(hub, subject)
    await hub.broker.publish_many([draft(subject)] * 200)
    await until(lambda: len(hub.ear.heard(subject)) == 200)
    assert len(hub.ear.batches) < 60


async def test_a_call_for_many_topics_is_one_write_and_calls_of_one_turn_share_it(hub: World) -> None:
    before = hub.broker.reader.writes
    subjects = [topic(f"batch-{number}") for number in range(50)]
    await asyncio.gather(hub.broker.subscribe(subjects[:20]), hub.broker.subscribe(subjects[20:]))
    assert hub.broker.reader.writes == before + 1


async def test_a_subscribed_topic_may_be_asked_for_again(hub: World) -> None:
    subject = topic("again")
    await subscribed(hub, subject)
    await hub.broker.publish_many([draft(subject)] * 3)
    (state,) = await subscribed(hub, subject)
    assert state.top == 3
    assert hub.ear.state_of(subject) == []
    await hears(hub, subject, 1)


async def test_an_ended_subscription_hears_nothing_more(hub: World) -> None:
    ended, other = topic("ended"), topic("other")
    await subscribed(hub, ended, other)
    hub.broker.unsubscribe([ended])
    await hears(hub, other, 1)
    await hub.broker.publish(draft(ended))
    # One link brings things in order, so what was published before this would have come before it.
    await hears(hub, other, 2)
    assert hub.ear.heard(ended) == []


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_leaving_and_coming_back_never_deafens(hub: World, turns: int) -> None:
    subjects = [topic(f"race-{number}") for number in range(20)]
    await subscribed(hub, *subjects)
    for number in range(10):
        hub.broker.unsubscribe(subjects)
        for _ in range(turns):
            await asyncio.sleep(0)
        if number % 2:
            waiting = asyncio.create_task(hub.broker.subscribe(subjects))
            await asyncio.sleep(0)
            hub.broker.unsubscribe(subjects)
            await subscribed(hub, *subjects)
            await waiting
        else:
            await subscribed(hub, *subjects)
    for subject in subjects:
        await hears(hub, subject, 1)
    assert hub.broker.reader.wanted == len(subjects)
    with_server = await hub.redis.command("", "PUBSUB", "NUMSUB", *(subject.names.channel for subject in subjects))
    assert set(with_server[1::2]) == {1}


async def test_a_thousand_topics_survive_the_loss_of_the_link(hub: World, redis_server: RedisServer) -> None:
    subjects = [topic(f"many-{number}") for number in range(1000)]
    await subscribed(hub, *subjects)
    with client(redis_server) as link:
        link.client_kill_filter(_type="pubsub")
    await until(lambda: hub.ear.links[-2:] == [False, True], what="the link to be lost and found")
    assert all(len(hub.ear.state_of(subject)) == 1 for subject in subjects)
    await hub.broker.publish_many([draft(subject) for subject in subjects])
    await until(lambda: all(hub.ear.heard(subject) for subject in subjects))
    assert hub.broker.reader.reconnects == 1


async def test_what_was_missed_shows_in_the_state(hub: World, redis_server: RedisServer) -> None:
    subject = topic("missed")
    await subscribed(hub, subject)
    await hears(hub, subject, 1)
    with client(redis_server) as link:
        link.client_kill_filter(_type="pubsub")
        await hub.broker.publish_many([draft(subject)] * 5)
    await until(lambda: hub.ear.state_of(subject))
    assert hub.ear.state_of(subject)[0].top == 6


async def test_an_overflowing_link_is_opened_anew(hub: World, redis_server: RedisServer) -> None:
    subject = topic("overflow")
    await subscribed(hub, subject)
    with client(redis_server) as link:
        link.config_set("client-output-buffer-limit", "pubsub 100kb 0 0")
        try:
            # The event loop stands still meanwhile, so the link does not read.
            for _ in range(400):
                link.publish(subject.names.channel, b"- 0 0\n" + b"x" * 50_000)
        finally:
            link.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")
    await until(lambda: hub.ear.state_of(subject), what="the topic to be subscribed anew")
    await hub.ready()
    await hears(hub, subject, 1)


@pytest.fixture
def own_server():
    with running_redis() as server:
        yield server


async def test_a_stopped_server_is_found_again(own_server: RedisServer) -> None:
    subject, late = topic("stopped"), topic("late")
    async with world(own_server.url, redis_timeout_s=2.0) as hub:
        (first,) = await subscribed(hub, subject)
        own_server.stop()
        await until(lambda: not hub.broker.ready)
        (outcome,) = await hub.broker.subscribe([late])
        assert isinstance(outcome, HubError)
        assert outcome.code is ErrorCode.UNAVAILABLE
        with pytest.raises(HubError, match="not reachable") as refused:
            await hub.broker.publish(draft(subject))
        assert refused.value.code is ErrorCode.UNAVAILABLE
        own_server.start()
        await hub.ready()
        (second,) = hub.ear.state_of(subject)
        assert second.epoch != first.epoch
        assert second.server != first.server
        # It stayed wanted, and nobody waits for its first state any more.
        assert len(hub.ear.state_of(late)) == 1
        await hears(hub, subject, 1)
        await hears(hub, late, 1)


async def test_whoever_waits_while_the_link_is_down_gets_the_state_when_it_is_up(own_server: RedisServer) -> None:
    subject = topic("waits")
    async with world(own_server.url) as hub:
        with client(own_server) as link:
            link.client_kill_filter(_type="pubsub")
        await until(lambda: not hub.broker.ready)
        await subscribed(hub, subject)
        assert hub.ear.state_of(subject) == []
        await hears(hub, subject, 1)


async def test_a_hub_may_start_before_redis(own_server: RedisServer) -> None:
    subject = topic("early")
    own_server.stop()
    async with world(own_server.url, listening=False) as hub:
        await hub.broker.start()
        waiting = asyncio.create_task(subscribed(hub, subject))
        await asyncio.sleep(0)
        own_server.start()
        await waiting
        await hub.ready()
        await hears(hub, subject, 1)


Injury = Callable[[CutProxy], Any]


@pytest.mark.parametrize(
    "hurt",
    [CutProxy.stall, lambda proxy: proxy.stall("to_client"), lambda proxy: proxy.stall("to_target"), CutProxy.cut],
    ids=["stalled", "deaf", "mute", "cut"],
)
async def test_a_hurt_line_is_noticed_and_replaced(redis_server: RedisServer, hurt: Injury) -> None:
    subject = topic("hurt")
    async with (
        CutProxy(("127.0.0.1", redis_server.port or 0)) as proxy,
        world(f"redis://127.0.0.1:{proxy.port}", redis_timeout_s=2.0) as hub,
    ):
        await subscribed(hub, subject)
        hurt(proxy)
        await until(lambda: not hub.broker.ready, what="the loss to be noticed")
        proxy.cut()
        proxy.resume()
        await hub.ready()
        assert hub.ear.state_of(subject)
        await hears(hub, subject, 1)


async def test_a_link_that_is_up_but_deaf_is_replaced(redis_url: str) -> None:
    """Redis forgets our subscriptions and the connection stays: only the probe can tell."""
    subject = topic("deaf")
    async with world(redis_url, probe_timeout_s=0.5) as hub:
        await subscribed(hub, subject)
        supervisor = next(iter(hub.broker.reader._links.values()))
        link = supervisor._link
        assert link is not None
        link.unwatch([subject.names.channel.encode(), link._probe_channel])
        await until(lambda: hub.broker.reader.lost_probes, what="the probe to be missed")
        await hub.ready()
        await hears(hub, subject, 1)


async def test_a_flushed_script_is_loaded_again(hub: World) -> None:
    subject = topic("flushed-script")
    await hub.redis.command("", "SCRIPT", "FLUSH")
    await subscribed(hub, subject)
    await hears(hub, subject, 1)


async def test_a_listener_that_raises_does_not_end_delivery(hub: World, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = topic("raises")
    await subscribed(hub, subject)

    failed: list[object] = []

    def fail(*batch: object) -> None:
        failed.append(batch)
        raise RuntimeError("a fault in the dispatcher")

    with monkeypatch.context() as patch:
        patch.setattr(hub.ear, "on_messages", fail)
        await hub.broker.publish(draft(subject))
        await until(lambda: failed, what="the event to come to the listener")
    await hears(hub, subject, 1)
    assert hub.broker.reader.reconnects == 0
