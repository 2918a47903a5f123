"""Frames per second of one user over all nodes: a token bucket in Redis, leased to connections in slices.

What happens to a client that is over it is the connection's part.
"""

from __future__ import annotations

from typing import Final

from hub.auth.principal import Principal
from hub.config import Settings
from hub.edge.fail_open import FailOpen
from hub.errors import HubError
from hub.orgs import org_key
from hub.redis import Redis, load_script

# A tenth of a second's worth, or of the burst if that is less: at full speed ten round trips a second.
_SLICES: Final = 10


class FrameLimits:
    """The buckets of all users, in Redis. Fails open: while Redis is not reachable, frames are not counted."""

    def __init__(self, redis: Redis, settings: Settings, fail_open: FailOpen) -> None:
        self._redis = redis
        self._script = load_script("hub.edge", "frames.lua")
        redis.register(self._script)
        self._rate = settings.messages_per_second
        self._burst = settings.messages_burst
        self._fail_open = fail_open
        self.slice: Final = max(1, min(self._rate, self._burst) // _SLICES)
        """Frames a connection leases at a time."""

    async def lease(self, principal: Principal, spent: int) -> tuple[int, int]:
        """Pays for ``spent`` frames and leases up to a slice: (frames granted, ms to wait if none were)."""
        if self._fail_open.pausing:
            self._fail_open.let_through("frames")
            return self.slice, 0
        key = org_key(principal.org, "frames", principal.user)
        try:
            granted, wait_ms = await self._redis.run(self._script, [key], [self._rate, self._burst, spent, self.slice])
        except HubError as error:
            self._fail_open.let_through("frames", error)
            return self.slice, 0
        return int(granted), int(wait_ms)


class FrameBudget:
    """What one connection may still send before it has to ask Redis.

    The limit holds over all nodes within the accuracy of a slice (a tenth of a second's worth) per connection: the
    first slice is free and paid for with the second, so a client that sends a few frames and listens costs no round
    trip; and a slice that was leased may be spent later.
    """

    __slots__ = ("_left", "_limits", "_principal", "_unpaid")

    def __init__(self, limits: FrameLimits, principal: Principal) -> None:
        self._limits = limits
        self._principal = principal
        self._left = self._unpaid = limits.slice

    def take(self) -> bool:
        """Takes one frame out of the slice. False: it is empty; ``refill`` before the next ``take``."""
        if self._left == 0:
            return False
        self._left -= 1
        return True

    async def refill(self) -> int:
        """Leases the next slice. 0: there is one; else the milliseconds after which to ask again (``rate_limited``)."""
        if self._left:
            return 0
        self._left, wait_ms = await self._limits.lease(self._principal, self._unpaid)
        self._unpaid = 0
        return wait_ms
