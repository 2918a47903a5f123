"""What a service and a connection say to one another when a method has to know who calls it: handles for chunks.

Only the words. ``hub.edge.handles`` implements ``Caller`` and ``Handle``, a service ``Intake``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hub.auth.principal import Principal
from hub.errors import HubError


class Intake(Protocol):
    """Takes the chunks of one handle (PROTOCOL section 9). Called on the event loop; no method may block."""

    def chunk(self, offset: int, data: memoryview) -> None:
        """The client says that ``data`` (at least a byte) begins at ``offset``.

        Raises ``HubError``, which the client gets as an ``error`` with ``details: {handle, offset}``; the offset
        expected is the error's own ``details["offset"]``. Nothing of such a chunk may have been taken.
        """

    def lost(self) -> None:
        """The connection is gone, or its client may not go on. Nothing comes any more; called once at most."""


class Handle(Protocol):
    """A number by which the chunks of one upload come over one connection."""

    @property
    def number(self) -> int:
        """From 1; never given twice on one connection."""

    def credit(self, offset: int, window: int) -> None:
        """Sends ``credit``: everything below ``offset`` is safe, and ``window`` bytes more may be under way."""

    def refuse(self, error: HubError) -> None:
        """Sends ``error`` with ``details: {handle, …}`` and those of the error."""

    def close(self) -> None:
        """The number is void. Chunks that are still under way are dropped without a word. Again is nothing."""


class Caller(Protocol):
    """The connection that calls a method."""

    @property
    def principal(self) -> Principal:
        """Who it is now."""

    def open_handle(self, intake: Intake) -> Handle:
        """A handle on this connection. Raises ``quota_exceeded`` when it has ``max_handles``, ``unavailable`` when the
        connection is gone."""


CallerMethod = Callable[[Caller, dict[str, Any]], Awaitable[Any]]
"""A method that knows its connection: (who calls, params) -> result. Raises ``HubError``."""
