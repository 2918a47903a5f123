"""A connection's handles: the numbers by which chunks reach whoever takes them (``hub.nodes.callers``).

What a chunk is worth (offset, credit, size) is the intake's business; a number that never was is the client's offence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.nodes.callers import Intake
from hub.protocol.codec import BadFrame
from hub.protocol.frames import Chunk, Credit

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)

CLOSED_S = 5.0
"""Chunks of a handle that was closed may be under way for so long."""
_CLOSED_PER_OPEN = 8
"""So many closed handles are remembered for each that may be open; the oldest are forgotten first."""


class OpenHandle:
    """Implements ``Handle``."""

    __slots__ = ("_handles", "intake", "method", "number")

    def __init__(self, handles: Handles, number: int, intake: Intake, method: str) -> None:
        self._handles = handles
        self.number = number
        self.intake = intake
        self.method = method
        """Which opened it: who may not call it any more may not send chunks either."""

    def credit(self, offset: int, window: int) -> None:
        """Nothing, once it is closed."""
        if self._handles.has(self):
            self._handles.connection.send(Credit(self.number, offset, window))

    def refuse(self, error: HubError) -> None:
        """Also when it is closed."""
        details = {"handle": self.number, **(error.details or {})}
        self._handles.connection.refuse(
            HubError(error.code, error.message, retry=error.retry, retry_after_ms=error.retry_after_ms, details=details)
        )

    def close(self) -> None:
        """The number is void."""
        self._handles.close(self)


class Handles:
    """Those of one connection; made when a method opens the first."""

    __slots__ = ("_closed", "_last", "_open", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._open: dict[int, OpenHandle] = {}  # bounded by max_handles
        self._closed: dict[int, float] = {}
        """Number -> when it was closed, oldest first."""
        self._last = 0

    def open(self, intake: Intake, method: str, most: int) -> OpenHandle:
        """The next number. Raises ``quota_exceeded``."""
        if len(self._open) >= most:
            text = f"a connection may have {most} handles; finish an upload or open another connection"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, details={"limit": most})
        self._last += 1
        handle = self._open[self._last] = OpenHandle(self, self._last, intake, method)
        while len(self._closed) > most * _CLOSED_PER_OPEN:
            del self._closed[next(iter(self._closed))]
        return handle

    def has(self, handle: OpenHandle) -> bool:
        """Whether it is open."""
        return handle.number in self._open

    def close(self, handle: OpenHandle) -> None:
        """Chunks of it are dropped for a while, then they are an offence."""
        if self._open.pop(handle.number, None) is not None:
            self._closed[handle.number] = time.monotonic()

    def take(self, chunk: Chunk) -> bool:
        """Hands a chunk over, or drops it when its handle was closed just now. False: no such handle."""
        handle = self._open.get(chunk.handle)
        if handle is None:
            closed = self._closed.get(chunk.handle)
            return closed is not None and time.monotonic() - closed <= CLOSED_S
        try:
            handle.intake.chunk(chunk.offset, chunk.data)
        except HubError as error:
            handle.refuse(error)
            if self.connection.budget is not None:
                self.connection.budget.owe()
            if error.code is ErrorCode.RATE_LIMITED:
                self.connection.overdid()
        return True

    def refreshed(self, principal: Principal) -> None:
        """A fresh token came; what it does not allow any more ends."""

        def refusal(method: str) -> HubError | None:
            if principal.allows("call", method):
                return None
            return HubError(ErrorCode.FORBIDDEN, f"the fresh token does not allow call:{method}")

        self.withdraw(refusal)

    def withdraw(self, refusal: Callable[[str], HubError | None]) -> None:
        """Ends the handles that were opened by methods which are refused now."""
        for handle in tuple(self._open.values()):
            error = refusal(handle.method)
            if error is not None:
                handle.refuse(error)
                self._lose(handle)

    def lost(self) -> None:
        """The connection is gone or about to be."""
        for handle in tuple(self._open.values()):
            self._lose(handle)

    def _lose(self, handle: OpenHandle) -> None:
        self.close(handle)
        try:
            handle.intake.lost()
        except Exception:
            log.exception("intake failed", connection=self.connection.id, method=handle.method)


class Calling:
    """Implements ``Caller``: one call of one method over a connection."""

    __slots__ = ("_connection", "_method", "_most_handles")

    def __init__(self, connection: Connection, method: str, most_handles: int) -> None:
        self._connection = connection
        self._method = method
        self._most_handles = most_handles

    @property
    def principal(self) -> Principal:
        """Who it is now."""
        return self._connection.verified

    def open_handle(self, intake: Intake) -> OpenHandle:
        """A handle of this connection."""
        connection = self._connection
        if connection.gone or connection.close_code:
            raise HubError(ErrorCode.UNAVAILABLE, "the connection is gone")
        if connection.handles is None:
            connection.handles = Handles(connection)
        return connection.handles.open(intake, self._method, self._most_handles)


def take(connection: Connection, chunk: Chunk) -> None:
    """Performs a chunk."""
    if connection.handles is None or not connection.handles.take(chunk):
        text = "this connection has no such handle; a handle ends with its connection, ask for another"
        connection.offend(BadFrame(ErrorCode.NOT_FOUND, text, None, "chunk", details={"handle": chunk.handle}))
