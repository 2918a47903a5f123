"""uvicorn's HTTP protocol, in which a request for the hub's socket waits for its turn before anybody parses it.

When thousands of clients return at once, their requests lie ready together and the event loop reads them in one turn.
And a client that was answered while it still sends does not stay for ever, nor one whose request does not begin.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hub.config import Settings
from hub.edge.handshake import WEBSOCKET_PATH
from hub.edge.problems import PROBLEM_JSON, problem
from hub.edge.side_door import BEGINNINGS, SideDoor
from hub.errors import ErrorCode, HubError
from hub.fanout.turnstile import Step, Turnstile

_BEGINNINGS = tuple(f"GET {WEBSOCKET_PATH}{end}".encode() for end in " ?")
_TRANSPORT = "hub.transport"
_MOST_KEPT_BYTES = 65_536  # more than any server takes as a head


class HeadTooLargeError(Exception):
    """Told to the parser, which stops."""


class FrontDoor(HttpToolsProtocol):
    """``turnstile`` and ``settings`` are set on the subclass that ``front_door`` makes."""

    turnstile: Turnstile
    settings: Settings
    side: type[SideDoor] | None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiter: asyncio.Future[None] | None = None
        self._kept = b""
        self._lingering: asyncio.TimerHandle | None = None
        # Of a head that has not ended.
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_bytes = 0
        self._too_large = False
        self._refused = False
        self._between = True
        """No request has begun that has not come whole."""
        self._given_state = self.app_state

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its requests know the transport; see ``break_off``."""
        self.app_state = {**self.app_state, _TRANSPORT: transport}
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Other requests are none of its business and pass at once."""
        if self._waiter is not None:
            self._kept += data
            if len(self._kept) > _MOST_KEPT_BYTES:
                self.transport.pause_reading()
        elif data.startswith(_BEGINNINGS) and (waiter := self.turnstile.wait(Step.HANDSHAKE)) is not None:
            self._waiter, self._kept = waiter, data
            self._unset_keepalive_if_required()
            self._end_head()
            waiter.add_done_callback(self._go_on)
        elif self.side is not None and data.startswith(BEGINNINGS) and self._is_free():
            self._hand_over(self.side, data)
        elif not self._refused:
            self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left; the next one in line moves up."""
        if self._waiter is not None:
            self._waiter.cancel()
        self._end_head()
        self._end_lingering()
        super().connection_lost(exc)

    def take_as_it_is(self, data: bytes) -> None:
        """What the side door gave back: the application answers it."""
        self._parse(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head that came in one piece with its end is not counted before. Only where much was read it can be long."""
        most = self.settings.http_head_bytes
        if self._head_bytes + self._read_bytes > most and self._parsed_bytes() > most:
            self._too_large = True
            raise HeadTooLargeError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All has come. uvicorn does not note that when the answer was complete before."""
        self._between = True
        self._end_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer that came before the end of its request: the rest is dropped, while a client may need to notice.

        To close at once could lose the answer on its way; uvicorn waits until all has come, or for ever.
        """
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """What the parser does not take."""
        if self._too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _is_free(self) -> bool:
        return self._between and self._is_idle() and not self.pipeline and not self._refused

    def _hand_over(self, side: type[SideDoor], data: bytes) -> None:
        """Keeps nothing of the connection."""
        self._end_head()
        self._end_lingering()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]
        door = side(
            self.transport, self.server_state, partial(type(self), self.config, self.server_state, self._given_state)
        )
        self.transport.set_protocol(door)
        door.data_received(data)

    def _parse(self, data: bytes) -> None:
        before, self._read_bytes = self.scope, len(data)
        super().data_received(data)
        # uvicorn begins a scope with the first byte of a head, and names its method at the end of it.
        if self.scope is None or "method" not in self.scope:
            self._count_head(self.scope is not before)
        elif self._head_timer is not None:
            self._end_head()

    def _parsed_bytes(self) -> int:
        punctuation = 4  # of a header: colon, space, end of line
        return len(self.url) + sum(len(name) + len(value) + punctuation for name, value in self.headers)

    def _count_head(self, new: bool) -> None:
        if self._refused or self.transport.is_closing():
            return
        if new and self.cycle is not None:
            # With it came the end of another request, so this piece is not counted.
            self._end_head()
        else:
            self._head_bytes += self._read_bytes
        if self._head_timer is None:
            self._time_head()
        if self._head_bytes > self.settings.http_head_bytes:
            self._refuse()

    def _time_head(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.http_head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._is_idle():
            self.transport.close()
        else:
            # While an answer is under way what follows may lie unread.
            self._time_head()

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        """A head that is too large: what follows is dropped until the client has noticed."""
        self._refused = True
        self._end_head()
        if self._is_idle():
            self.transport.write(_too_large(self.settings.http_head_bytes))
            self._linger()
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _linger(self) -> None:
        self._lingering = self.loop.call_later(self.settings.http_linger_s, self.transport.close)

    def _end_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _go_on(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = None
        # It may have left in the turn in which it was let in.
        if not waiter.cancelled() and not self.transport.is_closing():
            self.transport.resume_reading()
            self._parse(self._kept)
        self._kept = b""


def _too_large(most: int) -> bytes:
    error = HubError(ErrorCode.TOO_LARGE, f"the headers are larger than {most} bytes; send fewer or shorter ones")
    body = msgspec.json.encode(problem(error, 431))
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large",
        f"content-type: {PROBLEM_JSON}",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


def break_off(scope: Scope) -> bool:
    """Closes a request's connection at once: what is not sent yet is lost. False: this server does not let us."""
    transport = scope.get("state", {}).get(_TRANSPORT)
    if transport is None:
        return False
    transport.abort()
    return True


def front_door(turnstile: Turnstile, settings: Settings, side: type[SideDoor] | None = None) -> type[FrontDoor]:
    """The class to give to uvicorn as ``http=``. ``side``: what is given requests for streams and polls."""
    return type("HubHttpProtocol", (FrontDoor,), {"turnstile": turnstile, "settings": settings, "side": side})
