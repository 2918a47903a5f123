"""A TCP proxy that hurts connections: stalls, cuts, refuses, throttles. Runs in the test's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NoReturn, Self

from tests.support.servers import free_port

Target = tuple[str, int] | Path
Direction = Literal["both", "to_target", "to_client"]

_CHUNK_BYTES = 65_536
_THROTTLED_TURN_S = 0.02


class CutProxy:
    """Listens on a free port of 127.0.0.1 and forwards to ``target``: (host, port) or the path of a unix socket.

    ``target`` may be changed at any time; open connections stay where they are. At most ``_CHUNK_BYTES`` per direction
    and connection wait inside, so a stall is felt by whoever sends, as on a real network.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.accepted = 0
        """Connections accepted since the start."""
        self.drops: Callable[[str, bytes], bool] = lambda _direction, _data: False
        """Asked about what goes on ``to_target`` or ``to_client``: True loses it, and its connection."""
        self._port = 0
        self._open = False
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flows = {"to_target": asyncio.Event(), "to_client": asyncio.Event()}
        self._bytes_per_s: float | None = None
        self._left: int | None = None
        self._reset = False
        self.resume()

    @property
    def port(self) -> int:
        """The port; stays the same over ``refuse`` and ``allow``."""
        return self._port

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    def stall(self, direction: Direction = "both") -> None:
        """Forwards nothing any more; connections stay open, new ones are accepted."""
        for name in self._named(direction):
            self._flows[name].clear()

    def resume(self, direction: Direction = "both") -> None:
        """Ends a stall; what was held back is forwarded."""
        for name in self._named(direction):
            self._flows[name].set()

    def throttle(self, bytes_per_s: float | None) -> None:
        """Forwards at most so many bytes per second, connection and direction; None: no limit."""
        self._bytes_per_s = bytes_per_s

    def cut_after(self, count: int | None, *, reset: bool = False) -> None:
        """Ends the connection that brings so many bytes more to the target, wherever in a message that is; only once.

        The target sees the end of the stream, or with ``reset`` a reset (TCP only). None: takes it back.
        """
        self._left = count
        self._reset = reset

    def cut(self) -> None:
        """Resets all connections now; what was on its way is lost. New ones are accepted."""
        for link in self._links:
            link.abort()

    def refuse(self) -> None:
        """New connections are refused, or reset when the kernel has just accepted them; the open ones stay."""
        self._open = False
        if self._server is not None:
            self._server.close()
            self._server = None

    async def allow(self) -> None:
        """New connections are accepted (again), on the same port."""
        self._open = True
        if self._server is None:
            # None that the kernel gives to an outgoing connection while this one is away.
            self._port = self._port or free_port()
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=_CHUNK_BYTES)

    async def close(self) -> None:
        """Refuses, cuts, and waits until nothing is left."""
        self.refuse()
        self.cut()
        await asyncio.gather(*(link.ended.wait() for link in self._links))

    async def __aenter__(self) -> Self:
        await self.allow()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _named(self, direction: Direction) -> tuple[str, ...]:
        return tuple(self._flows) if direction == "both" else (direction,)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:  # nobody would cut it
            writer.transport.abort()
            return
        self.accepted += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.TaskGroup() as group:
                    link.task = group.create_task(self._forward(link, reader, writer))
        finally:
            await link.close()
            self._links.discard(link)
            link.ended.set()

    async def _forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.target, Path):
                opened = await asyncio.open_unix_connection(self.target, limit=_CHUNK_BYTES)
            else:
                opened = await asyncio.open_connection(*self.target, limit=_CHUNK_BYTES)
        except OSError:
            writer.transport.abort()
            return
        far_reader, far_writer = opened
        link.writers.append(far_writer)
        try:
            # Whichever fails takes the other along, also one that is stalled.
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, far_writer, "to_target"))
                group.create_task(self._pump(link, far_reader, writer, "to_client"))
        except* OSError:
            pass

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str
    ) -> None:
        flow = self._flows[direction]
        while True:
            await flow.wait()
            rate = self._bytes_per_s
            data = await reader.read(_CHUNK_BYTES if rate is None else max(1, int(rate * _THROTTLED_TURN_S)))
            await flow.wait()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            if self.drops(direction, data):
                raise ConnectionResetError
            if direction == "to_target" and self._left is not None:
                self._left -= len(data)
                if self._left <= 0:
                    await self._cut_within(link, writer, data[: len(data) + self._left])
            writer.write(data)
            await writer.drain()
            if rate is not None:
                await asyncio.sleep(len(data) / rate)

    async def _cut_within(self, link: _Link, writer: asyncio.StreamWriter, last: bytes) -> NoReturn:
        self._left = None
        writer.write(last)
        await writer.drain()
        if self._reset:
            link.reset()
        raise ConnectionResetError


class _Link:
    """One connection through the proxy: both of its ends, and the task that forwards."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.writers = [near]
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        if self.task is not None:
            self.task.cancel()

    def reset(self) -> None:
        for writer in self.writers:
            link: socket.socket = writer.get_extra_info("socket")
            if link.family != socket.AF_UNIX:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
