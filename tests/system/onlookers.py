"""A crowd of WebSockets that only look on: a thousand of them in one process, and when each was told what.

No library: a frame is its bytes, and what it says is decoded only for the few kinds that tests of flags ask about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from hub.protocol.codec import OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG
from tests.support.raw_socket import masked, upgrade_request

_WATCHED = (b'{"type":"flags"', b'{"type":"unsubscribed"', b'{"type":"drain"', b'{"type":"welcome"', b'{"type":"error"')
_AT_ONCE = 100


class Onlooker(asyncio.Protocol):
    """One WebSocket."""

    def __init__(self, port: int, token: str, topics: Sequence[str]) -> None:
        self.told: list[tuple[float, dict[str, Any]]] = []
        """Flags, unsubscribed, drain, welcome and errors: when (``time.monotonic``), and what."""
        self.events = 0
        self.close_code = 0
        self.ended_at = 0.0
        self._request = upgrade_request(port, token)
        subscribe = [{"topic": topic} for topic in topics]
        self._hello = msgspec.json.encode({"type": "hello", "id": 1, "subscribe": subscribe})
        self._kept = bytearray()
        self._upgraded = False
        self._transport: asyncio.Transport

    @property
    def welcomed(self) -> bool:
        """Whether it is in."""
        return bool(self.told)

    def said(self, kind: str, since: float = 0.0) -> list[tuple[float, dict[str, Any]]]:
        """What it was told of one kind after a moment."""
        return [(at, frame) for at, frame in self.told if frame["type"] == kind and at >= since]

    def close(self) -> None:
        """Leaves."""
        self._transport.abort()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        if not self._upgraded:
            head, found, rest = self._kept.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._kept, self._upgraded = rest, True
            self._transport.write(masked(self._hello))
        while self._take():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended_at = time.monotonic()

    def _take(self) -> bool:
        kept = self._kept
        if len(kept) < 2:
            return False
        size, head = kept[1] & 0x7F, 2
        if size == 126:
            size, head = int.from_bytes(kept[2:4]), 4
        elif size == 127:
            size, head = int.from_bytes(kept[2:10]), 10
        if len(kept) < head + size:
            return False
        self._frame(kept[0] & 0x0F, bytes(kept[head : head + size]))
        del kept[: head + size]
        return True

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == OPCODE_PING:
            self._transport.write(masked(payload, OPCODE_PONG))
        elif opcode == OPCODE_CLOSE:
            self.close_code = int.from_bytes(payload[:2])
            self._transport.close()
        elif payload.startswith(b'{"type":"event"'):
            self.events += 1
        elif payload.startswith(_WATCHED):
            self.told.append((time.monotonic(), msgspec.json.decode(payload)))


async def onlookers(ports: Sequence[int], tokens: Sequence[str], topics: Sequence[Sequence[str]]) -> list[Onlooker]:
    """One for each token, in turn on these ports and with these topics. They may not be welcomed yet."""
    loop = asyncio.get_running_loop()
    crowd = [
        Onlooker(ports[number % len(ports)], token, topics[number // len(ports) % len(topics)])
        for number, token in enumerate(tokens)
    ]
    for begin in range(0, len(crowd), _AT_ONCE):
        some = enumerate(crowd[begin : begin + _AT_ONCE], begin)
        await asyncio.gather(
            *(
                loop.create_connection(lambda one=one: one, "127.0.0.1", ports[number % len(ports)])  # type: ignore[misc]
                for number, one in some
            )
        )
    return crowd
