"""Flags decide on connections that are open: whoever has another value now is told, and loses or gets what it covers.

One walk over the connections after each change, a few in each turn of the event loop. Who may not have the socket any
more moves to another transport, spread over ``flags_drain_window_s``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from hub.edge.drain import move
from hub.edge.flag_gate import method_refusal, refusal_of, subject_of
from hub.edge.gateway import Gateway
from hub.flags import FALLBACK, PRESENCE, REALTIME, SOCKET
from hub.protocol.frames import Flags as FlagsFrame
from hub.protocol.session import State

if TYPE_CHECKING:
    from hub.edge.connection import Connection

LOOKS_AT_ONCE: Final = 200  # then others have their turn

log = structlog.get_logger(__name__)


class FlagWatch:
    """One task of a node while something has changed. ``close`` ends it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def changed(self, flags: frozenset[str]) -> None:
        """Some flags may be other than before for somebody."""
        self._again = True
        if self._task is None and flags:
            self._task = asyncio.create_task(self._run(), name="flag-watch")

    async def close(self) -> None:
        """Ends a walk that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                await self._walk()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("flags not enforced")
        finally:
            self._task = None

    async def _walk(self) -> None:
        moving: list[Connection] = []
        for number, connection in enumerate(self._gateway.connections, 1):
            try:
                if self._look(connection):
                    moving.append(connection)
            except Exception:
                log.exception("flags not enforced", connection=connection.id)
            if number % LOOKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if moving:
            log.info(
                "leaving the socket", connections=len(moving), window_s=self._gateway.settings.flags_drain_window_s
            )
            await move(self._gateway, moving, FALLBACK)

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
        if connection.socket.transport != SOCKET or REALTIME not in news or self._gateway.connections.draining:
            return False
        if news[REALTIME]:
            connection.drain_at = 0.0  # it may stay after all
            return False
        return not connection.drain_at


def _news(before: Mapping[str, bool], now: Mapping[str, bool]) -> dict[str, bool]:
    """What is other than before. A flag that is not in the file any more is on, as if it had never been there."""
    news = {flag: value for flag, value in now.items() if before.get(flag, True) != value or flag not in before}
    return news | {flag: True for flag, value in before.items() if flag not in now and not value}
