"""Nodes that lead schedules of flags: real leases and rows, injected clocks, figures told by hand."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry

from hub.database import Database
from hub.errors import ErrorCode
from hub.fanout.control import Signal
from hub.flags import FlagFile, StageState, load_flags
from hub.nodes.duties import DutyBook
from hub.nodes.flags.cohorts import Cohorts
from hub.nodes.flags.leader import PURPOSE, StageLeader
from hub.nodes.flags.store import AuditRow, Change, FlagStore, Stored
from hub.orgs import OrgId
from hub.redis import Redis
from hub.telemetry import DutyMetrics, FlagMetrics
from tests.support.clock import Clock
from tests.support.redis_world import redis_settings

FLAG = "chat"
OPS = OrgId.from_operator("ops")
ON, OFF = {FLAG: True}, {FLAG: False}
FILE = """
flags:
  chat:
    stages: [{after: 0h, percent: 1}, {after: 48h, percent: 10}, {after: 96h, percent: 100}]
    abort_if: {gap_rate: 1, error_rate: 0.1, p99_ms: 500, window: 60s, least: 10}
"""
WINDOW_S = 60.0
HOUR = 3600.0


class StoreRows:
    """What the board does for the leader, as far as it matters here."""

    def __init__(self, store: FlagStore, file: FlagFile) -> None:
        self.store = store
        self.file = file
        self.stored = Stored(0, {}, {})

    async def refresh(self) -> None:
        self.stored = await self.store.read()

    async def set_stage(self, state: StageState, *, kind: Literal["stage", "rollback"], who: str, why: str) -> int:
        try:
            return await self.store.set_stage(state, kind=kind, who=who, why=why)
        finally:
            await self.refresh()

    async def drop_stage(self, flag: str, *, who: str, why: str) -> None:
        await self.store.drop_stage(flag, who=who, why=why)
        await self.refresh()


class StageNode:
    """One node. Its connections: ``on`` and ``off`` so many."""

    def __init__(self, name: str, nodes: StageNodes) -> None:
        self.registry = CollectorRegistry()
        self.redis = Redis(redis_settings(nodes.redis_url))
        # After a jump of its time the duty clock stands for ``redis_timeout_s``.
        settings = redis_settings("redis://unused", duty_lease_s=0.4, redis_timeout_s=1.0)
        self.book = DutyBook(name, settings, DutyMetrics(self.registry), self.redis, nodes.send)
        self.rows = StoreRows(nodes.store, nodes.file)
        self.cohorts = Cohorts(nodes.steady)
        duties = self.book.of(PURPOSE)
        self.leader = StageLeader(settings, name, self.rows, duties, self.cohorts, FlagMetrics(self.registry))
        self.leader.clock = nodes.day
        self.on, self.off = 20, 100
        self.leader.connections = lambda: [ON] * self.on + [OFF] * self.off
        self.alive = True
        self._served = 0

    async def tick(self) -> None:
        await self.rows.refresh()
        await self.leader.tick()

    def serve(self, requests: int, errors: int, *, flags: dict[str, bool] = ON) -> None:
        """So many requests of as many users are answered, and so many by an error."""
        for number in range(requests):
            self._served += 1
            asked = self.cohorts.asked(("acme", f"user-{self._served}"), flags)
            if number < errors:
                self.cohorts.failed(asked, ErrorCode.INTERNAL)
            else:
                self.cohorts.answered(asked)

    async def kill(self) -> None:
        """As SIGKILL: nothing is given back."""
        self.alive = False
        keeper = self.book.of(PURPOSE)._keeper
        assert keeper is not None
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"flag": FLAG} | labels) or 0.0


class StageNodes:
    """Nodes on one Redis and one database, with one clock for all and one that only they count by."""

    def __init__(self, redis_url: str, database: Database) -> None:
        self.redis_url = redis_url
        self.store = FlagStore(database, OPS, 3600.0)
        self.file = load_flags(FILE, "flags.yaml")
        self.day = Clock(1_800_000_000.0)
        self.steady = Clock()
        self._all: list[StageNode] = []

    def add(self) -> StageNode:
        node = StageNode(f"node-{len(self._all)}", self)
        self._all.append(node)
        node.book.start()
        return node

    @property
    def alive(self) -> list[StageNode]:
        return [node for node in self._all if node.alive]

    @property
    def leading(self) -> StageNode:
        (node,) = [node for node in self.alive if node.leader.leads]
        return node

    async def send(self, signal: Signal) -> None:
        """What the control topic does, JSON and all."""
        heard = msgspec.json.decode(msgspec.json.encode(signal), type=Signal)
        for node in self.alive:
            node.book.receive(heard)

    async def tick(self) -> None:
        """Two seconds pass, and every node has its turn."""
        self.day.now += 2
        self.steady.now += 2
        for node in self.alive:
            await node.tick()

    async def state(self) -> StageState:
        return (await self.store.read()).stages[FLAG]

    async def change(self, **change: Any) -> None:
        await self.store.change([Change(FLAG, **change)], "ops/olga", "by hand")

    async def audit(self) -> list[AuditRow]:
        """The oldest first."""
        return (await self.store.audit(FLAG, 100, None))[::-1]

    async def close(self) -> None:
        for node in self._all:
            if node.alive:
                await node.leader.close()
                await node.book.close()
            await node.redis.close()
