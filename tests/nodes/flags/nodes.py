"""Whole nodes on a real PostgreSQL and a real Redis, without their HTTP; the way of one to either can be cut."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from hub.app import Node
from hub.embedded import RedisServer
from hub.flags import Subject
from hub.nodes.flags.board import FlagBoard
from hub.nodes.flags.store import Change
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

FILE = """
flags:
  chat: {rollout: 25, owner: chat, description: Rooms., expires: 2099-01-01}
  uploads: {state: "on", rollout: 100, owner: uploads, description: Files., expires: 2099-01-01}
  colour: {state: ENABLED, variants: {red: "#f00", blue: "#00f"}, defaultVariant: red}
"""
_numbers = itertools.count(1)
WHO = "acme/olga"
ANN = Subject("ann", "acme")


class FlagNode(NamedTuple):
    """A node that runs."""

    node: Node
    board: FlagBoard
    flips: list[frozenset[str]]
    """What it told of changes."""

    async def set(self, flag: str, why: str = "", **change: Any) -> int:
        """Changes one flag; answers with the version."""
        (override,) = await self.board.change([Change(flag, **change)], WHO, why)
        return 0 if override is None else override.version

    def metric(self, name: str, **labels: str) -> float:
        """What a metric says now."""
        self.board.metrics.flush()
        registry = self.node.gateway.metrics.registry
        return registry.get_sample_value(name, labels) or 0.0


class World:
    """Starts nodes that share everything but the file, if it is to be another."""

    def __init__(self, redis: RedisServer, database: HubDatabase, folder: Path) -> None:
        self.file = folder / "feature_flags.yaml"
        self.file.write_text(FILE)
        self._redis = redis
        self._database = database
        self._stack = contextlib.AsyncExitStack()

    async def node(self, **changes: Any) -> FlagNode:
        """A node that is started and hears the others."""
        node = await self.unready(**changes)
        await until(lambda: node.node.gateway.broker.ready, 30, "the node to be ready")
        return node

    async def unready(self, **changes: Any) -> FlagNode:
        """A node that is started, whatever is away."""
        values = {
            "redis_url": self._redis.url,
            "database_relay_url": "",
            "flags_file": str(self.file),
            "flags_recheck_s": 60.0,
            "readiness_timeout_s": 10.0,
            "probe_interval_s": 0.1,
            "probe_timeout_s": 0.5,
            "node": f"flags-{next(_numbers)}",
        }
        node = await Node.build(self._database.settings(**(values | changes)), [])
        flips: list[frozenset[str]] = []
        node.gateway.board.on_change(flips.append)
        self._stack.push_async_callback(node.stop)
        await node.start()
        return FlagNode(node, node.gateway.board, flips)

    async def redis_line(self) -> CutProxy:
        """A way to Redis that can be cut."""
        return await self._stack.enter_async_context(CutProxy(("127.0.0.1", self._redis.port)))

    async def database_line(self) -> tuple[CutProxy, str]:
        """A way to PostgreSQL that can be cut, and its address."""
        socket = self._database.server.home.sockets / ".s.PGSQL.5432"
        line = await self._stack.enter_async_context(CutProxy(socket))
        return line, f"postgresql://hub_app@127.0.0.1:{line.port}/{self._database.name}"

    async def close(self) -> None:
        """Stops all nodes."""
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def world(redis: RedisServer, database: HubDatabase, folder: Path) -> AsyncIterator[World]:
    """Everything is stopped at the end."""
    made = World(redis, database, folder)
    try:
        yield made
    finally:
        await made.close()
