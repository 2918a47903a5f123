"""permessage-deflate (RFC 7692) with another implementation at the other end: negotiated, shared, bounded."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from hub.embedded import RedisServer
from hub.protocol.codec import DEFLATE_FROM_BYTES, Encoding, Packet
from tests.support.raw_socket import OPCODE_TEXT, masked, raw_socket
from tests.support.running_hub import RunningHub, running_hub

BIG = {"rows": [{"invoice": number, "currency": "EUR"} for number in range(500)]}


@pytest.fixture(scope="module")
async def hub(redis_server: RedisServer) -> AsyncIterator[RunningHub]:
    async with running_hub("direct", redis_server.url) as hub:
        yield hub


@contextlib.asynccontextmanager
async def client(hub: RunningHub, **offer: Any) -> AsyncIterator[ClientConnection]:
    extensions = [ClientPerMessageDeflateFactory(**offer)] if offer.pop("offers", True) else None
    headers = {"Authorization": f"Bearer {hub.token()}"}
    async with connect(
        hub.url, additional_headers=headers, extensions=extensions, compression=None, open_timeout=30, proxy=None
    ) as socket:
        yield socket


async def ask(socket: ClientConnection, frame: dict[str, Any]) -> Any:
    await socket.send(json.dumps({"id": 1, **frame}))
    return json.loads(await socket.recv())


OFFERS: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "a window of 12 bits": {"server_max_window_bits": 12},
    "a window of its own": {"client_max_window_bits": 10},
    "no context takeover": {"server_no_context_takeover": True, "client_no_context_takeover": True},
}


@pytest.mark.parametrize("offer", OFFERS)
async def test_both_ways(hub: RunningHub, offer: str) -> None:
    async with client(hub, **OFFERS[offer]) as socket:
        (extension,) = socket.protocol.extensions
        assert extension.name == "permessage-deflate"
        await ask(socket, {"type": "hello", "subscribe": [{"topic": "events:finance"}]})
        for number in range(3):
            publish = {"type": "publish", "topic": "events:finance", "name": "a.b", "data": {"n": number, **BIG}}
            first = await ask(socket, publish)
            second = json.loads(await socket.recv())
            event = first if first["type"] == "event" else second
            assert event["data"] == {"n": number, **BIG}


async def test_whoever_does_not_offer_it_gets_plain_frames(hub: RunningHub) -> None:
    for offer in ({"offers": False}, {"server_max_window_bits": 9}):
        async with client(hub, **offer) as socket:
            assert socket.protocol.extensions == []
            await ask(socket, {"type": "hello"})


async def test_it_can_be_switched_off(redis_server: RedisServer) -> None:
    async with running_hub("direct", redis_server.url, compression=False) as hub, client(hub) as socket:
        assert socket.protocol.extensions == []


async def test_a_small_message_that_becomes_a_large_one_is_4413(hub: RunningHub) -> None:
    async with client(hub) as socket:
        await ask(socket, {"type": "hello"})
        await socket.send(" " * (hub.settings.max_message_bytes + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4413


async def test_what_cannot_be_inflated_is_1002(hub: RunningHub) -> None:
    async with raw_socket(hub.port, hub.token(), extensions="permessage-deflate") as link:
        link.write(masked(b"\xff\xff\xff", OPCODE_TEXT, rsv=0x40))
        assert await link.close_code() == 1002


def test_a_packet_is_compressed_once_for_all() -> None:
    small, large = b'"small"', json.dumps(BIG).encode()
    packet = Packet(Encoding.JSON, [small, large])
    wire = packet.deflated
    assert packet.deflated is wire
    assert wire.startswith(bytes([0x81, len(small)]) + small)
    assert wire[2 + len(small)] == 0xC1
    compressed = wire[2 + len(small) + 4 :]
    assert zlib.decompressobj(-12).decompress(compressed + b"\x00\x00\xff\xff") == large
    assert len(wire) < len(packet.wire) / 3
    assert len(small) < DEFLATE_FROM_BYTES < len(large)
