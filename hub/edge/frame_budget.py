"""What one user may send per second over all nodes, leased in slices from the buckets of ``hub.nodes.limits``.

What happens to a client that is over it is the connection's part.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.nodes.limits import Bucket

_LONGEST_WAIT_S: Final = 1.0  # for a request to be served; beyond, it is refused


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

    def paid(self, frames: int) -> None:
        """So many that come now were paid for on another node."""
        self._left += frames
        self._unpaid += frames

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


class AskingBudget:
    """Requests for streams and polls, of one user on this node: a bucket of their own, in which nobody pays in advance.

    Over all nodes there is none: to ask Redis would cost more than most polls do.
    """

    def __init__(
        self, per_second: int, burst: int, most_users: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._reserve_s = burst / per_second
        self._most_users = most_users
        self._clock = clock
        self._spent_until: dict[tuple[str, str], float] = {}
        """When a bucket will be full again, by user; whoever asked longest ago first."""

    def spend(self, principal: Principal) -> float:
        """Takes one. Returns the seconds, at most one, after which it may be served; raises ``rate_limited``."""
        user, now = (principal.org, principal.user), self._clock()
        spent_until = max(now, self._spent_until.pop(user, now))
        wait_s = spent_until + 1 / self._per_second - self._reserve_s - now
        if wait_s > _LONGEST_WAIT_S:
            self._spent_until[user] = spent_until
            text = f"at most {self._per_second} requests for streams and polls a second"
            raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=int(wait_s * 1000))
        self._spent_until[user] = spent_until + 1 / self._per_second
        self._forget(now)
        return max(0.0, wait_s)

    def _forget(self, now: float) -> None:
        """Two at a time, so that those whose buckets are full do not stay."""
        for user in list(itertools.islice(self._spent_until, 2)):
            if self._spent_until[user] <= now or len(self._spent_until) > self._most_users:
                del self._spent_until[user]
