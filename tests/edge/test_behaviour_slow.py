"""Clients that read too slowly (PROTOCOL section 6): the policies of the kinds, and 4508.

Kernel buffers take a few megabytes by themselves, so the events here are large. What a slow client gets is judged as a
whole: events and gaps together must cover every number once, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from hub.edge.connection import Connection
from hub.protocol.frames import Event, Gap, Pong, ServerFrame
from tests.edge.conftest import HubWith
from tests.edge.conversation import live_marker
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.raw_socket import masked, raw_socket
from tests.support.waiting import until

EVENTS = 150
FILLING = "x" * 60_000
QUICK = {"unsent_high_bytes": 16_384}


def narrow(port: int) -> socket.socket:
    """A TCP connection whose kernel takes little that nobody reads."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", port))
    link.setblocking(False)
    return link


async def slow_reader(peers: Peers, topic: str, **item: Any) -> RawClient:
    """A client that reads nothing by itself: the library takes one message and then leaves the rest unread."""
    client = await peers.open(peers.token("slow"), sock=narrow(peers.hub.port), max_queue=1)
    await client.hello(subscribe=[{"topic": topic, **item}])
    return client


def connection_of(peers: Peers, user: str) -> Connection:
    (found,) = [c for c in peers.hub.gateway.connections if c.principal is not None and c.principal.user == user]
    return found


async def flood(writer: RawClient, topic: str, count: int = EVENTS) -> None:
    for number in range(1, count + 1):
        tags = {"symbol": f"s{number % 3}"}
        await writer.publish(topic, [number, FILLING], tags=tags)


async def congested(peers: Peers) -> None:
    await until(lambda: connection_of(peers, "slow").congested, what="the client to be congested")


async def read_until(client: RawClient, last: int) -> list[ServerFrame]:
    """Reads until the event with the number ``last``, or a gap up to it."""
    frames: list[ServerFrame] = []
    while True:
        frame = await client.receive()
        assert isinstance(frame, Event | Gap), frame
        frames.append(frame)
        if (frame.seq if isinstance(frame, Event) else frame.to) == last:
            return frames


def assert_covers(frames: list[ServerFrame], top: int) -> None:
    """Every number once, in order: as an event or within a gap."""
    expected = 1
    for frame in frames:
        if isinstance(frame, Gap):
            assert frame.from_ == expected, (frame, expected)
            assert frame.to is not None
            assert frame.to >= frame.from_
            expected = frame.to + 1
        else:
            assert isinstance(frame, Event)
            assert frame.seq == expected
            assert frame.data[0] == expected
            expected += 1
    assert expected == top + 1


@contextlib.asynccontextmanager
async def flooded(peers: Peers, topic: str, **item: Any) -> AsyncIterator[tuple[RawClient, RawClient]]:
    """A writer and a slow reader who has not read what was written; a quick reader has lost nothing meanwhile."""
    slow = await slow_reader(peers, topic, **item)
    quick = await peers.join("quick", subscribe=[{"topic": topic}])
    writer = await peers.join("writer")
    for number in range(1, EVENTS + 1):
        await writer.publish(topic, [number, FILLING], tags={"symbol": f"s{number % 3}"})
        assert (await quick.expect(Event)).data[0] == number
    await congested(peers)
    # What waits for the slow one is bounded: the mark, and a turn or a page beyond it.
    assert connection_of(peers, "slow").socket.unsent < 1_000_000
    yield writer, slow


async def test_replay_catches_up_from_history_without_losing_anything(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "big:a") as (writer, slow):
        frames = await read_until(slow, EVENTS)
        assert not any(isinstance(frame, Gap) for frame in frames)
        assert_covers(frames, EVENTS)
        await live_marker(writer, slow, "big:a")


async def test_replay_announces_what_history_lost_meanwhile(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "small:a") as (writer, slow):
        frames = await read_until(slow, EVENTS)
        gaps = [frame for frame in frames if isinstance(frame, Gap)]
        assert gaps
        assert {gap.reason for gap in gaps} == {"expired"}
        assert_covers(frames, EVENTS)
        await live_marker(writer, slow, "small:a")


async def test_gap_skips_and_announces(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "feed:a") as (writer, slow):
        frames = await read_until(slow, EVENTS)
        gaps = [frame for frame in frames if isinstance(frame, Gap)]
        assert gaps
        assert {gap.reason for gap in gaps} == {"overflow"}
        assert_covers(frames, EVENTS)
        await live_marker(writer, slow, "feed:a")


async def test_latest_keeps_the_newest_per_tag_and_announces_the_rest(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "price:a") as (writer, slow):
        frames = await read_until(slow, EVENTS)
        assert any(isinstance(frame, Gap) and frame.reason == "overflow" for frame in frames)
        assert_covers(frames, EVENTS)
        newest = {}
        for frame in frames:
            if isinstance(frame, Event):
                newest[(frame.tags or {})["symbol"]] = frame.data[0]
        assert newest == {f"s{number % 3}": number for number in range(EVENTS - 2, EVENTS + 1)}
        await live_marker(writer, slow, "price:a")


