"""PROTOCOL sections 3 to 5 over real sockets: verdicts, replay, gaps, events."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import ErrorBody, Event, Gap, Reply, Verdict
from tests.edge.conftest import HubWith
from tests.edge.conversation import code_of, live_marker, published
from tests.support.hub_services import SMALL
from tests.support.peers import Peers
from tests.support.raw_client import RawClient

# --- verdicts


async def test_verdicts_come_in_the_order_asked_each_with_its_own_outcome(peers: Peers) -> None:
    client = await peers.join(max=None)
    verdicts = await client.subscribe("room:b", "nope:x", "room:a", {"topic": "room:c", "since": 7}, "room:b")
    assert [verdict.topic for verdict in verdicts] == ["room:b", "nope:x", "room:a", "room:c", "room:b"]
    assert [verdict.ok for verdict in verdicts] == [True, False, True, False, False]
    assert [code_of(verdict) for verdict in verdicts if not verdict.ok] == [
        "not_found",
        "bad_request",
        "already_subscribed",
    ]


async def test_the_existing_subscription_is_untouched_by_a_second_one(peers: Peers) -> None:
    client = await peers.join()
    await client.joined({"topic": "room:a", "filter": {"n": 1}})
    (verdict,) = await client.subscribe({"topic": "room:a", "since": "start"})
    assert code_of(verdict) == "already_subscribed"
    await client.publish("room:a", tags={"n": 2})
    await client.publish("room:a", "wanted", tags={"n": 1})
    await client.expect(Event, data="wanted", seq=2)


@pytest.mark.parametrize(
    "topic",
    [
        *("nope:x", "events:unknown", "user:u1", "user:u2", "room", "room:", ":x", "Room:x", "room:a b", "room:é", ""),
        *("room:private-u2", "room:" + "x" * 129, "control:all", "room:x\n", "_hub/room:x"),
    ],
)
async def test_unknown_foreign_and_hidden_topics_give_the_same_answer(peers: Peers, topic: str) -> None:
    client = await peers.join()
    (verdict,) = await client.subscribe(topic)
    assert verdict == Verdict(topic, False, error=ErrorBody("not_found", "no such topic", "never"))


async def test_a_topic_outside_the_scope_is_not_found(peers: Peers) -> None:
    client = await peers.join(scope="subscribe:room:* subscribe:events:finance")
    verdicts = await client.subscribe("room:a", "big:a", "events:finance", "events:guest", "user:me")
    assert [verdict.ok for verdict in verdicts] == [True, False, True, False, False]
    assert {code_of(verdict) for verdict in verdicts if not verdict.ok} == {"not_found"}


async def test_a_kinds_own_rule_hides_its_topic(peers: Peers) -> None:
    client = await peers.join("anna")
    mine, theirs = await client.subscribe("room:private-anna", "room:private-bert")
    assert mine.ok
    assert code_of(theirs) == "not_found"


async def test_more_topics_than_allowed_are_refused_beyond_the_limit(hub_with: HubWith) -> None:
    peers = await hub_with(max_topics_per_connection=3)
    client = await peers.join(services=["finance"])
    verdicts = await client.subscribe("room:a", "room:b", "room:c", "room:d", "room:a")
    assert [verdict.ok for verdict in verdicts] == [True, True, False, False, False]
    assert [code_of(verdict) for verdict in verdicts[2:]] == [
        "too_many_topics",
        "too_many_topics",
        "already_subscribed",
    ]
    await client.unsubscribe("room:a")
    await client.joined("room:d")


@pytest.mark.parametrize(
    "item",
    [
        5,
        None,
        "room:a",
        [],
        {},
        {"topic": None},
        {"topic": "room:a", "since": "then"},
        {"topic": "room:a", "since": {"epoch": "x"}},
        {"topic": "room:a", "since": {"epoch": "x", "seq": -1}},
        {"topic": "room:a", "since": {"epoch": "x", "seq": 2**60}},
        {"topic": "room:a", "since": {"epoch": "x" * 65, "seq": 1}},
        {"topic": "room:a", "since": {"epoch": 1, "seq": 1}},
        {"topic": "room:a", "last": -1},
        {"topic": "room:a", "last": "3"},
        {"topic": "room:a", "since": "start", "last": 3},
        {"topic": "room:a", "filter": []},
        {"topic": "room:a", "filter": {"a": {}}},
        {"topic": "room:a", "filter": {"a": [[1]]}},
        {"topic": "room:a", "filter": {str(n): 1 for n in range(33)}},
        {"topic": "room:a", "filter": {"a": list(range(257))}},
        {"topic": "room:a", "ack": "yes"},
    ],
)
async def test_a_malformed_item_is_a_bad_request_and_spoils_no_other(peers: Peers, item: Any) -> None:
    client = await peers.join()
    result = await client.result({"type": "subscribe", "topics": [item, {"topic": "room:b"}]})
    malformed, good = msgspec.convert(result["topics"], list[Verdict])
    assert code_of(malformed) == "bad_request"
    assert good.ok
    await client.joined("room:a")


async def test_a_topic_without_events_has_an_epoch_and_its_first_event_is_number_one(peers: Peers) -> None:
    client = await peers.join()
    (verdict,) = await client.joined("room:new")
    assert verdict.seq == 0
    assert verdict.epoch
    assert verdict.recovered is True
    assert await client.publish("room:new") == {"epoch": verdict.epoch, "seq": 1, "duplicate": False}
    await client.expect(Event, seq=1)


async def test_a_kind_without_history_answers_an_empty_position_and_ignores_since(peers: Peers) -> None:
    client = await peers.join()
    items = [{"topic": "typing:a", "since": {"epoch": "x", "seq": 9}}, {"topic": "typing:b", "last": 4}, "typing:c"]
    for verdict in await client.joined(*items):
        assert (verdict.epoch, verdict.seq, verdict.recovered) == ("", 0, True)
    assert await client.publish("typing:a") == {"epoch": "", "seq": 0, "duplicate": False}
    event = await client.expect(Event, topic="typing:a")
    assert event.seq is None


# --- replay


async def test_since_a_position_brings_what_follows_then_what_is_new(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "room:a", 5)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "room:a", "since": {"epoch": epoch, "seq": 2}})
    assert (verdict.epoch, verdict.seq, verdict.recovered) == (epoch, 5, True)
    assert [event.seq for event in await reader.events(3)] == [3, 4, 5]
    await live_marker(writer, reader, "room:a")


async def test_since_the_top_brings_only_what_is_new(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "room:a", 3)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "room:a", "since": {"epoch": epoch, "seq": 3}})
    assert (verdict.seq, verdict.recovered) == (3, True)
    await live_marker(writer, reader, "room:a")


async def test_since_start_brings_everything_kept(peers: Peers) -> None:
    writer = await peers.join()
    await published(writer, "small:a", SMALL + 3)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "small:a", "since": "start"})
    assert (verdict.seq, verdict.recovered) == (SMALL + 3, True)
    assert [event.seq for event in await reader.events(SMALL)] == [4, 5, 6, 7, 8]
    await live_marker(writer, reader, "small:a")


@pytest.mark.parametrize(("asked", "expected"), [(0, []), (2, [4, 5]), (5, [1, 2, 3, 4, 5]), (99, [1, 2, 3, 4, 5])])
async def test_last_n(peers: Peers, asked: int, expected: list[int]) -> None:
    writer = await peers.join()
    await published(writer, "room:a", 5)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "room:a", "last": asked})
    assert (verdict.seq, verdict.recovered) == (5, True)
    assert [event.seq for event in await reader.events(len(expected))] == expected
    await live_marker(writer, reader, "room:a")


@pytest.mark.parametrize("item", [{"topic": "room:a"}, {"topic": "room:a", "since": "now"}])
async def test_without_a_position_it_is_live_only(peers: Peers, item: dict[str, Any]) -> None:
    writer = await peers.join()
    await published(writer, "room:a", 2)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined(item)
    assert (verdict.seq, verdict.recovered) == (2, True)
    await live_marker(writer, reader, "room:a")


async def test_a_long_replay_comes_in_pages_without_a_hole(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding, replay_page_events=7)
    writer = await peers.join()
    await published(writer, "room:a", 50)
    reader = await peers.join("u2", subscribe=[{"topic": "room:a", "since": "start"}])
    await writer.publish("room:a", 51)
    assert [event.data for event in await reader.events(51)] == list(range(1, 52))


async def test_the_verdict_comes_before_every_event_however_many_are_published_meanwhile(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "big:a", 1)
    reader = await peers.join("u2")
    for number in range(2, 102):
        await writer.send({"type": "publish", "id": number, "topic": "big:a", "name": "n", "data": number})
        if number == 50:
            await reader.send({"type": "subscribe", "id": "s", "topics": [{"topic": "big:a", "since": "start"}]})
    first = await reader.receive()
    assert isinstance(first, Reply), first
    events = await reader.events(101)
    assert [event.seq for event in events] == list(range(1, 102))
    assert [event.data for event in events[1:]] == list(range(2, 102))
    assert first.result["topics"][0]["epoch"] == epoch


# --- gaps


async def test_what_is_no_longer_kept_is_one_gap_over_exactly_that_range(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "small:a", 10)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "small:a", "since": {"epoch": epoch, "seq": 2}})
    assert (verdict.seq, verdict.recovered) == (10, False)
    await reader.expect(Gap, topic="small:a", epoch=epoch, reason="expired", from_=3, to=5)
    assert [event.seq for event in await reader.events(SMALL)] == [6, 7, 8, 9, 10]
    await live_marker(writer, reader, "small:a")


@pytest.mark.parametrize("seq", [5, 10])
async def test_the_edges_of_what_is_kept_have_no_gap(peers: Peers, seq: int) -> None:
    writer = await peers.join()
    epoch = await published(writer, "small:a", 10)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "small:a", "since": {"epoch": epoch, "seq": seq}})
    assert verdict.recovered is True
    assert [event.seq for event in await reader.events(10 - seq)] == list(range(seq + 1, 11))
    await live_marker(writer, reader, "small:a")


async def test_a_position_beyond_the_top_is_another_epochs(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "small:a", 7)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "small:a", "since": {"epoch": epoch, "seq": 8}})
    await everything_after_an_epoch_change(reader, verdict, epoch)
    await live_marker(writer, reader, "small:a")


@pytest.mark.parametrize("since", [{"epoch": "neverwas", "seq": 3}, {"epoch": "", "seq": 0}, {"epoch": "x", "seq": 99}])
async def test_an_epoch_that_never_was(peers: Peers, since: dict[str, Any]) -> None:
    writer = await peers.join()
    epoch = await published(writer, "small:a", 7)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "small:a", "since": since})
    await everything_after_an_epoch_change(reader, verdict, epoch)
    await live_marker(writer, reader, "small:a")


async def everything_after_an_epoch_change(reader: RawClient, verdict: Verdict, epoch: str) -> None:
    assert (verdict.epoch, verdict.seq, verdict.recovered) == (epoch, 7, False)
    await reader.expect(Gap, topic="small:a", epoch=epoch, reason="epoch_changed", from_=None, to=None)
    assert [event.seq for event in await reader.events(SMALL)] == [3, 4, 5, 6, 7]


async def test_what_one_may_not_see_is_announced_and_never_replayed(peers: Peers) -> None:
    writer = await peers.join()
    epoch = await published(writer, "late:a", 4)
    reader = await peers.join("u2")
    (verdict,) = await reader.joined({"topic": "late:a", "since": {"epoch": epoch, "seq": 0}})
    assert verdict.recovered is False
    await reader.expect(Gap, epoch=epoch, reason="not_permitted", from_=1, to=2)
    assert [event.seq for event in await reader.events(2)] == [3, 4]
    for item in ({"topic": "late:a", "last": 4}, {"topic": "late:a", "since": "start"}):
        await reader.unsubscribe("late:a")
        await reader.joined(item)
        assert [event.seq for event in await reader.events(2)] == [3, 4]
    await live_marker(writer, reader, "late:a")


# --- events


async def test_an_event_has_all_its_fields(peers: Peers) -> None:
    client = await peers.join("anna")
    await client.joined("room:a")
    await client.publish("room:a", {"x": [1, None, "é"]}, name="a.b:c_d-1", tags={"p": 1, "q": "r", "s": True})
    event = await client.expect(Event, topic="room:a", seq=1, name="a.b:c_d-1", by="anna")
    assert event.data == {"x": [1, None, "é"]}
    assert event.tags == {"p": 1, "q": "r", "s": True}
    assert event.ts > 1_700_000_000_000
    assert event.id


async def test_event_frames_are_byte_for_byte_the_same_for_every_subscriber(peers: Peers) -> None:
    one = await peers.join("u1", subscribe=[{"topic": "room:a"}])
    two = await peers.join("u2", subscribe=[{"topic": "room:a", "filter": {"n": 1}}])
    await one.publish("room:a", {"x": 1}, tags={"n": 1})
    await one.expect(Event)
    await two.expect(Event)
    late = await peers.join("u3", subscribe=[{"topic": "room:a", "last": 1}])
    await late.expect(Event)
    frames = {raw for client in (one, two, late) for raw in client.raw if b"event" in raw}
    assert len(frames) == 1


async def test_json_and_msgpack_subscribers_get_the_same_event(peers: Peers) -> None:
    readers = [await peers.join(f"u{index}", encoding=encoding) for index, encoding in enumerate(Encoding)]
    for reader in readers:
        await reader.joined("room:a")
    data = {"int": 2**63, "negative": -(2**63), "float": 0.1, "text": 'é\u0000"', "list": [None, True], "m": {"": {}}}
    await readers[0].publish("room:a", data)
    first, second = [await reader.expect(Event) for reader in readers]
    assert first == second
    assert first.data == data


async def test_the_inbox_is_always_written_user_me(peers: Peers) -> None:
    anna = await peers.join("anna", subscribe=[{"topic": "user:me"}])
    bert = await peers.join("bert", subscribe=[{"topic": "user:me"}])
    await bert.publish("user:anna", "for anna")
    await anna.expect(Event, topic="user:me", data="for anna", by="bert")
    await anna.publish("user:me", "a note to myself")
    await anna.expect(Event, topic="user:me", data="a note to myself")
    await anna.publish("user:bert", "for bert")
    await bert.expect(Event, topic="user:me", data="for bert")


async def test_a_user_whose_name_is_no_topic_key_has_an_inbox_of_hash_name(peers: Peers) -> None:
    name = "anna@example.com|7"
    key = "~" + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()
    anna = await peers.join(name, subscribe=[{"topic": "user:me"}])
    assert peers.welcome.topics[0].ok
    assert peers.welcome.user == name
    bert = await peers.join("bert")
    await bert.publish(f"user:{key}", "hello")
    await anna.expect(Event, topic="user:me", data="hello")
