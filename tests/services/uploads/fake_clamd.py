"""A clamd that is none: the INSTREAM command over a real socket, well and badly."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Literal

# Pieces, so that no scanner of whoever reads this file finds it.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE" + b"!$H+H*"

Mood = Literal["well", "silent", "stuck", "breaks_off", "error", "babbles"]


class FakeClamd:
    """``mood``: how it answers from now on. ``scanned``: sizes of what it got."""

    def __init__(self, stream_max_length: int) -> None:
        self.mood: Mood = "well"
        self.port = 0
        self.scanned: list[int] = []
        self._limit = stream_max_length

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mood == "silent":
            await reader.read(-1)
            return
        command = await reader.readuntil(b"\0")
        if command == b"zPING\0" and self.mood in ("well", "stuck"):
            writer.write(b"PONG\0")
            return
        if command != b"zINSTREAM\0" or self.mood == "breaks_off":
            return
        if self.mood == "stuck":
            await reader.read(-1)
            return
        if self.mood == "babbles":
            writer.write(b"x" * 100_000)
        else:
            writer.write(await self._verdict(reader) + b"\0")
        await writer.drain()

    async def _verdict(self, reader: asyncio.StreamReader) -> bytes:
        data = b""
        while length := struct.unpack(">I", await reader.readexactly(4))[0]:
            data += await reader.readexactly(length)
            if len(data) > self._limit:
                return b"INSTREAM size limit exceeded. ERROR"
        self.scanned.append(len(data))
        if self.mood == "error":
            return b"stream: Can't allocate memory ERROR"
        return b"stream: Eicar-Test-Signature FOUND" if EICAR in data else b"stream: OK"


@contextlib.asynccontextmanager
async def fake_clamd(stream_max_length: int = 10_000_000, *, path: str | None = None) -> AsyncIterator[FakeClamd]:
    """Serves on a port of loopback, or at a path."""
    clamd = FakeClamd(stream_max_length)
    if path is None:
        server = await asyncio.start_server(clamd.serve, "127.0.0.1", 0)
        clamd.port = server.sockets[0].getsockname()[1]
    else:
        server = await asyncio.start_unix_server(clamd.serve, path)
    async with server:
        yield clamd
