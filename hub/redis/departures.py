"""Calls to one server leave together: what comes in one turn of the event loop, or while earlier ones are under way.

A connection and a write for each call would cost more than the call. And a server that many want something of at once
has a short line before it: the line is here, where it can be kept fair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from hub.config import Settings
from hub.redis.exchange import Try, not_sent

log = structlog.get_logger(__name__)


class _Group(NamedTuple):
    tries: list[Try]
    done: asyncio.Future[None]
    latest: float
    """When it must have left, by the loop's clock."""


class _Line:
    """Who waits for one server."""

    __slots__ = ("boarding", "several", "several_under_way", "single", "under_way")

    def __init__(self) -> None:
        self.single: deque[_Group] = deque()
        self.several: deque[_Group] = deque()
        self.boarding = False
        """A departure is about to take who waits."""
        self.under_way = 0
        self.several_under_way = False


class Departures:
    """Gathers calls by server. ``send`` gives each try its outcome and does not raise.

    At most ``redis_departures`` are under way to a server, with ``redis_departure_calls`` calls each. Groups of several
    calls go with one of them at a time, first come, first served: however many have a list to publish, there is a way
    past them, and the server is not kept busy for long. What has not left after ``redis_timeout_s`` is not sent.
    """

    def __init__(self, settings: Settings, send: Callable[[str, list[Try]], Awaitable[None]]) -> None:
        self._settings = settings
        self._send = send
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def join(self, address: str, tries: list[Try]) -> None:
        """Returns when every try has its outcome. Whoever gives up waiting takes nothing from the others."""
        loop = asyncio.get_running_loop()
        group = _Group(tries, loop.create_future(), loop.time() + self._settings.redis_timeout_s)
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line()
        (line.single if len(tries) == 1 else line.several).append(group)
        self._announce(address, line)
        await group.done

    def stop(self) -> None:
        """Who waits now or comes later is not sent."""
        self._stopped = True

    async def close(self) -> None:
        """Waits for what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _announce(self, address: str, line: _Line) -> None:
        """One more departure for those who wait, unless there are enough."""
        if line.boarding or line.under_way == self._settings.redis_departures:
            return
        line.boarding = True
        # It begins in the next turn: whoever calls in this one will be there.
        task = asyncio.create_task(self._depart(address, line), name="redis-departure")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _depart(self, address: str, line: _Line) -> None:
        line.boarding = False
        line.under_way += 1
        while groups := self._board(line):
            several = any(len(group.tries) > 1 for group in groups)
            line.several_under_way |= several
            if line.single or (line.several and not line.several_under_way):
                self._announce(address, line)
            await self._travel(address, groups)
            if several:
                line.several_under_way = False
        line.under_way -= 1
        if not line.under_way and not line.boarding:
            del self._lines[address]

    async def _travel(self, address: str, groups: list[_Group]) -> None:
        tries = [item for group in groups for item in group.tries]
        try:
            await self._send(address, tries)
        except Exception as error:
            # A fault of ours; those who wait must hear of it all the same.
            log.exception("a call to redis failed")
            for item in tries:
                item.outcome = error
        for group in groups:
            _settle(group)

    def _board(self, line: _Line) -> list[_Group]:
        """Who goes next; nobody, when nobody can."""
        groups: list[_Group] = []
        room = self._settings.redis_departure_calls
        now = asyncio.get_running_loop().time()
        # One of several calls first, or single ones could hold them back for ever.
        lanes = [(line.single, room)]
        if not line.several_under_way:
            lanes = [(line.several, 1), (line.single, room), (line.several, room)]
        for lane, most in lanes:
            while lane and most and (not groups or len(lane[0].tries) <= room):
                group = lane.popleft()
                if group.done.done():  # its caller has left
                    continue
                if self._stopped or group.latest < now:
                    not_sent(group.tries, TimeoutError("it could not leave in time"))
                    _settle(group)
                    continue
                groups.append(group)
                room -= len(group.tries)
                most -= 1
        return groups


def _settle(group: _Group) -> None:
    if not group.done.done():
        group.done.set_result(None)
