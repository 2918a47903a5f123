"""Who goes into a room next, on this node.

Whoever changes a room waits for the counter of its topic with a connection in his hands. So that a busy room does not
take all connections of the pool, few wait there, and the others here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from hub.api import ErrorCode, HubError, OrgId

# One that has the room, and one whose statement waits in PostgreSQL, so that no round trip lies between two.
_INSIDE: Final = 2
_RETRY_MS: Final = 1000


class _Queue:
    """Of one room; there while somebody is inside or waits."""

    def __init__(self) -> None:
        self.count = 0
        self.places = asyncio.Semaphore(_INSIDE)


class Turns:
    """A queue for each room that is being changed; at most ``most`` wait in one, for at most ``timeout_s``."""

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._queues: dict[tuple[OrgId, str], _Queue] = {}

    @contextlib.asynccontextmanager
    async def turn(self, org: OrgId, room: str) -> AsyncIterator[None]:
        """Waits, in the order in which they come. Raises ``rate_limited`` when too many do, or for too long."""
        queue = self._queues.setdefault((org, room), _Queue())
        if queue.count >= self._most + _INSIDE:
            raise _busy()
        queue.count += 1
        try:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await queue.places.acquire()
            except TimeoutError as error:
                raise _busy() from error
            try:
                yield
            finally:
                queue.places.release()
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[org, room]


def _busy() -> HubError:
    return HubError(ErrorCode.RATE_LIMITED, "too many change this room at once; try again", retry_after_ms=_RETRY_MS)
