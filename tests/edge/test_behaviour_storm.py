"""Many come at once: they wait in line, and everybody else hears what happens meanwhile. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from hub.fanout.turnstile import Step
from hub.protocol.frames import Event, Position, Welcome
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker, older, published
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.raw_socket import upgrade_request
from tests.support.running_hub import RunningHub
from tests.support.waiting import until

CROWD = 20


@contextlib.asynccontextmanager
async def crowded(hub: RunningHub) -> AsyncIterator[None]:
    """Somebody takes every turn of the turnstile; needs one step per turn."""
    over = asyncio.Event()
    turns = 0

    async def take_every_turn() -> None:
        nonlocal turns
        while not over.is_set():
            await hub.gateway.turnstile.turn(Step.CATCH_UP)
            turns += 1

    taking = asyncio.create_task(hub.within(take_every_turn))
    try:
        await until(lambda: turns > 1, what="the turnstile to be taken")
        yield
    finally:
        hub.loop.call_soon_threadsafe(over.set)
        await taking


async def in_line(hub: RunningHub, count: int) -> None:
    """Waits until ``count`` steps wait."""
    await until(lambda: hub.gateway.turnstile.waiting == count, what=f"{count} in line")


async def crowd(peers: Peers, count: int) -> list[RawClient]:
    """Clients that have not said hello."""
    return [await peers.open(peers.token(f"u{number}")) for number in range(count)]


async def test_events_go_out_while_others_wait_to_come_in(hub_with: HubWith) -> None:
    peers = await hub_with(newcomer_steps_per_turn=1)
    writer = await peers.join("writer")
    reader = await peers.join("reader", subscribe=[{"topic": "room:a"}])
    newcomers = await crowd(peers, CROWD)
    async with crowded(peers.hub):
        for newcomer in newcomers:
            await newcomer.send({"type": "hello", "subscribe": [{"topic": "room:a"}]})
        await in_line(peers.hub, CROWD)
        await live_marker(writer, reader, "room:a")
        assert not any(newcomer.came for newcomer in newcomers)
    for newcomer in newcomers:
        welcome = await newcomer.expect(Welcome)
        assert welcome.topics[0].seq == 1
    await writer.publish("room:a", "for all")
    for client in (reader, *newcomers):
        await client.expect(Event, data="for all")


async def test_everybody_gets_what_was_missed_one_after_the_other(hub_with: HubWith) -> None:
    peers = await hub_with(newcomer_steps_per_turn=1, replay_page_events=4)
    writer = await peers.join("writer")
    epoch = await published(writer, "room:a", 10)
    newcomers = await crowd(peers, CROWD)
    since = Position(epoch, 1)
    asked = {"topic": "room:a", "since": {"epoch": since.epoch, "seq": since.seq}}
    await asyncio.gather(*(newcomer.send({"type": "hello", "subscribe": [asked]}) for newcomer in newcomers))
    await writer.publish("room:a", 11)
    for newcomer in newcomers:
        await newcomer.expect(Welcome)
        assert [event.data for event in await newcomer.events(10)] == list(range(2, 12))


async def test_who_leaves_while_waiting_is_forgotten(hub_with: HubWith) -> None:
    peers = await hub_with(newcomer_steps_per_turn=1)
    newcomers = await crowd(peers, CROWD)
    async with crowded(peers.hub):
        for newcomer in newcomers:
            await newcomer.send({"type": "hello"})
        await in_line(peers.hub, CROWD)
        for newcomer in newcomers:
            newcomer.socket.transport.abort()
        await until(lambda: not len(peers.hub.gateway.connections), what="everybody to be gone")
    await in_line(peers.hub, 0)
    assert peers.hub.gateway.admission.held == 0
    await peers.join()


async def test_a_hello_that_waits_for_the_hub_has_come_in_time(hub_with: HubWith) -> None:
    peers = await hub_with(newcomer_steps_per_turn=1, hello_timeout_s=60.0)
    (newcomer,) = await crowd(peers, 1)
    async with crowded(peers.hub):
        await newcomer.send({"type": "hello"})
        await in_line(peers.hub, 1)
        (connection,) = peers.hub.gateway.connections
        await older(peers, connection, opened_at=61.0)  # the deadline passes
    await newcomer.expect(Welcome)


async def test_other_requests_do_not_wait_behind_the_crowd(hub_with: HubWith) -> None:
    peers = await hub_with(newcomer_steps_per_turn=1)
    request = upgrade_request(peers.hub.port, peers.token())
    async with contextlib.AsyncExitStack() as stack:
        async with crowded(peers.hub):
            reader, writer = await asyncio.open_connection("127.0.0.1", peers.hub.port)
            stack.callback(writer.close)
            writer.write(request[:40])
            await asyncio.sleep(0.02)  # so that it comes in pieces; whether it does changes nothing
            writer.write(request[40:])
            gone = (await asyncio.open_connection("127.0.0.1", peers.hub.port))[1]
            gone.write(request)
            await in_line(peers.hub, 2)
            gone.transport.abort()
            async with httpx.AsyncClient(base_url=peers.hub.http_url, timeout=30) as http:
                assert (await http.get("/health/live")).status_code == 200
            assert not len(peers.hub.gateway.connections)
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 101 Switching Protocols\r\n"
    await in_line(peers.hub, 0)
