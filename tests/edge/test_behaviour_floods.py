"""What one client sends too much of: it waits or pays for it, and others have their turns."""

from __future__ import annotations

import json

import pytest

from hub.protocol.codec import Encoding
from hub.protocol.frames import Error, Pong
from tests.edge.conftest import HubWith
from tests.edge.test_behaviour_chunks import chunk, intake_of
from tests.edge.test_behaviour_deadlines import until_limited
from tests.support.intakes import TestIntake
from tests.support.peers import Peers
from tests.support.raw_client import RawClient
from tests.support.raw_socket import OPCODE_BINARY, OPCODE_TEXT, masked
from tests.support.turns import Turns
from tests.support.waiting import until

FREE = 100
MANY = 3000
PER_TURN = 64
"""So many small frames may be performed in one turn; it is some more than the hub means to do."""


def at_once(client: RawClient, messages: list[bytes], opcode: int = OPCODE_BINARY) -> None:
    """Puts messages on the wire in one piece."""
    client.socket.transport.write(b"".join(masked(message, opcode) for message in messages))


async def test_tiny_chunks_leave_others_their_turns(hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = await hub_with(messages_per_second=100_000, messages_burst=100_000)
    client = await peers.join()
    intake = await intake_of(peers, client)
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, "u1")
    turns = Turns()
    waiting: list[int] = []
    take = TestIntake.chunk

    def noted(self: TestIntake, offset: int, data: memoryview) -> None:
        turns.note()
        waiting.append(len(connection._inbox))
        take(self, offset, data)

    monkeypatch.setattr(TestIntake, "chunk", noted)
    at_once(client, [chunk(client, 1, offset, b"x") for offset in range(MANY)])
    await until(lambda: len(intake.data) == MANY)
    assert turns.most <= PER_TURN
    assert max(waiting) <= peers.hub.settings.max_pending_frames
    await client.nothing_came()


async def test_frames_leave_others_their_turns(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await peers.join(encoding=Encoding.JSON)
    (connection,) = peers.hub.gateway.connections.of_user(peers.org, "u1")
    turns = Turns()
    monkeypatch.setattr(type(connection), "send", turns.counting(type(connection).send))
    pings = [json.dumps({"type": "ping", "id": number}).encode() for number in range(MANY)]
    at_once(client, pings, OPCODE_TEXT)
    for number in range(MANY):
        await client.expect(Pong, id=number)
    assert turns.most <= PER_TURN


async def test_chunks_that_are_large_enough_cost_no_frames(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding, messages_per_second=5, messages_burst=5, chunk_free_bytes=FREE)
    client = await peers.join()
    intake = await intake_of(peers, client)
    for number in range(50):
        await client.send_raw(chunk(client, 1, number * FREE, bytes(FREE)))
    await client.nothing_came()
    assert len(intake.data) == 50 * FREE


async def test_smaller_ones_do_and_none_is_lost(hub_with: HubWith, encoding: Encoding) -> None:
    peers = await hub_with(encoding=encoding, messages_per_second=100, messages_burst=10, chunk_free_bytes=FREE)
    client = await peers.join()
    intake = await intake_of(peers, client)
    for number in range(30):
        await client.send_raw(chunk(client, 1, number * (FREE - 1), bytes(FREE - 1)))
    await until(lambda: len(intake.data) == 30 * (FREE - 1))
    assert not [frame for frame in client.came if isinstance(frame, Error)]


async def spent_by(peers: Peers, client: RawClient, messages: list[bytes], intake: TestIntake, enough: int) -> None:
    """Chunks use up what the user may send on another connection, which had its own share of 30 and more."""
    other = await peers.join()
    for message in messages:
        await client.send_raw(message)
    await until(lambda: len(intake.data) >= enough, what="most of it to be spent")
    await until_limited(other)


async def test_tiny_chunks_are_paid_for(hub_with: HubWith) -> None:
    peers = await hub_with(messages_per_second=1, messages_burst=60, chunk_free_bytes=FREE)
    client = await peers.join()
    intake = await intake_of(peers, client)
    await spent_by(peers, client, [chunk(client, 1, offset, b"x") for offset in range(90)], intake, 50)


async def test_chunks_that_are_refused_are_paid_for_however_large(hub_with: HubWith) -> None:
    peers = await hub_with(messages_per_second=1, messages_burst=60, chunk_free_bytes=FREE)
    client = await peers.join()
    intake = await intake_of(peers, client)
    right = [chunk(client, 1, number * FREE, bytes(FREE)) for number in range(90)]
    wrong = chunk(client, 1, 1, bytes(FREE))
    pairs = [message for pair in zip(right, [wrong] * 90, strict=True) for message in pair]
    await spent_by(peers, client, pairs, intake, 50 * FREE)
    assert len(intake.data) < 90 * FREE
