"""A TCP proxy between the hub and Redis that counts commands and how they were grouped into writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

import hiredis

_CHUNK_BYTES = 262_144


@dataclass(slots=True)
class Exchange:
    """One write of the hub on one connection, up to the moment at which Redis answered."""

    connection: int
    commands: list[tuple[bytes, ...]] = field(default_factory=list)

    def naming(self, part: str, command: str = "") -> int:
        """How many of its commands (of this name) have an argument that contains ``part``."""
        wanted, name = part.encode(), command.encode()
        return sum(
            any(wanted in argument for argument in words[1:]) and words[0].upper().startswith(name)
            for words in self.commands
        )


class RecordingProxy:
    """Forwards to ``port`` on loopback, and remembers what the hub sent.

    Commands that are sent before Redis has answered anything belong to one exchange: so many exchanges are so many
    round trips on that connection. ``held``: answers to exchanges for which it says yes are kept until ``release``, so
    that what the hub has sent by then is what it sends without waiting.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.held: Callable[[Exchange], bool] = lambda _: False
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.exchanges: list[Exchange] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def take(self) -> list[Exchange]:
        """What was sent since the last call."""
        taken, self.exchanges = self.exchanges, []
        return taken

    def release(self) -> None:
        """Holds nothing back any more."""
        self.held = lambda _: False
        self._released.set()
        self._released = asyncio.Event()

    async def wait_for(self, exchange: Exchange | None) -> None:
        """Returns when the answer to ``exchange`` may go on."""
        if exchange is not None and self.held(exchange):
            await self._released.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        recorder = _Recorder(self, self._connections)
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target, limit=_CHUNK_BYTES)
            await asyncio.gather(_pump(reader, far_writer, recorder.sent), _pump(far_reader, writer, recorder.answered))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, far_writer):
                if each is not None:
                    each.close()
                    with contextlib.suppress(OSError, asyncio.CancelledError):
                        await each.wait_closed()
            self._tasks.discard(task)


class _Recorder:
    """One connection."""

    def __init__(self, proxy: RecordingProxy, number: int) -> None:
        self._proxy = proxy
        self._number = number
        self._parser = hiredis.Reader()
        self._current: Exchange | None = None

    async def sent(self, data: bytes) -> None:
        self._parser.feed(data)
        while (command := self._parser.gets()) is not False:
            if self._current is None:
                self._current = Exchange(self._number)
                self._proxy.exchanges.append(self._current)
            self._current.commands.append(tuple(command))

    async def answered(self, _: bytes) -> None:
        await self._proxy.wait_for(self._current)
        self._current = None


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], Awaitable[None]]
) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        await seen(data)
        writer.write(data)
        await writer.drain()
