"""Faults below the frames: RFC 6455 by hand, byte by byte, while nobody else loses anything."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from hub.edge.connection import Connection
from tests.support.peers import Peers
from tests.support.raw_socket import (
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_CONTINUATION,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    RawSocket,
    masked,
    raw_socket,
)
from tests.support.running_hub import SocketKind
from tests.support.turns import Turns
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("witness")

PING = b'{"type":"ping","id":"after"}'


@contextlib.asynccontextmanager
async def by_hand(peers: Peers, **how: Any) -> AsyncIterator[RawSocket]:
    async with raw_socket(peers.hub.port, peers.token("bad"), **how) as link:
        link.write(masked(b'{"type":"hello"}'))
        assert msgspec.json.decode((await link.frame()).payload)["type"] == "welcome"
        yield link


async def pong_by_hand(link: RawSocket) -> None:
    frame = await link.frame()
    assert msgspec.json.decode(frame.payload)["id"] == "after"


@pytest.mark.parametrize("payload", [b"\xff", b'{"type":"ping","x":"\xc3\x28"}', b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
async def test_invalid_utf8_is_1007(peers: Peers, payload: bytes) -> None:
    async with by_hand(peers) as link:
        link.write(masked(payload))
        assert await link.close_code() == 1007
        await link.ended()


async def test_a_character_may_be_cut_between_fragments(peers: Peers) -> None:
    text = '{"type":"ping","id":"after","x":"é"}'.encode()
    cut = text.index(b"\xc3") + 1
    async with by_hand(peers) as link:
        link.write(masked(text[:cut], fin=False) + masked(text[cut:], OPCODE_CONTINUATION))
        await pong_by_hand(link)


async def test_fragments_with_control_frames_between_them(peers: Peers) -> None:
    async with by_hand(peers) as link:
        pieces = [PING[index : index + 3] for index in range(0, len(PING), 3)]
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            link.write(masked(piece, OPCODE_CONTINUATION if index else OPCODE_TEXT, fin=last))
            if not last:
                link.write(masked(b"%d" % index, OPCODE_PING) + masked(b"", OPCODE_PONG))
        for index in range(len(pieces) - 1):
            frame = await link.frame()
            assert (frame.opcode, frame.payload) == (OPCODE_PONG, b"%d" % index)
        await pong_by_hand(link)


async def test_bytes_may_come_one_by_one(peers: Peers) -> None:
    async with by_hand(peers) as link:
        for byte in masked(PING):
            link.write(bytes([byte]))
            await asyncio.sleep(0)
        await pong_by_hand(link)


async def test_empty_fragments(peers: Peers) -> None:
    async with by_hand(peers) as link:
        for _ in range(100):
            link.write(masked(b"", fin=False) + masked(PING, OPCODE_CONTINUATION, fin=False))
            link.write(masked(b"", OPCODE_CONTINUATION))
            await pong_by_hand(link)


FAULTS = {
    "unmasked": masked(PING, mask=False),
    "reserved bit": masked(PING, rsv=0x40),
    "reserved opcode": masked(PING, 0x3),
    "reserved control opcode": masked(b"", 0xB),
    "fragmented ping": masked(b"x", OPCODE_PING, fin=False),
    "ping of 126 bytes": masked(b"x" * 126, OPCODE_PING),
    "continuation of nothing": masked(PING, OPCODE_CONTINUATION),
    "text within a fragmented text": masked(b"{", fin=False) + masked(b"}"),
    "close frame of one byte": masked(b"x", OPCODE_CLOSE),
    "close code that is none": masked(struct.pack("!H", 999), OPCODE_CLOSE),
    "length with the highest bit": b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_against_the_rfc_is_1002(peers: Peers, fault: str) -> None:
    async with by_hand(peers) as link:
        link.write(FAULTS[fault])
        allowed = {1002} if not fault.startswith("length") else {1002, 4413, 1009}
        assert await link.close_code() in allowed
        await link.ended()


async def test_the_close_frame_arrives_although_the_client_goes_on_sending(
    peers: Peers, socket_kind: SocketKind
) -> None:
    if socket_kind == "asgi":
        pytest.skip("a stock server drops the connection")
    async with by_hand(peers) as link:
        link.write(masked(b"\xff" * 10) + masked(b"x" * 500_000) * 8)
        assert await link.close_code() == 1007
    async with by_hand(peers) as link:
        link.write(masked(b"x" * 20_000_000))
        assert await link.close_code() == 4413


async def test_a_close_of_the_client_is_echoed(peers: Peers) -> None:
    async with by_hand(peers) as link:
        link.write(masked(struct.pack("!H", 3999) + b"bye", OPCODE_CLOSE))
        assert await link.close_code() == 3999
        await link.ended()


async def test_a_client_that_vanishes_in_the_middle_of_a_frame(peers: Peers) -> None:
    for cut in (1, 5, 9, 20):
        async with by_hand(peers) as link:
            link.write(masked(PING)[:cut])
    async with raw_socket(peers.hub.port, peers.token("bad")):
        pass


async def test_a_binary_message_with_json_is_a_chunk_for_no_handle(peers: Peers) -> None:
    async with by_hand(peers) as link:
        link.write(masked(b"\x00" * 100, OPCODE_BINARY) + masked(PING))
        assert msgspec.json.decode((await link.frame()).payload)["code"] == "not_found"
        await pong_by_hand(link)


async def test_pings_leave_others_their_turns(
    peers: Peers, socket_kind: SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    if socket_kind != "direct":
        return  # the server's business
    turns = Turns()
    monkeypatch.setattr(Connection, "heard", turns.counting(Connection.heard))
    async with by_hand(peers) as link:
        link.write(masked(b"", OPCODE_PING) * 8000)
        await until(lambda: turns.count >= 8000)
    assert turns.most <= 300
