"""HTTP/1.1 by hand, strict about what comes: one connection, one request after the other, bodies piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_LIMIT_BYTES = 4096  # read ahead: a test that does not read must be noticed by the hub
_PIECE_BYTES = 65536
_IDLE_S = 1.0


@dataclass(slots=True)
class Head:
    """The beginning of an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """By name in lower case."""


class HttpLine:
    """One connection. The body of an answer must be read to its end before the next request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left: int | None = 0
        """Bytes of the body that are still to come; None: until the connection ends."""
        self._chunked = False
        self._used_at = time.monotonic()

    @property
    def idle(self) -> bool:
        """Nobody has used it for a while: the hub may end it, which it does after five seconds, and be in the right."""
        return time.monotonic() - self._used_at > _IDLE_S

    @classmethod
    async def opened(cls, port: int, link: socket.socket | None = None) -> HttpLine:
        """A connection to loopback, or over ``link``."""
        where = {"sock": link} if link is not None else {"host": "127.0.0.1", "port": port}
        return cls(*await asyncio.open_connection(**where, limit=_LIMIT_BYTES))

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Head:
        """Sends a request and returns the head of its answer."""
        lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
        if body is not None:
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return await self._head()

    async def piece(self) -> bytes:
        """More of the body; nothing at its end."""
        if self._chunked:
            return await self._chunk()
        if self._left == 0:
            return b""
        came = await self._reader.read(_PIECE_BYTES if self._left is None else min(self._left, _PIECE_BYTES))
        if self._left is not None:
            if not came:
                raise EOFError("the connection ended within an answer")
            self._left -= len(came)
        return came

    async def body(self) -> bytes:
        """All of the body."""
        pieces = []
        while came := await self.piece():
            pieces.append(came)
        self._used_at = time.monotonic()
        return b"".join(pieces)

    def close(self) -> None:
        """Ends it at once."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Waits until it is closed."""
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _head(self) -> Head:
        status = (await self._line()).split(" ", 2)
        assert status[0] == "HTTP/1.1", status
        head = Head(int(status[1]))
        while line := await self._line():
            name, colon, value = line.partition(":")
            assert colon, line
            assert name.lower() not in head.headers or name.lower() in ("set-cookie", "vary"), f"twice: {line}"
            head.headers[name.lower()] = value.strip()
        self._chunked = head.headers.get("transfer-encoding") == "chunked"
        length = head.headers.get("content-length")
        assert not (self._chunked and length), head
        self._left = int(length) if length is not None else 0 if head.status in (204, 304) else None
        return head

    async def _line(self) -> str:
        line = await self._reader.readline()
        if not line:
            raise EOFError("the connection ended before an answer")
        assert line.endswith(b"\r\n"), line
        return line[:-2].decode("latin-1")

    async def _chunk(self) -> bytes:
        size = int(await self._line(), 16)
        data = await self._reader.readexactly(size + 2)
        assert data.endswith(b"\r\n"), data[-20:]
        if size == 0:
            self._chunked, self._left = False, 0
        return data[:-2]
