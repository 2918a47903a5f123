"""How much one user or address may do over all nodes: token buckets and quotas in Redis.

Fails open: while Redis is away nothing is counted. What happens to whoever is over a limit is the caller's part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.nodes.fail_open import FailOpen
from hub.orgs import OrgId, check_purpose, limit_key
from hub.redis import Arg, Redis, Script, load_script

# A tenth of a second's worth, or of the burst if that is less: at full speed ten round trips a second.
_SLICES: Final = 10
_UNITS: Final = ((1, "a second"), (60, "a minute"), (3600, "an hour"))
_LONG_S: Final = 120  # in messages: longer waits are said in minutes


class SharedLimits:
    """Declares the limits of this node; each purpose once. Nodes that declare the same share it."""

    def __init__(self, redis: Redis, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._bucket = load_script("hub.nodes", "bucket.lua")
        self._quota = load_script("hub.nodes", "quota.lua")
        redis.register(self._bucket, self._quota)
        self._purposes: set[str] = set()
        self.fail_open: Final = FailOpen(settings.limits_retry_s, clock)

    def bucket(self, purpose: str, *, per_second: float, burst: int, what: str = "requests") -> Bucket:
        """Token buckets of ``burst``, refilled by ``per_second``, which may be below 1; ``what`` is for messages.

        Raises ``ValueError`` when the purpose is taken, or a figure makes no sense.
        """
        if per_second <= 0 or burst < 1:
            raise ValueError(f"bucket {purpose}: per_second must be positive and burst at least 1")
        return Bucket(self._counter(purpose, self._bucket), per_second=per_second, burst=burst, what=what)

    def quota(self, purpose: str, *, most: int, life_s: int, idle_s: int, what: str = "requests") -> Quota:
        """Sessions of ``most`` uses: from the first use until ``life_s`` later, or ``idle_s`` without a use.

        Raises ``ValueError`` when the purpose is taken, or a figure makes no sense.
        """
        if min(most, life_s, idle_s) < 1:
            raise ValueError(f"quota {purpose}: most, life_s and idle_s must be at least 1")
        return Quota(self._counter(purpose, self._quota), most=most, life_s=life_s, idle_s=idle_s, what=what)

    def _counter(self, purpose: str, script: Script) -> _Counter:
        if purpose in self._purposes:
            raise ValueError(f"the limit {purpose} is declared twice")
        check_purpose(purpose)
        self._purposes.add(purpose)
        return _Counter(self._redis, self.fail_open, purpose, script)


class Bucket:
    """The token buckets of one purpose, one for each user of each organisation."""

    def __init__(self, counter: _Counter, *, per_second: float, burst: int, what: str) -> None:
        self._counter = counter
        self._burst = burst
        self._what = what
        self.per_second: Final = per_second
        self.allows: Final = _rate(per_second, what)
        """The rate in words: ``20 requests a minute``."""
        self.slice: Final = max(1, int(min(per_second, burst)) // _SLICES)
        """What ``lease`` takes at a time."""

    async def spend(self, org: OrgId, who: str, amount: int = 1) -> None:
        """Takes ``amount`` or nothing. Raises ``rate_limited`` with ``retry_after_ms``.

        ``who`` is a user or an address. A user's name may look like an address, so those want purposes of their own.
        Raises ``too_large`` for more than ``burst``: no bucket will ever hold it.
        """
        if amount > self._burst:
            raise HubError(ErrorCode.TOO_LARGE, f"at most {self._burst} {self._what} at once")
        answer = await self._counter.ask(org, who, self.per_second, self._burst, 0, amount, amount)
        if answer is not None and answer[0] < amount:
            wait_ms = int(answer[1])
            message = f"at most {self.allows}; try again in {_duration(wait_ms)}"
            raise HubError(ErrorCode.RATE_LIMITED, message, retry_after_ms=wait_ms)

    async def lease(self, org: OrgId, who: str, spent: int, wanted: int = 0) -> tuple[int, int]:
        """Pays for ``spent`` and takes up to a slice, or ``wanted`` if that is more, for the caller to give out.

        Answers (granted, ms to wait if nothing was).
        """
        wanted = max(wanted, self.slice)
        answer = await self._counter.ask(org, who, self.per_second, self._burst, spent, wanted, 1)
        return (wanted, 0) if answer is None else (int(answer[0]), int(answer[1]))


class Quota:
    """The sessions of one purpose, one for each user of each organisation."""

    def __init__(self, counter: _Counter, *, most: int, life_s: int, idle_s: int, what: str) -> None:
        self._counter = counter
        self._most = most
        self._life_s = life_s
        self._idle_s = idle_s
        self._what = what

    async def spend(self, org: OrgId, who: str) -> None:
        """One use. Raises ``rate_limited`` with ``retry_after_ms`` and details ``limit``; that prolongs nothing.

        A user who is refused and waits that long has a new session; so has one who does nothing for ``idle_s``.
        """
        wait_ms = await self._counter.ask(org, who, self._most, self._life_s * 1000, self._idle_s * 1000)
        if wait_ms:
            raise HubError(
                ErrorCode.RATE_LIMITED,
                f"at most {self._most} {self._what} in a session; wait {_duration(wait_ms)} for a new one",
                retry_after_ms=int(wait_ms),
                details={"limit": self._most},
            )


class _Counter:
    """The script of one purpose."""

    def __init__(self, redis: Redis, fail_open: FailOpen, purpose: str, script: Script) -> None:
        self._redis = redis
        self._fail_open = fail_open
        self._purpose = purpose
        self._script = script

    async def ask(self, org: OrgId, who: str, *args: Arg) -> Any:
        """The script's answer for one user; None when Redis cannot be asked."""
        if self._fail_open.pausing:
            self._fail_open.let_through(self._purpose)
            return None
        try:
            return await self._redis.run(self._script, [limit_key(org, self._purpose, who)], args)
        except HubError as error:
            self._fail_open.let_through(self._purpose, error)
            return None


def _rate(per_second: float, what: str) -> str:
    """In the unit that makes it at least 1, if there is one."""
    seconds, unit = next((unit for unit in _UNITS if per_second * unit[0] >= 1), _UNITS[-1])
    return f"{round(per_second * seconds, 2):.12g} {what} {unit}"


def _duration(ms: int) -> str:
    """For people; ``retry_after_ms`` is exact."""
    seconds = max(1, round(ms / 1000))
    return f"{seconds} s" if seconds < _LONG_S else f"{math.ceil(seconds / 60)} min"
