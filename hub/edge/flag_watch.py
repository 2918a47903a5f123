"""Flags decide on connections that are open: whoever has another value now is told, and loses or gets what it covers.

One walk over the connections after each change, for two milliseconds in each turn of the event loop. Who may not have
the socket any more moves to another transport, spread over ``flags_drain_window_s``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from hub.edge.drain import move
from hub.edge.flag_gate import method_refusal, refusal_of, subject_of, switched_off
from hub.edge.gateway import Gateway
from hub.flags import FALLBACK, PRESENCE, REALTIME
from hub.protocol.frames import Flags as FlagsFrame
from hub.protocol.session import State

if TYPE_CHECKING:
    from hub.edge.connection import Connection

TURN_S: Final = 0.002  # of the event loop, then others have theirs
PAUSE_S: Final = 0.02  # between two walks

log = structlog.get_logger(__name__)


class FlagWatch:
    """The walk, a task of a node while something has changed; and another for those who move. ``close`` ends both."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._again = self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[Connection] = set()
        self._move: asyncio.Task[None] | None = None

    def changed(self, flags: frozenset[str]) -> None:
        """Some flags may be other than before for somebody."""
        self._again = True
        if self._task is None and flags and not self._closed:
            self._task = asyncio.create_task(self._run(), name="flag-watch")

    async def close(self) -> None:
        """Ends a walk that is under way; there will be no other."""
        self._closed = True
        tasks = [task for task in (self._task, self._move) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                await self._walk()
                # However many changes there are, most of the time is others'.
                await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("flags not enforced")
        finally:
            self._task = None

    async def _walk(self) -> None:
        began = time.monotonic()
        for connection in self._gateway.connections:
            try:
                if self._look(connection):
                    self._leave(connection)
            except Exception:
                log.exception("flags not enforced", connection=connection.id)
            if time.monotonic() - began > TURN_S:
                await asyncio.sleep(0)
                began = time.monotonic()

    def _leave(self, connection: Connection) -> None:
        """Redis makes the tickets, so this is no part of the walk: other flags must not wait for it."""
        self._leaving.add(connection)
        if self._move is None:
            self._move = asyncio.create_task(self._move_all(), name="flag-moves")

    async def _move_all(self) -> None:
        try:
            while self._leaving:
                await asyncio.sleep(0)
                leaving, self._leaving = [one for one in self._leaving if _must_leave(one)], set()
                window_s = self._gateway.settings.flags_drain_window_s
                log.info("leaving the socket", connections=len(leaving), window_s=window_s)
                await move(self._gateway, leaving, FALLBACK, _must_leave)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("sockets not moved")
        finally:
            self._move = None

    def _look(self, connection: Connection) -> bool:
        """Tells a connection what is new. True: it may not have its socket any more."""
        if connection.gone or connection.close_code or connection.principal is None:
            return False  # who says hello later asks then
        before = connection.flags
        flags = connection.flags = self._gateway.flags.values(subject_of(connection.principal))
        if flags is before:
            return False
        self._gateway.board.metrics.cohort(before, flags)
        news = _news(before, flags)
        if not news:
            return False
        if connection.session.state is State.OPEN:
            # Before that, `welcome` will say so, and topics are looked at once more when they have been joined.
            connection.send(FlagsFrame(news))
        self._enforce(connection, news)
        return self._leaves(connection, news)

    def _enforce(self, connection: Connection, news: Mapping[str, bool]) -> None:
        for text in tuple(connection.subscriptions):
            switch = self._gateway.switches.of_topic(text)
            if switch is not None and switch.flag in news and (off := refusal_of(self._gateway, connection, text)):
                connection.end_subscription(text, off)
        if connection.handles is not None:
            connection.handles.withdraw(partial(method_refusal, self._gateway, connection.flags))
        if PRESENCE in news:
            self._show(connection, shown=news[PRESENCE])

    def _show(self, connection: Connection, *, shown: bool) -> None:
        presence = self._gateway.presence
        for sub in connection.subscriptions.values():
            if not sub.topic.kind.presence:
                continue
            if shown:
                presence.enter(connection.attending(), sub)
            elif connection.attendance is not None:
                presence.leave(connection.attendance, sub)

    def _leaves(self, connection: Connection, news: Mapping[str, bool]) -> bool:
        if REALTIME not in news or self._gateway.connections.draining:
            return False
        if news[REALTIME]:
            connection.drain_at = 0.0  # it may stay after all
        return _must_leave(connection)


def _must_leave(connection: Connection) -> bool:
    """Whoever is still saying hello is refused at the end of it, and who was told to go is not told once more."""
    return (
        switched_off(connection)
        and connection.session.state is State.OPEN
        and not connection.gone
        and not connection.drain_at
    )


def _news(before: Mapping[str, bool], now: Mapping[str, bool]) -> dict[str, bool]:
    """What is other than before. A flag that is not in the file any more is on, as if it had never been there."""
    news = {flag: value for flag, value in now.items() if before.get(flag, True) != value or flag not in before}
    return news | {flag: True for flag, value in before.items() if flag not in now and not value}
