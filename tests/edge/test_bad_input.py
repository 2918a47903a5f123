"""Whatever a client sends, the hub answers as PROTOCOL section 11 says, and nobody else loses anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import Error, Event, Pong, Reply, Verdict, Welcome
from tests.edge.conftest import HubWith
from tests.edge.conversation import SHARED_TOPIC as TOPIC
from tests.edge.conversation import code_of, live_marker
from tests.support.peers import Peers
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.usefixtures("witness")


async def joined(peers: Peers, **hello: Any) -> RawClient:
    """The client under test: it listens to the topic that the others use."""
    return await peers.join("bad", subscribe=[{"topic": TOPIC}], **hello)


async def answer(client: RawClient) -> Error:
    """The next error; events may come before it."""
    return await client.await_kind(Error)


async def alive(client: RawClient) -> None:
    """The connection lives on and does what it should."""
    await client.send({"type": "ping", "id": "alive"})
    assert (await client.await_kind(Pong)).id == "alive"
    await client.await_kind(Event)


# --- messages that are no frames


NOT_FRAMES = [
    "",
    " ",
    "nope",
    "{",
    "[]",
    "null",
    "5",
    '"x"',
    "{}",
    '{"type":5}',
    '{"type":null}',
    '{"id":1}',
    "\ufeff{}",
]


@pytest.mark.parametrize("text", [*NOT_FRAMES, '{"type":"ping"}{', '{"type":"ping",}', "\x00", '{"type":"ping"}\x00'])
async def test_text_that_is_no_frame(peers: Peers, text: str) -> None:
    client = await joined(peers, encoding=Encoding.JSON)
    await client.send_raw(text)
    assert (await answer(client)).code == "bad_request"
    await alive(client)


@pytest.mark.parametrize(
    "message",
    [
        *(b"", b"\xc1", b"\x80", b"\x81", b"\x91\x01", b"\xc0", b"\xd6\xff\x00\x00\x00\x00", b"\x91" * 100_000),
        *(b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
        *(b"\x81\x80\x01", b"\x81\xa1\xff\x01", b"\x81\xa4type", b"\x81\xa4type\x01", b"\x81\xa4type\xa4pin"),
        *(b"\x81\xa4type\xa1\xff", b"\x81\xa4type\xa4ping\x00"),
    ],
)
async def test_binary_that_is_no_frame(peers: Peers, message: bytes) -> None:
    client = await joined(peers, encoding=Encoding.MSGPACK)
    await client.send_raw(message)
    assert (await answer(client)).code == "bad_request"
    await alive(client)


async def test_the_wrong_kind_of_message(peers: Peers) -> None:
    client = await joined(peers)
    await client.send_raw(b"\x81" if peers.encoding is Encoding.JSON else '{"type":"ping"}')
    assert (await answer(client)).code == "bad_request"
    await alive(client)


@pytest.mark.parametrize("kind", ["nope", "", "welcome", "event", "PING", "x" * 100_000, "hello ", "__class__"])
async def test_an_unknown_type_is_named_with_its_id(peers: Peers, kind: str) -> None:
    client = await joined(peers)
    await client.send({"type": kind, "id": "u"})
    error = await answer(client)
    assert (error.code, error.id) == ("unknown_type", "u")
    assert len(error.message) < 300
    await alive(client)


WRONG_TYPES: list[dict[str, Any]] = [
    {"type": "subscribe", "topics": "room:a"},
    {"type": "subscribe", "topics": None},
    {"type": "subscribe", "topics": {"room:a": {}}},
    {"type": "subscribe"},
    {"type": "unsubscribe", "topics": [1]},
    {"type": "unsubscribe"},
    {"type": "publish", "topic": [], "name": "n", "data": 1},
    {"type": "publish"},
    {"type": "call", "method": 5},
    {"type": "call"},
    {"type": "auth", "token": 5},
    {"type": "auth"},
    {"type": "ack", "positions": {"room:a": {"epoch": "x", "seq": -1}}},
    {"type": "ack", "positions": {"room:a": {"epoch": "x", "seq": 2**54}}},
    {"type": "ack"},
    {"type": "hello", "services": [5]},
    {"type": "hello", "resume": "s_x"},
    {"type": "hello", "token": 5},
]


@pytest.mark.parametrize("frame", WRONG_TYPES)
async def test_fields_of_the_wrong_type(peers: Peers, frame: dict[str, Any]) -> None:
    client = await joined(peers)
    await client.send({**frame, "id": "w"})
    error = await answer(client)
    assert error.code == "bad_request"
    assert error.id in ("w", None)
    assert len(error.message) < 300
    await alive(client)


async def test_unknown_fields_are_ignored(peers: Peers) -> None:
    client = await joined(peers)
    await client.send({"type": "ping", "id": 1, "new": {"field": [1, {"x": None}]}, "": 0})
    assert (await client.await_kind(Pong)).id == 1


async def test_frames_before_the_hello_and_two_hellos(peers: Peers) -> None:
    early = await peers.open(peers.token("bad"))
    await early.send({"type": "publish", "id": 1, "topic": TOPIC, "name": "n", "data": "early"})
    await early.send_if_open({"type": "hello"})
    assert await early.close_code() == 4400
    client = await joined(peers)
    for _ in range(3):
        await client.send({"type": "hello", "id": "again", "subscribe": [{"topic": "room:b"}]})
        error = await answer(client)
        assert (error.code, error.id) == ("bad_request", "again")
    await alive(client)


async def test_twenty_bad_frames_within_ten_seconds_are_4400(peers: Peers) -> None:
    client = await joined(peers)
    for number in range(25):
        await client.send_if_open({"type": "nope", "id": number})
    assert await client.close_code() == 4400
    errors = [frame.id for frame in client.came if isinstance(frame, Error)]
    assert errors == list(range(20))


async def test_nineteen_bad_frames_are_forgiven(peers: Peers) -> None:
    client = await joined(peers)
    for number in range(19):
        await client.send({"type": "nope", "id": number})
    await alive(client)


# --- too much of everything


async def test_ten_thousand_topics_in_one_subscribe(peers: Peers) -> None:
    client = await joined(peers)
    topics = [{"topic": f"room:n{number}"} for number in range(10_000)]
    result = await client.result({"type": "subscribe", "topics": topics}, 30)
    verdicts = msgspec.convert(result["topics"], list[Verdict])
    assert [verdict.topic for verdict in verdicts] == [item["topic"] for item in topics]
    assert sum(verdict.ok for verdict in verdicts) == peers.hub.settings.max_topics_per_connection - 1
    assert {code_of(verdict) for verdict in verdicts if not verdict.ok} == {"too_many_topics"}
    await alive(client)


async def test_more_than_ten_thousand_topics_in_one_frame(peers: Peers) -> None:
    client = await joined(peers)
    await client.send({"type": "subscribe", "id": 1, "topics": [0] * 10_001})
    assert (await answer(client)).code == "bad_request"
    await alive(client)


async def test_a_topic_name_of_almost_a_megabyte(peers: Peers) -> None:
    client = await joined(peers)
    name = "room:" + "x" * 1_000_000
    before = len(client.raw)
    await client.send({"type": "subscribe", "id": 1, "topics": [{"topic": name}]})
    verdict = msgspec.convert((await client.answer_to(1)).result["topics"][0], Verdict)  # type: ignore[union-attr]
    assert code_of(verdict) == "not_found"
    await client.send({"type": "unsubscribe", "id": 2, "topics": [name]})
    await client.answer_to(2)
    await client.send({"type": "publish", "id": 3, "topic": name, "name": "n", "data": 1})
    assert (await client.answer_to(3)).code == "not_found"  # type: ignore[union-attr]
    # The answers do not carry it back.
    assert max(len(raw) for raw in client.raw[before:]) < 2000
    await alive(client)


async def test_a_message_that_is_too_large_is_4413(peers: Peers) -> None:
    client = await joined(peers)
    limit = peers.hub.settings.max_message_bytes
    await client.send({"type": "ping", "id": "just", "x": "x" * (limit - 100)})
    assert (await client.await_kind(Pong)).id == "just"
    await client.send_if_open({"type": "ping", "x": "x" * limit})
    assert await client.close_code() == 4413


async def test_positions_that_cannot_be(peers: Peers) -> None:
    client = await joined(peers)
    await client.unsubscribe(TOPIC)
    for since in ({"epoch": "never", "seq": 1}, {"epoch": "", "seq": 2**53}, {"epoch": "\u0000", "seq": 0}):
        (verdict,) = await client.joined({"topic": TOPIC, "since": since})
        assert verdict.recovered is False
        await client.send({"type": "ack", "positions": {TOPIC: since}})
        await client.unsubscribe(TOPIC)
    client = await joined(peers)
    await alive(client)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 30, "9" * 5000, "1e-400", "18446744073709551616"])
async def test_a_filter_on_a_number_too_large(peers: Peers, number: str) -> None:
    client = await joined(peers, encoding=Encoding.JSON)
    await client.send_raw(
        f'{{"type":"subscribe","id":1,"topics":[{{"topic":"room:b","filter":{{"n":{number}}}}},{{"topic":"room:c"}}]}}'
    )
    reply = await client.answer_to(1)
    assert isinstance(reply, Reply)
    odd, good = msgspec.convert(reply.result["topics"], list[Verdict])
    assert odd.ok or code_of(odd) == "bad_request"
    assert odd.topic == "room:b"
    assert good.ok
    await alive(client)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64 - 1, -(2**63)])
async def test_a_filter_on_an_odd_number_in_msgpack(peers: Peers, value: float) -> None:
    client = await joined(peers, encoding=Encoding.MSGPACK)
    await client.joined({"topic": "room:b", "filter": {"n": value}})
    await client.publish("room:b", tags={"n": 1})
    await alive(client)


@pytest.mark.parametrize("depth", [66, 1000, 100_000, 400_000])
@pytest.mark.parametrize("where", ["data", "params", "topics", "filter", "unknown", "id"])
async def test_deep_nesting(peers: Peers, where: str, depth: int) -> None:
    client = await joined(peers)
    nested = b"[" * depth + b"]" * depth if peers.encoding is Encoding.JSON else b"\x91" * depth + b"\x90"
    frame = {"type": "publish", "topic": "room:b", "name": "n", "method": "test.echo", "topics": [], "id": 1}
    frame["type"] = {"data": "publish", "params": "call", "unknown": "ping", "id": "ping"}.get(where, "subscribe")
    outer, inner = (where, b"") if where != "filter" else ("topics", b"filter")
    frame.pop(outer, None)
    await client.send_raw(with_field(peers.encoding, frame, outer, nested, inner.decode()))
    while not isinstance(frame_back := await client.receive(), Error | Reply | Pong):
        pass
    if where == "data":
        assert isinstance(frame_back, Error)
    await alive(client)


def with_field(encoding: Encoding, frame: dict[str, Any], name: str, value: bytes, inner: str) -> str | bytes:
    """``frame`` with one field more that no encoder would write; ``inner``: it is a topic's field of this name."""
    if encoding is Encoding.JSON:
        if inner:
            value = b'[{"topic":"room:b","' + inner.encode() + b'":' + value + b"}]"
        return (msgspec.json.encode(frame)[:-1] + b',"' + name.encode() + b'":' + value + b"}").decode()
    if inner:
        item = msgspec.msgpack.encode({"topic": "room:b"})
        value = b"\x91" + bytes([item[0] + 1]) + item[1:] + msgspec.msgpack.encode(inner) + value
    head = msgspec.msgpack.encode(frame)
    return bytes([head[0] + 1]) + head[1:] + msgspec.msgpack.encode(name) + value


async def test_a_flood_of_frames_is_slowed_and_all_are_answered(hub_with: HubWith) -> None:
    peers = await hub_with(max_pending_frames=4)
    client = await peers.join("flood", subscribe=[{"topic": TOPIC}])
    for number in range(2000):
        await client.send({"type": "ping", "id": number})
    pongs = [await client.expect(Pong) for _ in range(2000)]
    assert [pong.id for pong in pongs] == list(range(2000))
    await live_marker(client, client, TOPIC)


async def test_a_hello_that_is_nonsense_in_every_field(peers: Peers) -> None:
    client = await peers.open(peers.token("bad"))
    await client.send(
        {
            "type": "hello",
            "id": "x",
            "resume": {"session": "../../etc/passwd\u0000{}"},
            "services": ["", "a:b", "finance", "finance", "x" * 100_000],
            "subscribe": [{}, None, {"topic": TOPIC, "since": "start", "last": 1}, {"topic": "\ud7ff\u0000"}],
        }
    )
    welcome = await client.expect(Welcome, id="x", resumed=False)
    oks = [verdict.ok for verdict in welcome.topics]
    assert oks == [False, False, True, False, False, False, False, False, False]
