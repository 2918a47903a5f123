"""Acknowledgements of one client: collected per topic, sent together once an interval or every so many events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from hub.client.options import ClientOptions
from hub.protocol.frames import Position

Flush = Callable[[dict[str, Position]], Awaitable[dict[str, Position]]]
"""Sends acknowledgements; returns those that could not be sent yet."""


class Acks:
    """What was processed and not yet acknowledged: the newest position per topic, so bounded by the subscriptions."""

    def __init__(self, options: ClientOptions, flush: Flush) -> None:
        self._options = options
        self._flush = flush
        self._waiting: dict[str, Position] = {}
        self._events = 0
        self._some = asyncio.Event()
        self._many = asyncio.Event()

    def add(self, topic: str, position: Position) -> None:
        """Everything of ``topic`` up to ``position`` was processed."""
        self._waiting[topic] = position
        self._events += 1
        self._some.set()
        if self._events >= self._options.ack_every_events:
            self._many.set()

    def take(self, topic: str) -> Position | None:
        """Removes and returns what is waiting for a topic that is being left."""
        return self._waiting.pop(topic, None)

    async def run(self) -> None:
        """Sends what has gathered, for ever."""
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.ack_interval_s):
                    await self._many.wait()
            await self.send()

    async def send(self) -> None:
        """Sends what has gathered, now. What cannot be sent yet stays for the next time."""
        waiting, self._waiting = self._waiting, {}
        self._events = 0
        self._some.clear()
        self._many.clear()
        for topic, position in (await self._flush(waiting)).items():
            self._waiting.setdefault(topic, position)
        if self._waiting:
            self._some.set()
