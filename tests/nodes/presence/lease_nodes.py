"""Nodes that have leases on one Redis, for tests; what each has said of presence is up to the test."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from hub.fanout.control import Signal
from hub.nodes.duties import DutyBook
from hub.nodes.presence.lease import NodeLease
from hub.nodes.presence.table import Change, Changed, PresenceTable, Status
from hub.orgs import duty_names
from hub.redis import Redis
from hub.telemetry import DutyMetrics
from hub.topics.topic import Topic
from tests.support.redis_world import redis_settings

ENDS, HOLDERS, CLOCK = duty_names("presence")
LEASE_S = 1.0


class LeaseNode:
    """A node as far as its lease goes."""

    def __init__(self, name: str, url: str, **changes: Any) -> None:
        # After a jump of Redis' time the clock of leases stands for redis_timeout_s.
        settings = redis_settings(url, **{"presence_lease_s": LEASE_S, "redis_timeout_s": 0.5} | changes)
        # A machine that keeps the test waiting is not taken for a Redis that is away.
        self.redis = Redis(redis_settings(url))
        self._registry = CollectorRegistry()
        self.book = DutyBook(name, settings, DutyMetrics(self._registry), self.redis, _send)
        self.duties = self.book.of("presence", lease_s=LEASE_S, hands_over=False)
        self.table = PresenceTable(self.redis, settings)
        self.reborn: list[str] = []
        self.lease = NodeLease(self.duties, self.table, settings, self.reborn.append)
        self.alive = False

    async def start(self) -> None:
        self.alive = True
        await self.lease.start()
        self.book.start()
        await self.lease.held()

    async def say(self, topic: Topic, *users: str, status: Status = Status.ONLINE) -> None:
        await self.table.note(self.lease.instance, [topic])
        changes = [Change(user, "", status) for user in users]
        (outcome,) = await self.table.change(self.lease.instance, [(topic, changes, False)])
        assert isinstance(outcome, Changed)

    async def kill(self) -> None:
        """As SIGKILL: nothing more is said to Redis."""
        self.alive = False
        tasks = [task for task in (self.lease._task, self.duties._keeper) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.redis.close()

    async def stop(self) -> None:
        """As SIGTERM."""
        self.alive = False
        self.book.retire()
        await self.lease.close()
        await self.book.close()
        await self.redis.close()

    def metric(self, name: str) -> float:
        return self._registry.get_sample_value(name, {"purpose": "presence"}) or 0.0


async def _send(_: Signal) -> None:
    raise AssertionError("a lease sends no signals")
