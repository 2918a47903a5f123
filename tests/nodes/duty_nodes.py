"""Several nodes that share duties on one Redis, for tests."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from hub.fanout.control import Signal
from hub.nodes.duties import Duties, DutyBook
from hub.orgs import OrgId, duty_names
from hub.redis import Redis
from hub.telemetry import DutyMetrics
from tests.support.redis_world import redis_settings
from tests.support.waiting import until

ACME, OTHER = OrgId.from_claim("acme"), OrgId.from_claim("other")
PURPOSE = "work"
ENDS, HOLDERS, CLOCK = duty_names(PURPOSE)
WAIT_S = 30.0  # two cores that others use as well; leases here are 0.4 s


class DutyNode:
    """A node with one service, which remembers what it is told."""

    def __init__(self, name: str, redis: Redis, nodes: DutyNodes, **changes: Any) -> None:
        # After a jump of Redis' time the duty clock stands for redis_timeout_s.
        quick: dict[str, Any] = {"duty_lease_s": 0.4, "redis_timeout_s": 1.0}
        self._registry = CollectorRegistry()
        self.redis = redis
        settings = redis_settings("redis://unused", **quick | changes)
        self.book = DutyBook(name, settings, DutyMetrics(self._registry), redis, nodes.send)
        self.duties: Duties = self.book.of(PURPOSE)
        self.adopted: list[str] = []
        self.lost: list[str] = []
        self.signals: list[tuple[str, dict[str, Any]]] = []
        self.duties.on_adopt(lambda org, name: self.adopted.append(f"{org}/{name}"))
        self.duties.on_lost(lambda org, name: self.lost.append(f"{org}/{name}"))
        self.duties.on_signal(lambda org, name, message: self.signals.append((f"{org}/{name}", message)))
        self.alive = True

    def holds(self, duty: str) -> bool:
        org, name = duty.split("/")
        return self.duties.holds(OrgId.from_row(org), name)

    async def kill(self) -> None:
        """As SIGKILL: nothing is given back, nothing more is said to Redis."""
        self.alive = False
        keeper = self.duties._keeper
        assert keeper is not None
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    def metric(self, name: str) -> float:
        return self._registry.get_sample_value(name, {"purpose": PURPOSE}) or 0.0


class DutyNodes:
    """Nodes on one Redis."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[DutyNode] = []

    def add(self, *, url: str = "", start: bool = True, name: str = "", **changes: Any) -> DutyNode:
        # A machine that keeps the test waiting is not taken for a Redis that is away.
        redis = Redis(redis_settings(url or self.url))
        node = DutyNode(name or f"node-{len(self._opened)}", redis, self, **changes)
        self._opened.append(node)
        if start:
            node.book.start()
        return node

    async def send(self, signal: Signal) -> None:
        """What the control topic does."""
        for node in self._opened:
            if node.alive:
                node.book.receive(signal)

    async def close(self) -> None:
        for node in self._opened:
            if node.alive:
                await node.book.close()
            await node.redis.close()


async def held(redis: Redis) -> set[str]:
    """What has a holder in Redis; every one of them has a lease."""
    duties = {duty.decode() for duty in await redis.command(HOLDERS, "HKEYS", HOLDERS)}
    assert duties == {duty.decode() for duty in await redis.command(ENDS, "ZRANGE", ENDS, 0, -1)}
    return duties


async def runs_on(redis: Redis, ms: int) -> None:
    """Returns when the duty clock has gone on for ``ms``: whatever should not happen in this time would have."""

    async def now() -> int:
        return int(await redis.command(CLOCK, "HGET", CLOCK, "ms") or 0)

    begin = await now()

    async def passed() -> bool:
        return await now() - begin >= ms

    await until(passed, WAIT_S, "the duty clock to go on")
