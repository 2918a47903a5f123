"""Ping, heartbeat, idleness, age, rate limits (PROTOCOL sections 2, 4, 6, 11) over real sockets."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import Error, Event, Heartbeat, Pong, Reply, Welcome
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker, older
from tests.edge.test_behaviour_flags import held_up
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.raw_socket import OPCODE_PING, OPCODE_PONG, OPCODE_TEXT, RawSocket, masked, raw_socket
from tests.support.running_hub import SocketKind


async def test_ping_is_answered_with_its_id_and_the_time(peers: Peers) -> None:
    client = await peers.join()
    for frame_id in (7, "seven", -1, 2**53, "x" * 128):
        await client.send({"type": "ping", "id": frame_id})
        pong = await client.expect(Pong, id=frame_id)
        assert abs(pong.ts - time.time() * 1000) < 60_000
    await client.send({"type": "ping"})
    await client.expect(Pong, id=None)


@pytest.mark.parametrize("frame_id", [2**53 + 1, 1.5, True, [], {}, "x" * 129])
async def test_an_id_must_be_an_integer_or_a_short_text(peers: Peers, frame_id: object) -> None:
    client = await peers.join()
    await client.send({"type": "ping", "id": frame_id})
    await client.expect(Error, code="bad_request", id=None)


async def test_a_ping_of_the_websocket_is_answered(peers: Peers) -> None:
    client = await peers.join()
    async with asyncio.timeout(30):
        await (await client.socket.ping(b"payload"))


async def test_a_heartbeat_comes_when_nothing_else_does(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding, heartbeat_s=0.15)
    client = await peers.join()
    assert peers.welcome.heartbeat_ms == 150
    first, second = await client.expect(Heartbeat), await client.expect(Heartbeat)
    assert second.ts - first.ts >= 140
    await client.joined("room:a")
    await client.publish("room:a", "marker")
    # Where the machine stood still for so long, a heartbeat came before it.
    assert (await client.await_kind(Event)).data == "marker"
    await client.await_kind(Heartbeat)


async def test_no_heartbeat_comes_while_something_else_does(hub_with: HubWith) -> None:
    peers = await hub_with(heartbeat_s=0.5)
    started = before = time.monotonic()
    longest_s = 0.0
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    while before - started < 1.2:
        await client.publish("room:a")
        await client.await_kind(Event)
        await asyncio.sleep(0.02)  # a steady trickle, well within the heartbeat
        before, longest_s = time.monotonic(), max(longest_s, time.monotonic() - before)
    # From one round's event to the next one's it takes two rounds at most. Where the machine was so slow, one was due.
    assert longest_s > 0.2 or not [frame for frame in client.came if isinstance(frame, Heartbeat)]


async def hello_by_hand(link: RawSocket) -> None:
    link.write(masked(b'{"type":"hello"}'))
    frame = await link.frame()
    assert msgspec.json.decode(frame.payload)["type"] == "welcome"


async def test_a_client_that_answers_no_ping_is_4510(hub_with: HubWith, socket_kind: SocketKind) -> None:
    if socket_kind == "asgi":
        pytest.skip("ASGI lets nobody send a ping; the server does that itself")
    peers = await hub_with(heartbeat_s=0.2, pong_timeout_s=0.2)
    async with raw_socket(peers.hub.port, peers.token()) as link:
        await hello_by_hand(link)
        pinged = False
        while (frame := await link.frame()).opcode in (OPCODE_TEXT, OPCODE_PING):
            pinged = pinged or frame.opcode == OPCODE_PING
        assert pinged
        assert frame.close_code == 4510


async def test_a_client_that_answers_pings_stays(hub_with: HubWith, socket_kind: SocketKind) -> None:
    if socket_kind == "asgi":
        pytest.skip("ASGI lets nobody send a ping; the server does that itself")
    peers = await hub_with(heartbeat_s=0.1, pong_timeout_s=30.0)
    async with raw_socket(peers.hub.port, peers.token()) as link:
        await hello_by_hand(link)
        pings = 0
        while pings < 10:  # after one that is not answered there is no other
            if (frame := await link.frame()).opcode == OPCODE_PING:
                pings += 1
                link.write(masked(frame.payload, OPCODE_PONG))


async def test_idle_without_subscription_and_frame_is_4408(hub_with: HubWith) -> None:
    peers = await hub_with(idle_timeout_s=0.4)
    idle = await peers.join("idle")
    subscribed = await peers.join("subscribed", subscribe=[{"topic": "room:a"}])
    await idle.expect(Error, code="timeout", id=None)
    assert await idle.close_code() == 4408
    await live_marker(subscribed, subscribed, "room:a")
    await subscribed.unsubscribe("room:a")
    assert await subscribed.close_code() == 4408


async def test_whoever_says_something_is_not_idle(hub_with: HubWith) -> None:
    peers = await hub_with(idle_timeout_s=60.0)
    client = await peers.join()
    for _ in range(3):
        await older(peers, spoke_at=40.0)  # less than the timeout, and together longer
        await client.nothing_came()
    await older(peers, spoke_at=61.0)
    assert await client.close_code() == 4408


async def test_nothing_comes_before_the_welcome(hub_with: HubWith) -> None:
    """However long the hub takes for it: no heartbeat, and no end for being idle."""
    peers = await hub_with()
    reached, go_on = held_up(peers.hub.gateway.membership, "join")
    client = await peers.open(peers.token())
    await client.send({"type": "hello", "subscribe": [{"topic": "room:a"}]})
    await reached.wait()
    await older(peers, sent_at=60.0, spoke_at=10_000.0)
    go_on.set()
    await client.expect(Welcome)
    await older(peers, sent_at=60.0)
    await client.expect(Heartbeat)


async def test_a_connection_that_is_too_old_is_4504(hub_with: HubWith) -> None:
    peers = await hub_with(session_max_s=0.4)
    client = await peers.join(subscribe=[{"topic": "room:a"}])
    assert await client.close_code() == 4504


# --- rate limits


async def test_too_many_frames_are_rate_limited_and_told_when_to_go_on(hub_with: HubWith, encoding: Encoding) -> None:
    # So few a second that a slow machine does not get them all.
    peers = await hub_with(encoding=encoding, messages_per_second=2, messages_burst=10)
    client = await peers.join()
    limited = await until_limited(client)
    assert limited.id is not None
    assert limited.retry == "later"
    assert limited.retry_after_ms is not None
    assert 0 < limited.retry_after_ms <= 1000
    await asyncio.sleep(limited.retry_after_ms / 1000)  # what the hub asked for
    await client.nothing_came()


async def until_limited(client: RawClient) -> Error:
    for number in range(30):
        await client.send({"type": "ping", "id": number})
        frame = await client.receive()
        if isinstance(frame, Error):
            assert frame.code == "rate_limited"
            return frame
    raise AssertionError("never limited")


async def test_a_limited_frame_is_not_performed(hub_with: HubWith) -> None:
    peers = await hub_with(messages_per_second=1, messages_burst=5)
    writer = await peers.join()
    reader = await peers.join("u2", subscribe=[{"topic": "room:a"}])
    for number in range(15):
        await writer.send({"type": "publish", "id": number, "topic": "room:a", "name": "n", "data": number})
    answers = [await writer.receive() for _ in range(15)]
    performed = [answer.id for answer in answers if isinstance(answer, Reply)]
    assert 5 <= len(performed) < 15
    assert [event.data for event in await reader.events(len(performed))] == performed


async def test_whoever_goes_on_although_limited_is_4429(hub_with: HubWith) -> None:
    peers = await hub_with(messages_per_second=1, messages_burst=1)
    client = await peers.join()
    for number in range(40):
        await client.send_if_open({"type": "ping", "id": number})
    assert await client.close_code() == 4429
    assert sum(isinstance(frame, Error) and frame.code == "rate_limited" for frame in client.came) == 20
    await peers.join("u2")


async def test_the_limit_is_the_users_over_all_connections(hub_with: HubWith) -> None:
    peers = await hub_with(messages_per_second=1, messages_burst=10)
    one, two = await peers.join(), await peers.join()
    other = await peers.join("u2")
    await until_limited(one)
    count = 0
    for number in range(12):
        await two.send({"type": "ping", "id": number})
        count += isinstance(await two.receive(), Error)
    assert count > 0
    await other.nothing_came()
