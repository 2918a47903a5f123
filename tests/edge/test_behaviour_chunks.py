"""Chunks and credit (PROTOCOL section 9): handles of a connection, over both sockets and in both encodings."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from hub.edge import handles
from hub.errors import HubError
from hub.protocol.codec import Encoding
from hub.protocol.frames import Credit, Error, Event, Pong, Reply
from tests.edge.conftest import HubWith
from tests.support.intakes import TestIntake
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.running_hub import EVERYTHING
from tests.support.waiting import until


def chunk(client: RawClient, handle: int, offset: int, data: bytes) -> bytes:
    """The message that carries it."""
    if client.encoding is Encoding.JSON:
        return struct.pack("!IQ", handle, offset) + data
    message = client.encode({"type": "chunk", "handle": handle, "offset": offset, "data": data})
    assert isinstance(message, bytes)
    return message


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"type": "call", "method": f"test.{method}", "params": params}


async def intake_of(peers: Peers, client: RawClient, name: str = "one", **params: Any) -> TestIntake:
    """Opens a handle and returns what takes its chunks."""
    result = await client.result(call("intake", name=name, **params))
    intake = peers.hub.service.intakes.of(peers.org, name)
    assert result == {"handle": intake.handle.number, "user": "u1"}
    return intake


async def refused(client: RawClient, code: str, **details: Any) -> Error:
    """The next frame says that a chunk was not taken."""
    return await client.expect(Error, code=code, id=None, topic=None, details=details)


async def test_chunks_arrive_in_order_with_other_frames(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    sizes = [1, 125, 126, 65_535, 65_536, 200_000]
    sent = b""
    for number, size in enumerate(sizes):
        data = bytes([number + 1]) * size
        await client.send_raw(chunk(client, 1, len(sent), data))
        await client.send({"type": "ping", "id": number})
        sent += data
        await client.expect(Pong, id=number)
        assert len(intake.data) == len(sent)  # what was sent before the ping is there before the pong
    assert bytes(intake.data) == sent
    await client.send({"type": "publish", "id": "p", "topic": "events:guest", "name": "n", "data": 1})
    await client.send_raw(chunk(client, 1, len(sent), b"end"))
    await client.expect(Reply, id="p")
    await client.result(call("credit", name="one"))
    assert Credit(1, len(sent) + 3, 1_000_000) in client.came
    assert intake.losses == 0


async def test_each_handle_has_its_own_number(peers: Peers) -> None:
    one, two = await peers.join(), await peers.join()
    first, second = await intake_of(peers, one, "first"), await intake_of(peers, one, "second")
    other = await intake_of(peers, two, "other")
    assert [intake.handle.number for intake in (first, second, other)] == [1, 2, 1]
    for client, handle, data in ((one, 2, b"b"), (two, 1, b"c"), (one, 1, b"a")):
        await client.send_raw(chunk(client, handle, 0, data))
        await client.nothing_came()
    assert [bytes(intake.data) for intake in (first, second, other)] == [b"a", b"b", b"c"]
    await one.result(call("close", name="first"))
    assert (await intake_of(peers, one, "third")).handle.number == 3


async def test_what_the_intake_refuses_is_told_with_the_offset_expected(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    await client.send_raw(chunk(client, 1, 0, b"abc"))
    for _ in range(25):  # no offence: more of them than bad frames are allowed
        await client.send_raw(chunk(client, 1, 7, b"xyz"))
        await refused(client, "offset_mismatch", handle=1, offset=3)
    await client.send_raw(chunk(client, 1, 3, b"def"))
    await client.nothing_came()
    assert bytes(intake.data) == b"abcdef"


async def test_a_handle_that_never_was(peers: Peers) -> None:
    other = await peers.join("u2")
    await other.result(call("intake", name="theirs"))
    client = await peers.join()
    await client.send_raw(chunk(client, 1, 0, b"abc"))
    await refused(client, "not_found", handle=1)
    await intake_of(peers, client)
    await client.send_raw(chunk(client, 2**32 - 1, 2**64 - 1, b"abc"))
    await refused(client, "not_found", handle=2**32 - 1)
    for _ in range(20):
        await client.send_raw_if_open(chunk(client, 0, 0, b"abc"))
    assert await client.close_code() == 4400
    assert peers.hub.service.intakes.of(peers.org, "theirs").data == b""


async def test_chunks_under_way_to_a_closed_handle_are_dropped(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    await client.send(call("close", name="one", code="conflict") | {"id": "close"})
    await refused(client, "conflict", handle=1, state="cancelled")
    await client.expect(Reply, id="close")
    await client.result(call("credit", name="one"))  # it sends none
    for offset in (0, 3):
        await client.send_raw(chunk(client, 1, offset, b"abc"))
    await client.nothing_came()
    assert intake.data == b""
    assert intake.losses == 0
    monkeypatch.setattr(handles, "CLOSED_S", 0.0)
    await client.send_raw(chunk(client, 1, 6, b"abc"))
    await refused(client, "not_found", handle=1)


async def test_a_lost_connection_is_told_once(peers: Peers) -> None:
    client = await peers.join()
    kept, closed = await intake_of(peers, client, "kept"), await intake_of(peers, client, "closed")
    await client.result(call("close", name="closed"))
    client.socket.transport.abort()
    await until(lambda: kept.losses)
    assert (kept.losses, closed.losses) == (1, 0)


async def test_whom_the_hub_closes_may_not_go_on(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    await client.send({"type": "auth", "id": 9, "token": peers.token("somebody-else")})
    assert await client.close_code() == 4401
    await until(lambda: intake.losses)


async def test_a_fresh_token_with_less_scope_ends_the_handle(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    await client.result({"type": "auth", "token": peers.token()})
    await client.send_raw(chunk(client, 1, 0, b"abc"))
    await client.nothing_came()
    await client.send({"type": "auth", "id": 9, "token": peers.token(scope="subscribe:* call:test.echo")})
    await refused(client, "forbidden", handle=1)
    await client.expect(Reply, id=9)
    assert intake.losses == 1
    await client.send_raw(chunk(client, 1, 3, b"def"))
    await client.nothing_came()
    assert intake.data == b"abc"


async def test_the_methods_need_their_scope(peers: Peers) -> None:
    client = await peers.join(scope=EVERYTHING.replace("call:*", "call:test.credit"))
    await client.refusal(call("intake", name="one"), "forbidden")
    await client.refusal(call("intakes", name="one"), "unknown_method")


async def test_no_more_handles_than_allowed(hub_with: HubWith) -> None:
    peers = await hub_with(max_handles=2)
    client = await peers.join()
    for name in ("one", "two"):
        await intake_of(peers, client, name)
    error = await client.refusal(call("intake", name="three"), "quota_exceeded")
    assert error.details == {"limit": 2}
    await client.result(call("close", name="one"))
    await intake_of(peers, client, "three")


async def test_malformed_chunks(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client)
    bad: list[str | bytes] = [chunk(client, 1, 0, b"")]
    if client.encoding is Encoding.JSON:
        bad += [b"", b"\x00" * 11, '{"type":"chunk","handle":1,"offset":0,"data":"YWJj"}']
    else:
        bad += [client.encode({"type": "chunk", "handle": 1, "offset": 0, "data": "text"})]
    for message in bad:
        await client.send_raw(message)
        await client.expect(Error, code="bad_request")
    assert intake.data == b""


async def test_before_the_hello(peers: Peers) -> None:
    client = await peers.open(peers.token())
    await client.send_raw(chunk(client, 1, 0, b"abc"))
    assert await client.close_code() == 4400


async def test_whoever_ignores_the_credit_is_4429(peers: Peers) -> None:
    client = await peers.join()
    intake = await intake_of(peers, client, window=10)
    await client.send_raw(chunk(client, 1, 0, b"0123456789"))
    for _ in range(40):
        await client.send_raw_if_open(chunk(client, 1, 10, b"x"))
    assert await client.close_code() == 4429
    told = [frame for frame in client.came if isinstance(frame, Error)]
    assert [error.code for error in told] == ["rate_limited"] * 20
    assert told[0].details == {"handle": 1, "offset": 10}
    await until(lambda: intake.losses)
    assert len(intake.data) == 10


async def test_an_intake_that_fails_costs_its_connection(peers: Peers) -> None:
    peers.allow_error("connection failed")
    client = await peers.join()
    intake = await intake_of(peers, client)
    await client.send_raw(chunk(client, 1, 0, b"crash"))
    assert await client.close_code() == 4500
    await until(lambda: intake.losses)


async def test_events_go_on_while_chunks_come(peers: Peers) -> None:
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    writer = await peers.join("u2")
    intake = await intake_of(peers, client, window=100_000_000)
    for number in range(20):
        await client.send_raw(chunk(client, 1, number * 200_000, bytes(200_000)))
        await writer.publish("room:a", number)
    assert [(await client.expect(Event)).data for _ in range(20)] == list(range(20))
    await client.nothing_came()
    assert len(intake.data) == 4_000_000


@pytest.mark.parametrize("parts", [1, 3])
async def test_deflated_and_fragmented(peers: Peers, parts: int) -> None:
    extension = ClientPerMessageDeflateFactory(client_no_context_takeover=True)
    token = peers.token()
    client = await peers.open(token, extensions=[extension])
    await client.hello()
    assert bool(client.socket.protocol.extensions) is (peers.hub.kind == "direct")
    intake = await intake_of(peers, client)
    message = chunk(client, 1, 0, b"squeeze" * 20_000)
    size = len(message) // parts + 1
    await client.send_raw([message[at : at + size] for at in range(0, len(message), size)] if parts > 1 else message)
    await client.nothing_came()
    assert bytes(intake.data) == b"squeeze" * 20_000


async def test_a_handle_cannot_be_opened_on_a_connection_that_is_gone(peers: Peers) -> None:
    client = await peers.join()
    await intake_of(peers, client)
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, "u1")
    client.socket.transport.abort()
    await until(lambda: connection.gone)
    caller = handles.Calling(connection, "test.intake", 32)
    with pytest.raises(HubError) as raised:
        caller.open_handle(TestIntake(1))
    assert raised.value.code == "unavailable"
