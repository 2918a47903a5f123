"""The frames publish and call (PROTOCOL sections 1, 3, 8) over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import Error, Event, Gap, Pong, Reply
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.waiting import until

# --- publish


async def test_numbers_count_up_without_holes_whoever_publishes(peers: Peers) -> None:
    clients = [await peers.join(f"u{index}") for index in range(3)]
    await clients[0].joined("room:a")

    async def ten(client: RawClient) -> list[dict[str, Any]]:
        return [await client.publish("room:a", number) for number in range(10)]

    results = [result for part in await asyncio.gather(*map(ten, clients)) for result in part]
    assert sorted(result["seq"] for result in results) == list(range(1, 31))
    assert len({result["epoch"] for result in results}) == 1
    assert [event.seq for event in await clients[0].events(30)] == list(range(1, 31))


async def test_frames_take_effect_in_the_order_sent(peers: Peers) -> None:
    client = await peers.join()
    for number in range(20):
        await client.send({"type": "publish", "id": number, "topic": "room:a", "name": "n", "data": number})
    replies = [await client.expect(Reply) for _ in range(20)]
    assert [reply.id for reply in replies] == list(range(20))
    assert [reply.result["seq"] for reply in replies] == list(range(1, 21))


async def test_an_event_with_a_key_happens_once(peers: Peers) -> None:
    client, other = await peers.join(), await peers.join("u2")
    await client.joined("room:a", "room:b")
    first = await client.publish("room:a", "one", key="k")
    assert first["duplicate"] is False
    again = await other.publish("room:a", "two", key="k")
    assert again == {**first, "duplicate": True}
    elsewhere = await client.publish("room:b", "three", key="k")
    assert (elsewhere["seq"], elsewhere["duplicate"]) == (1, False)
    assert {event.data for event in await client.events(2)} == {"one", "three"}
    await live_marker(other, client, "room:a")


async def test_an_ephemeral_event_has_no_number_and_is_not_replayed(peers: Peers) -> None:
    client = await peers.join()
    await client.joined("room:a")
    assert await client.publish("room:a", "passing", ephemeral=True) == {"epoch": "", "seq": 0, "duplicate": False}
    event = await client.expect(Event, data="passing")
    assert event.seq is None
    assert await client.publish("room:a", "kept") != {}
    await client.expect(Event, data="kept", seq=1)
    late = await peers.join("u2", subscribe=[{"topic": "room:a", "since": "start"}])
    await late.expect(Event, data="kept")
    await late.nothing_came()


async def test_publishing_where_one_may_read_but_not_write_is_forbidden(peers: Peers) -> None:
    client = await peers.join(scope="subscribe:* publish:room:b")
    await client.refusal({"type": "publish", "topic": "room:a", "name": "n", "data": 1}, "forbidden")
    assert (await client.publish("room:b"))["seq"] == 1


@pytest.mark.parametrize("topic", ["room:a", "room:private-u9", "nope:x", "no topic", "events:unknown", "user:u9"])
async def test_publishing_what_one_may_not_see_is_not_found_whatever_the_reason(peers: Peers, topic: str) -> None:
    client = await peers.join(scope="subscribe:big:* publish:big:*")
    error = await client.refusal({"type": "publish", "id": 7, "topic": topic, "name": "n", "data": 1}, "not_found")
    assert error == Error("not_found", "no such topic", "never", 7)


async def test_data_larger_than_64_kb_is_too_large_and_just_64_kb_is_not(peers: Peers) -> None:
    client = await peers.join()
    await client.publish("room:a", "x" * (65_536 - 2))
    error = await client.refusal({"type": "publish", "topic": "room:a", "name": "n", "data": "x" * 65_535}, "too_large")
    assert "65536" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "with space"},
        {"name": "x" * 129},
        {"name": "new\n"},
        {"name": 5},
        {"key": ""},
        {"key": "x" * 257},
        {"key": 5},
        {"tags": []},
        {"tags": {"a": [1]}},
        {"tags": {"a": None}},
        {"tags": {"a": "x" * 257}},
        {"tags": {"x" * 257: 1}},
        {"tags": {str(number): 1 for number in range(33)}},
        {"ephemeral": "yes"},
        {"topic": 5},
    ],
)
async def test_malformed_fields_are_a_bad_request_that_names_the_field(peers: Peers, fields: dict[str, Any]) -> None:
    client = await peers.join()
    frame = {"type": "publish", "topic": "room:a", "name": "n", "data": 1} | fields
    error = await client.refusal(frame, "bad_request")
    (name,) = fields
    assert name.rstrip("s") in error.message
    assert (await client.publish("room:a"))["seq"] == 1


@pytest.mark.parametrize("missing", ["topic", "name", "data"])
async def test_missing_fields_are_a_bad_request(peers: Peers, missing: str) -> None:
    client = await peers.join()
    frame = {"type": "publish", "topic": "room:a", "name": "n", "data": 1}
    del frame[missing]
    assert missing in (await client.refusal(frame, "bad_request")).message


async def test_a_request_without_an_id_is_an_error_without_one(peers: Peers) -> None:
    client = await peers.join()
    await client.send({"type": "publish", "topic": "room:a", "name": "n", "data": 1})
    await client.expect(Error, code="bad_request", id=None)


NOT_JSON_IN_JSON = ["18446744073709551616", "-9223372036854775809", "9" * 40, "[" * 70 + "]" * 70]
NOT_JSON_IN_MSGPACK = [
    b"\xc4\x01a",  # binary
    b"\xd4\x05a",  # extension type
    b"\xd6\xff\x00\x00\x00\x01",  # timestamp
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # infinity
    b"\x81\x01\x01",  # a key that is a number
    b"\x81\xc0\x01",  # a key that is nil
    b"\x81\x91\x01\x01",  # a key that is a list
    b"\x81\x80\x01",  # a key that is a map
    b"\x81\xc4\x01a\x01",  # a key that is binary
    b"\x91\x91\xc4\x01a",  # binary, further down
    b"\x91" * 70 + b"\xc0",
]


@pytest.mark.parametrize("data", NOT_JSON_IN_JSON)
async def test_json_data_outside_the_model_is_a_bad_request(peers: Peers, data: str) -> None:
    client = await peers.join(encoding=Encoding.JSON)
    for method, field in (("publish", "data"), ("call", "params")):
        frame = f'"type":"{method}","id":1,"topic":"room:a","name":"n","method":"test.echo"'
        await client.send_raw(f'{{{frame},"{field}":{{"x":{data}}}}}')
        error = await client.expect(Error, code="bad_request", id=1)
        assert field in error.message


async def test_a_tag_outside_the_model_is_a_bad_request_that_names_the_tags(peers: Peers) -> None:
    client = await peers.join(encoding=Encoding.JSON)
    frame = {"type": "publish", "topic": "room:a", "name": "n", "data": 1, "tags": {"a": 2**64}}
    assert "tags" in (await client.refusal(frame, "bad_request")).message


@pytest.mark.parametrize("data", NOT_JSON_IN_MSGPACK)
async def test_msgpack_data_outside_the_model_is_a_bad_request(peers: Peers, data: bytes) -> None:
    client = await peers.join(encoding=Encoding.MSGPACK)
    for field, method in (("data", "publish"), ("params", "call")):
        frame = {"type": method, "id": 1, "topic": "room:a", "name": "n", "method": "test.echo"}
        head = msgspec.msgpack.encode(frame)
        inside = b"\x81" + msgspec.msgpack.encode("x") + data
        await client.send_raw(bytes([head[0] + 1]) + head[1:] + msgspec.msgpack.encode(field) + inside)
        error = await client.expect(Error, code="bad_request")
        assert error.id in (1, None)


# --- calls


async def test_a_call_is_answered_with_what_the_method_returned(peers: Peers) -> None:
    client = await peers.join("anna")
    assert await client.result({"type": "call", "method": "test.echo", "params": {"x": [1, {"y": None}]}}) == {
        "x": [1, {"y": None}]
    }
    assert peers.hub.service.callers[-1] == (peers.org, "anna")
    assert await client.result({"type": "call", "method": "test.echo"}) == {}


async def test_a_method_refuses_with_its_own_error(peers: Peers) -> None:
    client = await peers.join()
    error = await client.refusal({"type": "call", "id": "x", "method": "test.refuse"}, "conflict")
    assert error == Error("conflict", "it has changed", "never", "x", details={"version": 7})


@pytest.mark.parametrize("method", ["test.crash", "test.unencodable"])
async def test_a_method_that_crashes_is_internal_and_tells_nothing(peers: Peers, method: str) -> None:
    peers.allow_error("method failed")
    client = await peers.join()
    error = await client.refusal({"type": "call", "method": method}, "internal")
    assert "on purpose" not in error.message
    assert peers.hub.logs.named("method failed")[-1]["method"] == method
    assert await client.result({"type": "call", "method": "test.echo"}) == {}


@pytest.mark.parametrize("method", ["test.nope", "", "test", "publish", "__init__", "x" * 1000])
async def test_an_unknown_method(peers: Peers, method: str) -> None:
    client = await peers.join()
    error = await client.refusal({"type": "call", "method": method}, "unknown_method")
    assert len(error.message) < 200


async def test_a_method_outside_the_scope_is_forbidden(peers: Peers) -> None:
    client = await peers.join(scope="subscribe:* call:test.e*")
    assert await client.result({"type": "call", "method": "test.echo"}) == {}
    await client.refusal({"type": "call", "method": "test.refuse"}, "forbidden")


@pytest.mark.parametrize("params", [[], "x", 5, None])
async def test_params_must_be_a_map(peers: Peers, params: Any) -> None:
    client = await peers.join()
    await client.refusal({"type": "call", "method": "test.echo", "params": params}, "bad_request")


async def test_only_replies_to_calls_may_overtake(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding)
    client = await peers.join()
    await client.send({"type": "call", "id": "slow", "method": "test.slow"})
    assert await client.result({"type": "call", "id": "quick", "method": "test.echo"}) == {}
    await client.send({"type": "ping", "id": "p"})
    await client.expect(Pong, id="p")
    peers.hub.service.release(peers.hub.loop)
    await client.expect(Reply, id="slow", result="at last")


async def test_more_calls_at_once_than_allowed_are_rate_limited(hub_with: HubWith) -> None:
    peers = await hub_with(max_calls_in_flight=2)
    client = await peers.join()
    for number in range(3):
        await client.send({"type": "call", "id": number, "method": "test.slow"})
    error = await client.expect(Error, id=2, code="rate_limited", retry="later")
    assert error.retry_after_ms is not None
    peers.hub.service.release(peers.hub.loop)
    assert {(await client.expect(Reply)).id for _ in range(2)} == {0, 1}
    assert await client.result({"type": "call", "method": "test.slow"}) == "at last"


async def test_calls_of_a_client_that_leaves_are_cancelled(hub_with: HubWith) -> None:
    peers = await hub_with()
    client = await peers.join()
    await client.send({"type": "call", "id": 1, "method": "test.slow"})
    await until(lambda: peers.hub.service.running == 1, what="the call to run")
    await client.socket.close()
    await until(lambda: peers.hub.service.running == 0, what="the call to be cancelled")


async def test_ephemeral_events_of_a_topic_come_between_the_others_in_order(peers: Peers) -> None:
    client = await peers.join()
    await client.joined("room:a")
    for number in range(10):
        await client.publish("room:a", number, ephemeral=number % 2 == 1)
    assert [event.data for event in await client.events(10)] == list(range(10))
    assert not any(isinstance(frame, Gap) for frame in client.came)
