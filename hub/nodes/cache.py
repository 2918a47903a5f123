"""Values that may be made again, kept in Redis for all nodes. A cache: whoever uses it must do without it too."""

from __future__ import annotations

import time
from collections.abc import Callable

from hub.config import Settings
from hub.errors import HubError
from hub.nodes.fail_open import FailOpen
from hub.orgs import OrgId, cache_key
from hub.redis import Redis


class Cache:
    """Never raises because Redis is away: nothing is found then, and nothing kept."""

    def __init__(self, redis: Redis, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._max_bytes = settings.cache_max_bytes
        self._away = FailOpen(settings.limits_retry_s, clock, event="cache_not_reached")

    async def get(self, org: OrgId, purpose: str, name: str) -> bytes | None:
        """What was kept under this name; None when there is nothing."""
        key = cache_key(org, purpose, name)
        if self._away.pausing:
            return None
        try:
            value: bytes | None = await self._redis.command(key, "GET", key)
        except HubError as error:
            self._away.let_through(purpose, error)
            return None
        return value

    async def put(self, org: OrgId, purpose: str, name: str, value: bytes, *, ttl_s: float) -> None:
        """Keeps ``value`` for ``ttl_s`` at most; it may be gone before. Nothing of more than ``cache_max_bytes``."""
        key = cache_key(org, purpose, name)
        if len(value) > self._max_bytes or self._away.pausing:
            return
        try:
            await self._redis.command(key, "SET", key, value, "PX", max(1, int(ttl_s * 1000)))
        except HubError as error:
            self._away.let_through(purpose, error)
