"""Three nodes that take uploads into one folder; each has its own way to PostgreSQL, which can be cut and stalled."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from hub.embedded import RedisServer
from tests.support.cut_proxy import CutProxy
from tests.support.files import files_in
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import HubProcess
from tests.system.chat_world import ChatWorld, environment, running
from tests.system.saboteur import Fault, Saboteur

_POSTGRES_PORT = 5432
CHUNK_BYTES = 16_384
WINDOW_BYTES = 131_072
BLOCK_BYTES = 65_536
EXPIRE_S = 15
QUICK = {
    "HUB_UPLOADS_CHUNK_BYTES": str(CHUNK_BYTES),
    "HUB_UPLOADS_WINDOW_BYTES": str(WINDOW_BYTES),
    "HUB_UPLOADS_BLOCK_BYTES": str(BLOCK_BYTES),
    "HUB_UPLOADS_FLUSH_S": "0.1",
    "HUB_UPLOADS_CREDIT_S": "0.3",
    "HUB_UPLOADS_RELEASE_S": "0.5",
    "HUB_UPLOADS_IDLE_S": "2",
    "HUB_UPLOADS_PROGRESS_S": "0.2",
    "HUB_UPLOADS_EXPIRE_S": str(EXPIRE_S),
    "HUB_UPLOADS_JANITOR_S": "0.5",
    "HUB_UPLOADS_CHECK_LEASE_S": "3",
    "HUB_UPLOADS_CLEAR_S": "5",  # longer than any node hangs, or has no database
    "HUB_UPLOADS_OPEN_PER_USER": "1000",
    "HUB_UPLOADS_CREATES_PER_MINUTE": "100000",
    "HUB_UPLOADS_CREATES_BURST": "100000",
    "HUB_UPLOADS_READS_PER_SECOND": "100000",
    "HUB_UPLOADS_READS_BURST": "100000",
}
"""Small windows, so that there are many borders; and nobody wants to wait for what a dead node has left."""


class UploadWorld(ChatWorld):
    """``store``: the folder of all nodes."""

    def __init__(
        self,
        nodes: list[HubProcess],
        to_redis: list[CutProxy],
        to_database: list[CutProxy],
        redis: RedisServer,
        database: HubDatabase,
        store: Path,
    ) -> None:
        super().__init__(nodes, to_redis, redis, database)
        self.to_database = to_database
        """Of each node."""
        self.store = store

    def stored(self) -> dict[str, list[Path]]:
        """Every file in the store, by upload."""
        found: dict[str, list[Path]] = {}
        for path in files_in(self.store):
            _, upload, *_ = *path.relative_to(self.store).parts, ""
            found.setdefault(upload, []).append(path)
        return found


class UploadSaboteur(Saboteur):
    """Also gets between a node and PostgreSQL. Redis is never lost: what it forgets of a topic cannot be counted."""

    def __init__(self, world: UploadWorld, chance: random.Random, *, hang_s: float) -> None:
        super().__init__(world, chance, hang_s=hang_s)
        self._ways = world.to_database

    @property
    def faults(self) -> list[Fault]:
        """All that can be done."""
        return [
            self.kill_a_node,
            self.drain_a_node,
            self.hang_a_node,
            self.cut_the_database,
            self.stall_the_database,
            self.stall_the_database_of_a_node,
            self.restart_redis,
            self.stall_a_link,
            self.cut_all_clients_of_a_node,
            self.move_clients,
        ]

    async def stall_the_database(self) -> None:
        """Nobody gets through, for a moment; then all connections are gone."""
        await self._stall(self._ways, self._chance())

    async def stall_the_database_of_a_node(self) -> None:
        """What it has sent may arrive, late, when somebody else has gone on already; or be lost."""
        chance = self._chance()
        await self._stall([chance.choice(self._ways)], chance)

    async def _stall(self, ways: list[CutProxy], chance: random.Random) -> None:
        direction = chance.choice(("both", "to_target", "to_client"))
        for way in ways:
            way.stall(direction)
        await asyncio.sleep(chance.uniform(0.5, 3))
        if chance.random() < 0.7:
            for way in ways:
                way.cut()
        for way in ways:
            way.resume()


@contextlib.asynccontextmanager
async def upload_world(
    redis: RedisServer, database: HubDatabase, folder: Path, *, nodes: int = 3, **changes: str
) -> AsyncIterator[UploadWorld]:
    """Runs it; ``changes`` are settings as they stand in the environment. Fails when a node logged a traceback."""
    store = folder / "store"
    socket = database.server.home.sockets / f".s.PGSQL.{_POSTGRES_PORT}"
    async with contextlib.AsyncExitStack() as stack:
        to_redis = [await stack.enter_async_context(CutProxy(("127.0.0.1", redis.port))) for _ in range(nodes)]
        to_database = [await stack.enter_async_context(CutProxy(socket)) for _ in range(nodes)]
        processes = []
        for number, (one, other) in enumerate(zip(to_redis, to_database, strict=True)):
            at = f"127.0.0.1:{other.port}/{database.name}?sslmode=disable"
            own = {
                "HUB_DATABASE_URL": f"postgresql://hub_app@{at}",
                "HUB_DATABASE_RELAY_URL": f"postgresql://hub_relay@{at}",
                "HUB_UPLOADS_STORE": f"file:{store}",
            }
            settings = environment(f"redis://127.0.0.1:{one.port}/0", database, {**QUICK, **own, **changes})
            processes.append(HubProcess(f"node{number}", folder, settings))
        world = UploadWorld(processes, to_redis, to_database, redis, database, store)
        async with running(world):
            yield world
