"""A WebSocket by hand, byte by byte: for faults that no library sends, and for clients that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import NamedTuple

from hub.protocol.codec import OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG, OPCODE_TEXT

OPCODE_CONTINUATION = 0x0
_WAIT_S = 15.0
__all__ = (
    "OPCODE_BINARY",
    "OPCODE_CLOSE",
    "OPCODE_CONTINUATION",
    "OPCODE_PING",
    "OPCODE_PONG",
    "OPCODE_TEXT",
    "RawSocket",
    "masked",
    "raw_socket",
    "upgrade_request",
)


class WireFrame(NamedTuple):
    """One frame of RFC 6455 as it came."""

    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        """Of a close frame."""
        assert self.opcode == OPCODE_CLOSE, self
        return int(struct.unpack("!H", self.payload[:2])[0])


def masked(payload: bytes, opcode: int = OPCODE_TEXT, *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    """One frame as a client sends it."""
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit = 0x80 if mask else 0
    size = len(payload)
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2)
    else:
        head += bytes([bit | 127]) + size.to_bytes(8)
    if not mask:
        return head + payload
    key = os.urandom(4)
    repeated = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)


class RawSocket:
    """An upgraded connection. Nothing is answered by itself: no pong, no close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)

    async def frame(self, timeout: float = _WAIT_S) -> WireFrame:
        """The next frame."""
        async with asyncio.timeout(timeout):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8))
            return WireFrame(first & 0x0F, await self.reader.readexactly(size))

    async def close_code(self, timeout: float = _WAIT_S) -> int:
        """The code of the close frame; frames before it are passed over."""
        async with asyncio.timeout(timeout):
            while True:
                frame = await self.frame(timeout)
                if frame.opcode == OPCODE_CLOSE:
                    return frame.close_code

    async def ended(self, timeout: float = _WAIT_S) -> None:
        """Returns when the hub has closed the TCP connection."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


def upgrade_request(port: int, token: str = "", *, extensions: str = "", subprotocol: str = "hub.v1.json") -> bytes:
    """The first thing a client says."""
    more = f"Authorization: Bearer {token}\r\n" if token else ""
    more += f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    return (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n{more}\r\n"
    ).encode()


@contextlib.asynccontextmanager
async def raw_socket(
    port: int, token: str = "", *, subprotocol: str = "hub.v1.json", receive_buffer: int = 0, extensions: str = ""
) -> AsyncIterator[RawSocket]:
    """Upgraded, with ``token`` in the Authorization header. ``receive_buffer``: bytes that the kernel takes unread."""
    link = socket.socket()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=link, limit=4096)
    try:
        writer.write(upgrade_request(port, token, extensions=extensions, subprotocol=subprotocol))
        async with asyncio.timeout(_WAIT_S):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield RawSocket(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
