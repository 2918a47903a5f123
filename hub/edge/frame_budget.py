"""What one user may send per second over all nodes, leased in slices from the buckets of ``hub.nodes.limits``.

What happens to a client that is over it is the connection's part.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.nodes.limits import Bucket


class FrameBudget:
    """What one connection may still send before it has to ask Redis.

    The limit holds over all nodes within the accuracy of a slice (a tenth of a second's worth) per connection: the
    first slice is free and paid for with the second, so a client that sends a few frames and listens costs no round
    trip; and a slice that was leased may be spent later.
    """

    __slots__ = ("_bucket", "_left", "_principal", "_unpaid")

    def __init__(self, bucket: Bucket, principal: Principal) -> None:
        self._bucket = bucket
        self._principal = principal
        self._left = self._unpaid = bucket.slice

    def take(self) -> bool:
        """Takes one frame out of the slice. False: it is empty; ``refill`` before the next ``take``."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def owe(self) -> None:
        """One frame that turned out to cost something after it was performed; whatever comes next pays for it."""
        self._left -= 1

    async def wait(self, frames: int) -> None:
        """Takes ``frames`` (1, or 0: only what is owed is paid) as soon as there are so many."""
        while self._left < frames:
            wait_ms = await self.refill()
            if wait_ms:
                await asyncio.sleep(wait_ms / 1000)
        self._left -= frames

    async def refill(self) -> int:
        """Leases the next slice. 0: there is one; else the milliseconds after which to ask again (``rate_limited``)."""
        if self._left > 0:
            return 0
        spent, self._left, self._unpaid = self._unpaid - self._left, 0, 0
        granted, wait_ms = await self._bucket.lease(self._principal.org, self._principal.user, spent)
        self._left += granted
        return wait_ms


class PublishBudget:
    """What users may publish by HTTP requests, which have no connection that could hold a slice: this node holds it.

    Bounded in users; whoever was not heard of for longest loses what is left of his slice.
    """

    def __init__(self, bucket: Bucket, most_users: int) -> None:
        self._bucket = bucket
        self._most_users = most_users
        self._left: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def spend(self, principal: Principal, events: int) -> None:
        """Takes ``events`` out of the user's budget. Raises ``rate_limited``: then nothing may be published."""
        user = (principal.org, principal.user)
        left = self._left.pop(user, 0)
        if left < events:
            granted, wait_ms = await self._bucket.lease(principal.org, principal.user, 0, events - left)
            left += granted
            if left < events:
                self._put_back(user, left)
                wait_ms = max(wait_ms, int((events - left) * 1000 / self._bucket.per_second), 1)
                raise HubError(ErrorCode.RATE_LIMITED, f"at most {self._bucket.allows}", retry_after_ms=wait_ms)
        self._put_back(user, left - events)

    def _put_back(self, user: tuple[str, str], events: int) -> None:
        # Another request of the same user may have put its own slice there meanwhile.
        self._left[user] = self._left.pop(user, 0) + events
        if len(self._left) > self._most_users:
            self._left.popitem(last=False)