async def test_a_kind_without_history_says_that_something_was_skipped(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "typing:a") as (writer, slow):
        seen: list[int] = []
        while isinstance(frame := await slow.receive(), Event):
            seen.append(frame.data[0])
        assert isinstance(frame, Gap)
        assert (frame.topic, frame.epoch, frame.reason, frame.from_) == ("typing:a", "", "overflow", None)
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < EVENTS
        await live_marker(writer, slow, "typing:a")


async def test_a_slow_client_with_a_window_and_a_filter_catches_up_too(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "big:a", filter={"symbol": ["s0", "s1"]}, ack=True) as (_, slow):
        wanted = [number for number in range(1, EVENTS + 1) if number % 3 != 2]
        events = []
        while len(events) < len(wanted):
            events.append(await slow.await_kind(Event))
        assert [event.data[0] for event in events] == wanted


async def test_publications_go_on_while_a_client_catches_up(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "big:a") as (writer, slow):
        frames = await read_until(slow, EVENTS // 2)
        for number in range(EVENTS + 1, EVENTS + 31):
            await writer.publish("big:a", [number, FILLING])
        frames += await read_until(slow, EVENTS + 30)
        assert not any(isinstance(frame, Gap) for frame in frames)
        assert_covers(frames, EVENTS + 30)


async def test_unsubscribing_while_behind_ends_it(hub_with: HubWith) -> None:
    peers = await hub_with(**QUICK)
    async with flooded(peers, "big:a") as (writer, slow):
        await slow.send({"type": "unsubscribe", "id": "u", "topics": ["big:a"]})
        await slow.answer_to("u")
        slow.came.clear()
        await writer.publish("big:a", "unseen")
        await slow.send({"type": "ping", "id": "end"})
        while not isinstance(slow.came[-1] if slow.came else None, Pong):
            await slow.receive()
        assert len(slow.came) == 1


async def test_no_progress_at_all_is_4508_and_harms_nobody_else(hub_with: HubWith) -> None:
    peers = await hub_with(no_progress_s=60.0, **QUICK)
    async with raw_socket(peers.hub.port, peers.token("stuck"), receive_buffer=4096) as link:
        link.write(masked(b'{"type":"hello","subscribe":[{"topic":"big:a"}]}'))
        await link.frame()
        reader = await peers.join("quick", subscribe=[{"topic": "big:a"}])
        writer = await peers.join("writer")
        # From the beginning: who begins to read when the other is closed has made no progress either.
        reading = asyncio.create_task(reader.events(EVENTS))
        await flood(writer, "big:a")
        assert [event.data[0] for event in await reading] == list(range(1, EVENTS + 1))
        stuck = connection_of(peers, "stuck")

        async def closed() -> bool:
            if not stuck.gone and not stuck.close_code:
                await no_progress_for(peers, stuck, 61.0)
            return any(entry["code"] == 4508 for entry in peers.hub.logs.named("closed"))

        await until(closed, what="4508 to be logged")
        await link.ended()


async def no_progress_for(peers: Peers, connection: Connection, seconds: float) -> float:
    """As if it had taken nothing for so much longer. Returns since when."""

    async def age() -> float:
        fewest, since = connection.progress
        connection.progress = (fewest, since - seconds)
        peers.hub.gateway.keeper.watch(connection)
        return connection.progress[1]

    return await peers.hub.within(age)


async def test_slow_but_moving_is_not_4508(hub_with: HubWith) -> None:
    peers = await hub_with(no_progress_s=60.0, **QUICK)
    async with flooded(peers, "big:a") as (_, slow):
        frames: list[ServerFrame] = []
        connection = connection_of(peers, "slow")
        for _ in range(4):
            # In all longer than no_progress_s, and never without progress for as long.
            since = await no_progress_for(peers, connection, 40.0)
            frames += [await slow.receive() for _ in range(EVENTS // 5)]

            async def moved(since: float = since) -> bool:
                return not connection.congested or connection.progress[1] > since

            await until(moved, what="the hub to see that something was taken")
        frames += await read_until(slow, EVENTS)
        assert_covers(frames, EVENTS)


async def test_who_does_not_read_the_answers_gets_no_further_ones(hub_with: HubWith) -> None:
    peers = await hub_with(max_pending_frames=8, **QUICK)
    async with raw_socket(peers.hub.port, peers.token("slow"), receive_buffer=4096) as link:
        link.write(masked(b'{"type":"hello"}'))
        await link.frame()
        params = "x" * 50_000
        call = masked(f'{{"type":"call","id":1,"method":"test.echo","params":{{"x":"{params}"}}}}'.encode())
        for _ in range(400):
            link.write(call)
        await congested(peers)
        calls = len(peers.hub.service.params)
        assert connection_of(peers, "slow").socket.unsent < 16 * 60_000
        await peers.join("other")
        # Nothing more is performed until something is read.
        assert len(peers.hub.service.params) <= calls + 16 < 400


async def test_becoming_slow_again_and_again(hub_with: HubWith) -> None:
    times = 3
    peers = await hub_with(**QUICK)
    slow = await slow_reader(peers, "big:a")
    writer = await peers.join("writer")
    frames: list[ServerFrame] = []
    for turn in range(times):
        for number in range(turn * EVENTS + 1, (turn + 1) * EVENTS + 1):
            await writer.publish("big:a", [number, FILLING])
        await congested(peers)
        frames += await read_until(slow, (turn + 1) * EVENTS)
    assert_covers(frames, times * EVENTS)
