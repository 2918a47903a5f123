"""Filters and unsubscribing (PROTOCOL sections 3 and 4) over real sockets."""

from __future__ import annotations

from typing import Any

import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import Event, PositionFrame, Verdict
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker, published
from tests.support.peers import Peers

# --- filters


@pytest.mark.parametrize(
    ("wanted", "passes", "fails"),
    [
        ({"p": 456}, {"p": 456, "q": 1}, {"p": 457}),
        ({"p": 456}, {"p": 456.0}, {"p": "456"}),
        ({"s": ["open", "late"]}, {"s": "late"}, {"s": "closed"}),
        ({"p": 1, "s": ["a"]}, {"p": 1, "s": "a"}, {"p": 1}),
        ({"b": True}, {"b": True}, {"b": 1}),
        ({"b": 1}, {"b": 1}, {"b": True}),
        ({}, {}, None),
        ({"p": 2**64 - 1}, {"p": 2**64 - 1}, {"p": 2**63}),
    ],
)
async def test_filters(peers: Peers, wanted: Any, passes: Any, fails: Any) -> None:
    client = await peers.join()
    await client.joined({"topic": "room:a", "filter": wanted})
    if fails is not None:
        await client.publish("room:a", "no", tags=fails)
    await client.publish("room:a", "yes", tags=passes)
    await client.expect(Event, data="yes")
    await client.unsubscribe("room:a")
    await client.joined({"topic": "room:a", "filter": wanted, "since": "start"})
    await client.expect(Event, data="yes")
    await client.nothing_came()


async def test_an_event_without_tags_passes_no_filter(peers: Peers) -> None:
    client = await peers.join()
    await client.joined({"topic": "room:a", "filter": {"p": 1}}, "room:b")
    await client.publish("room:a", "no")
    await live_marker(client, client, "room:b")


async def test_a_filtered_subscription_is_told_its_position_after_500_skipped_events(peers: Peers) -> None:
    writer, reader = await peers.join(), await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "big:a", "filter": {"n": 1}})
    for number in range(501):
        await writer.send({"type": "publish", "id": number, "topic": "big:a", "name": "n", "data": None})
    told = await reader.expect(PositionFrame, topic="big:a", epoch=verdict.epoch)
    assert told.seq in (500, 501)  # the last two may come together, and are skipped together
    for number in range(501):
        await writer.answer_to(number)
    await reader.nothing_came()


async def test_a_filtered_subscription_is_told_its_position_after_a_while(
    hub_with: HubWith, encoding: Encoding
) -> None:
    peers = await hub_with(encoding=encoding, position_skip_s=0.3)
    client = await peers.join()
    (verdict,) = await client.joined({"topic": "room:a", "filter": {"n": 1}})
    await published(client, "room:a", 3)
    while (await client.expect(PositionFrame, topic="room:a", epoch=verdict.epoch)).seq != 3:
        pass  # they took longer than that


async def test_a_filtered_replay_tells_its_position_too(hub_with: HubWith) -> None:
    peers = await hub_with(position_skip_events=5)
    writer = await peers.join()
    epoch = await published(writer, "room:a", 12)
    reader = await peers.join("u2", subscribe=[{"topic": "room:a", "since": "start", "filter": {"n": 1}}])
    frame = await reader.expect(PositionFrame, topic="room:a", epoch=epoch)
    assert 5 <= frame.seq <= 12


# --- unsubscribing


async def test_after_the_reply_to_unsubscribe_nothing_of_the_topic_comes(peers: Peers) -> None:
    writer, reader = await peers.join(), await peers.join("u2")
    await reader.joined("big:a", "room:b")
    for number in range(100):
        await writer.send({"type": "publish", "id": number, "topic": "big:a", "name": "n", "data": number})
    await reader.unsubscribe("big:a")
    before = len(reader.came)
    await writer.answer_to(99)
    await writer.publish("big:a", "after")
    await writer.publish("room:b", "end")
    while (await reader.await_kind(Event)).topic != "room:b":
        pass
    assert all(frame.topic != "big:a" for frame in reader.came[before:] if isinstance(frame, Event))


async def test_unsubscribing_succeeds_also_for_what_was_not_subscribed(peers: Peers) -> None:
    client = await peers.join()
    await client.joined("room:a")
    verdicts = await client.unsubscribe("room:a", "room:a", "room:never", "nope:x", "not a topic")
    assert verdicts == [Verdict(t, ok=True) for t in ("room:a", "room:a", "room:never", "nope:x", "not a topic")]


async def test_subscribing_again_at_once_and_many_times(peers: Peers) -> None:
    client = await peers.join()
    for turn in range(20):
        await client.joined("room:a")
        await client.publish("room:a", turn)
        await client.expect(Event, data=turn, seq=turn + 1)
        await client.unsubscribe("room:a")
