"""A stream of server-sent events behind the interface of ``Socket``: a frame is a ``data`` block.

Positions follow in ``id`` blocks of their own, so that frames stay the same bytes for everybody who gets them.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from hub.edge.gateway import Gateway
from hub.edge.http_line import STREAM_HEADERS, Line
from hub.edge.http_socket import CLIENT_GONE, CLOSING_S, HttpSocket
from hub.edge.positions import cursor_of
from hub.protocol.codec import Packet

_KEEP_ALIVE: Final = b": keep-alive\n\n"
# Of a thousand topics the positions are a thousand times an event. Short ones are no matter; longer ones wait until
# they are a tenth of what was written since the last, or until it is long ago.
_SHORT_BYTES: Final = 1024
_SHARE: Final = 10
_MOST_PAUSE_S: Final = 3.0
_RETRY_MS: Final = (1000, 3000)  # at random between them: clients of a node that has died come back one by one


class SseSocket(HttpSocket):
    """Implements ``Socket`` and ``LineUser``."""

    __slots__ = ("_asked", "_commented_at", "_positions", "_size", "_subscribed", "_told_at", "_untold")

    transport: Final = "sse"

    def __init__(self, gateway: Gateway, line: Line, asked: int) -> None:
        super().__init__(gateway, line)
        self._asked = asked
        self._positions: asyncio.TimerHandle | None = None
        self._commented_at = self._told_at = 0.0
        self._size = self._untold = 0
        """Bytes of the last positions, and of frames since."""
        self._subscribed = (0, "")

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        return 0 if self._line is None else self._line.unsent

    def look(self, now: float) -> float:
        """A comment when it is silent, so that nobody on the way takes it for dead."""
        pause = self._gateway.settings.sse_keepalive_s
        due = max(self._connection.sent_at, self._commented_at) + pause
        if now < due:
            return due
        if self._line is not None and self._opened and not self._closing and not self._connection.congested:
            self._line.write(_KEEP_ALIVE)
        self._commented_at = now
        return now + pause

    def abort(self) -> None:
        """At once."""
        if self._line is not None:
            self._line.abort()
        else:
            self._lose(CLIENT_GONE)

    def resume_writing(self) -> None:
        """Goes on; the positions that were held back follow."""
        super().resume_writing()
        self._tell_soon()

    def line_lost(self, line: Line) -> None:
        """The client has left, or has got everything."""
        self._line = None
        self._forget_positions()
        self._connection.lost(CLIENT_GONE)

    def _open(self, welcome: Packet) -> None:
        if self._line is not None:
            self._line.begin(STREAM_HEADERS)
            self._line.write(b"retry: %d\n\n" % random.randint(*_RETRY_MS))
            self._send(welcome)

    def _send(self, packet: Packet) -> None:
        if self._line is not None:
            self._line.write(packet.sse)
            self._untold += len(packet.sse)
            if self._positions is None:
                self._tell_soon()

    def _end(self, close_frame: bytes) -> None:
        if self._line is not None:
            self._tell()
            self._forget_positions()
            self._line.write(b"data: %b\n\n" % close_frame)
            self._line.end()
            asyncio.get_running_loop().call_later(CLOSING_S, self._cut_off)

    def _cut_off(self) -> None:
        if self._line is not None:
            self._line.abort()

    # --- positions

    def _tell_soon(self) -> None:
        if self._positions is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._positions = loop.call_later(self._gateway.settings.sse_position_ms / 1000, self._tell_or_wait)

    def _tell_or_wait(self) -> None:
        self._forget_positions()
        cheap = self._size <= max(_SHORT_BYTES, self._untold // _SHARE)
        if cheap or time.monotonic() >= self._told_at + _MOST_PAUSE_S or self._subscribed != self._subscriptions:
            self._tell()
        else:
            self._tell_soon()

    @property
    def _subscriptions(self) -> tuple[int, str]:
        """Another whenever a topic was subscribed or left: a client that comes back must have them all."""
        topics = self._connection.subscriptions
        return len(topics), next(reversed(topics), "")

    def _tell(self) -> None:
        self._forget_positions()
        connection = self._connection
        if self._line is None or connection.gone or connection.congested:
            return
        self._subscribed, self._told_at = self._subscriptions, time.monotonic()
        cursor = cursor_of(self._gateway, connection, asked=self._asked)
        self._line.write(b"id: %b\n\n" % cursor)
        self._size, self._untold = len(cursor), 0
        # What had to be written for it is in it.
        self._forget_positions()

    def _forget_positions(self) -> None:
        if self._positions is not None:
            self._positions.cancel()
            self._positions = None
