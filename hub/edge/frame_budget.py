"""What one user may send per second over all nodes: token buckets in Redis, leased in slices.

What happens to a client that is over it is the connection's part.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from hub.auth.principal import Principal
from hub.edge.fail_open import FailOpen
from hub.errors import ErrorCode, HubError
from hub.orgs import org_key
from hub.redis import Redis, load_script

# A tenth of a second's worth, or of the burst if that is less: at full speed ten round trips a second.
_SLICES: Final = 10


class Limits:
    """The buckets of all users for one purpose, in Redis. Fails open: while Redis is away, nothing is counted."""

    def __init__(self, redis: Redis, fail_open: FailOpen, *, purpose: str, per_second: int, burst: int) -> None:
        self._redis = redis
        self._script = load_script("hub.edge", "frames.lua")
        redis.register(self._script)
        self._purpose = purpose
        self._burst = burst
        self._fail_open = fail_open
        self.per_second: Final = per_second
        self.slice: Final = max(1, min(per_second, burst) // _SLICES)
        """What is leased at a time."""

    async def lease(self, principal: Principal, spent: int, wanted: int = 0) -> tuple[int, int]:
        """Pays for ``spent`` and leases up to a slice, or ``wanted`` if that is more.

        Answers (granted, ms to wait if nothing was).
        """
        wanted = max(wanted, self.slice)
        if self._fail_open.pausing:
            self._fail_open.let_through(self._purpose)
            return wanted, 0
        key = org_key(principal.org, self._purpose, principal.user)
        try:
            granted, wait_ms = await self._redis.run(self._script, [key], [self.per_second, self._burst, spent, wanted])
        except HubError as error:
            self._fail_open.let_through(self._purpose, error)
            return wanted, 0
        return int(granted), int(wait_ms)


class FrameBudget:
    """What one connection may still send before it has to ask Redis.

    The limit holds over all nodes within the accuracy of a slice (a tenth of a second's worth) per connection: the
    first slice is free and paid for with the second, so a client that sends a few frames and listens costs no round
    trip; and a slice that was leased may be spent later.
    """

    __slots__ = ("_left", "_limits", "_principal", "_unpaid")

    def __init__(self, limits: Limits, principal: Principal) -> None:
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


class PublishBudget:
    """What users may publish by HTTP requests, which have no connection that could hold a slice: this node holds it.

    Bounded in users; whoever was not heard of for longest loses what is left of his slice.
    """

    def __init__(self, limits: Limits, most_users: int) -> None:
        self._limits = limits
        self._most_users = most_users
        self._left: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def spend(self, principal: Principal, events: int) -> None:
        """Takes ``events`` out of the user's budget. Raises ``rate_limited``: then nothing may be published."""
        user = (principal.org, principal.user)
        left = self._left.pop(user, 0)
        if left < events:
            granted, wait_ms = await self._limits.lease(principal, 0, events - left)
            left += granted
            if left < events:
                self._put_back(user, left)
                rate = self._limits.per_second
                wait_ms = max(wait_ms, (events - left) * 1000 // rate, 1)
                raise HubError(ErrorCode.RATE_LIMITED, f"at most {rate} events a second", retry_after_ms=wait_ms)
        self._put_back(user, left - events)

    def _put_back(self, user: tuple[str, str], events: int) -> None:
        # Another request of the same user may have put its own slice there meanwhile.
        self._left[user] = self._left.pop(user, 0) + events
        if len(self._left) > self._most_users:
            self._left.popitem(last=False)
