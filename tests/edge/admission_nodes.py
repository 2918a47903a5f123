"""Several nodes that share limits on one Redis, for tests."""

from __future__ import annotations

import time
from typing import Any

from hub.auth.principal import Principal
from hub.config import Settings
from hub.edge.admission import Admission
from hub.nodes.limits import SharedLimits
from hub.orgs import OrgId
from hub.redis import Redis
from tests.support.clock import Clock

ACME, OTHER = OrgId.from_claim("acme"), OrgId.from_claim("other")


def who(user: str = "u1", org: OrgId = ACME, issued_at: float | None = None) -> Principal:
    return Principal(user, org, (), time.time() + 3600, time.time() if issued_at is None else issued_at)


class Nodes:
    """Several nodes on one Redis."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[tuple[Redis, Admission]] = []

    def add(self, clock: Clock | None = None, **changes: Any) -> Admission:
        # A machine that stands still must not pass for an outage of Redis.
        patient = {"redis_timeout_s": 30.0, "redis_connect_timeout_s": 30.0}
        settings = Settings(redis_url=self.url, database_url="x", **(patient | changes))
        redis = Redis(settings)
        clocks = [clock] if clock else []
        admission = Admission(redis, settings, SharedLimits(redis, settings, *clocks), *clocks)
        self._opened.append((redis, admission))
        return admission

    async def close(self) -> None:
        for redis, admission in self._opened:
            await admission.close()
            await redis.close()

    def assert_redis_was_asked(self) -> None:
        """A script that Redis refuses would otherwise pass for an outage, and let everybody in."""
        assert all(admission.fail_open.count == 0 for _, admission in self._opened)
