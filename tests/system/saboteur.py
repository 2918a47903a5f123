"""Breaks a world of nodes and repairs it: one fault a method, each over when the method returns."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

from hub.embedded.postgres_server import SUPERUSER
from tests.support.hub_process import POLITE_EXIT
from tests.support.servers import client
from tests.system.chat_world import ChatWorld

Fault = Callable[[], Awaitable[None]]


class Saboteur:
    """``hang_s``: how long a node hangs at most.

    Each fault has a chance of its own from its beginning on: what one does depends on nothing that others do meanwhile.
    """

    def __init__(self, world: ChatWorld, chance: random.Random, *, hang_s: float) -> None:
        self._world = world
        self._random = chance
        self._hang_s = hang_s
        self._lock = asyncio.Lock()
        """One process is restarted at a time: with every node down there would be nobody to test."""

    @property
    def faults(self) -> list[Fault]:
        """All that can be done."""
        return [
            self.kill_a_node,
            self.drain_a_node,
            self.hang_a_node,
            self.cut_the_database,
            self.restart_redis,
            self.lose_redis,
            self.kill_subscribers,
            self.cut_a_link,
            self.stall_a_link,
            self.cut_all_clients_of_a_node,
            self.move_clients,
        ]

    def _chance(self) -> random.Random:
        return random.Random(self._random.getrandbits(32))

    def _node(self, chance: random.Random) -> int:
        return chance.randrange(len(self._world.nodes))

    async def kill_a_node(self) -> None:
        """SIGKILL; it is started again."""
        chance = self._chance()
        async with self._lock:
            number = self._node(chance)
            await self._world.kill(number, chance)
            await self._world.restore(number)

    async def drain_a_node(self) -> None:
        """SIGTERM; it is started again."""
        chance = self._chance()
        async with self._lock:
            number = self._node(chance)
            assert await self._world.leave(number, chance) == POLITE_EXIT
            await self._world.restore(number)

    async def hang_a_node(self) -> None:
        """For longer than its lease, perhaps: the others take it for dead, and it learns that when it wakes up."""
        chance = self._chance()
        async with self._lock:
            number = self._node(chance)
            self._world.nodes[number].signal(signal.SIGSTOP)
            self._world.avoid(number, chance)
            try:
                await asyncio.sleep(chance.uniform(1, self._hang_s))
            finally:
                self._world.nodes[number].signal(signal.SIGCONT)
                self._world.welcome(number)

    async def cut_the_database(self) -> None:
        """All connections to PostgreSQL, wherever they are."""
        async with self._world.database.connect(SUPERUSER) as link:
            await link.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )

    async def restart_redis(self) -> None:
        """In order: it keeps what it has."""
        async with self._lock:
            await self._world.restart_redis(keeps_data=True)

    async def lose_redis(self) -> None:
        """It comes back empty."""
        async with self._lock:
            await self._world.restart_redis(keeps_data=False)

    async def kill_subscribers(self) -> None:
        """Every node's link for events, by Redis itself."""
        with contextlib.suppress(OSError), client(self._world.redis) as link:
            link.client_kill_filter(_type="pubsub")

    async def cut_a_link(self) -> None:
        """All connections of one node to Redis."""
        self._world.to_redis[self._node(self._chance())].cut()

    async def stall_a_link(self) -> None:
        """Nothing comes through between one node and Redis, one way or both."""
        chance = self._chance()
        proxy = self._world.to_redis[self._node(chance)]
        proxy.stall(chance.choice(("both", "to_target", "to_client")))
        await asyncio.sleep(chance.uniform(0.5, 4))
        proxy.resume()

    async def cut_all_clients_of_a_node(self) -> None:
        """All connections of clients to one node."""
        number = self._node(self._chance())
        for device in self._world.devices:
            if device.node == number:
                device.door.cut()

    async def move_clients(self) -> None:
        """A third of the clients are cut, and come back elsewhere."""
        chance = self._chance()
        for device in chance.sample(self._world.devices, len(self._world.devices) // 3):
            self._world.lead(device, chance.choice(self._world.running()))
            device.door.cut()
