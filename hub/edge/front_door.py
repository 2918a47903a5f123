"""uvicorn's HTTP protocol, in which a request for the hub's socket waits for its turn before anybody parses it.

When thousands of clients return at once, their requests lie ready together and the event loop reads them in one turn.
And a client that was answered while it still sends does not stay for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from litestar.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hub.edge.handshake import WEBSOCKET_PATH
from hub.fanout.turnstile import Step, Turnstile

_BEGINNINGS = tuple(f"GET {WEBSOCKET_PATH}{end}".encode() for end in " ?")
_TRANSPORT = "hub.transport"
_MOST_KEPT_BYTES = 65_536  # more than any server takes as a head


class FrontDoor(HttpToolsProtocol):
    """``turnstile`` and ``linger_s`` are set on the subclass that ``front_door`` makes."""

    turnstile: Turnstile
    linger_s: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiter: asyncio.Future[None] | None = None
        self._kept = b""
        self._lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Its requests know the transport; see ``break_off``."""
        self.app_state = {**self.app_state, _TRANSPORT: transport}
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Other requests are none of its business and pass at once."""
        if self._waiter is not None:
            self._kept += data
            if len(self._kept) > _MOST_KEPT_BYTES:
                self.transport.pause_reading()
        elif data.startswith(_BEGINNINGS) and (waiter := self.turnstile.wait(Step.HANDSHAKE)) is not None:
            self._waiter, self._kept = waiter, data
            self._unset_keepalive_if_required()
            waiter.add_done_callback(self._go_on)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left; the next one in line moves up."""
        if self._waiter is not None:
            self._waiter.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer that came before the end of its request: the rest is dropped, while a client may need to notice.

        To close at once could lose the answer on its way; uvicorn waits until all has come, or for ever.
        """
        super().on_response_complete()
        cycle = self.cycle
        if cycle.response_complete and cycle.more_body and not self.transport.is_closing():
            self._lingering = self.loop.call_later(self.linger_s, self._end_lingering, cycle)

    def _end_lingering(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body:
            self.transport.close()

    def _go_on(self, waiter: asyncio.Future[None]) -> None:
        self._waiter = None
        # It may have left in the turn in which it was let in.
        if not waiter.cancelled() and not self.transport.is_closing():
            self.transport.resume_reading()
            super().data_received(self._kept)
        self._kept = b""


def break_off(scope: Scope) -> bool:
    """Closes a request's connection at once: what is not sent yet is lost. False: this server does not let us."""
    transport = scope.get("state", {}).get(_TRANSPORT)
    if transport is None:
        return False
    transport.abort()
    return True


def front_door(turnstile: Turnstile, linger_s: float) -> type[FrontDoor]:
    """The class to give to uvicorn as ``http=``."""
    return type("HubHttpProtocol", (FrontDoor,), {"turnstile": turnstile, "linger_s": linger_s})
