"""Nodes that die take their presences with them, once; nodes that are restarted one after the other make no noise."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from hub.embedded import PostgresServer
from hub.orgs import duty_names
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.hub_process import POLITE_EXIT
from tests.support.servers import client, running_redis, temporary_folder
from tests.support.waiting import until
from tests.system.chat_world import ChatWorld, Device, chat_world
from tests.system.conftest import Remark

OFFLINE_S = 40.0
"""Promised are 12: the lease of 8 s, and a sweep. Here others may have the machine; how long it took is told."""
TOPIC = "lobby:one"
SERVICES = {"HUB_SERVICES": "tests.support.lobby_service:SERVICES"}


@pytest.fixture(scope="module")
async def worlds(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[ChatWorld]:
    """The nodes of this module, with leases and grace as they are by default."""
    with running_redis(append_only=True) as redis, temporary_folder() as folder:
        async with (
            empty_database(postgres_server, migrated_template.name) as database,
            chat_world(redis, database, folder, **SERVICES) as world,
        ):
            yield world


@pytest.fixture
async def world(worlds: ChatWorld) -> ChatWorld:
    """All nodes run."""
    for number, node in enumerate(worlds.nodes):
        if not node.running:
            await worlds.restore(number)
    return worlds


class Witness:
    """A device in the room, and what it was told about who is there: applied as PROTOCOL.md says, and counted."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.present: dict[str, str] = {}
        self.joins: Counter[str] = Counter()
        self.leaves: Counter[str] = Counter()
        self.updates: Counter[str] = Counter()
        self.left_at: dict[str, float] = {}
        self.version: tuple[str, int] = ("", 0)
        self.holes = 0
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> None:
        """Subscribes; returns when it knows who is there."""
        subscription = self.device.client.subscribe(TOPIC, on_gap=lambda _: None)
        joined = asyncio.Event()

        async def follow() -> None:
            async with subscription:
                joined.set()
                async for event in subscription:
                    if event.name == "presence":
                        self._take(event.data)

        self._task = asyncio.create_task(follow())
        await joined.wait()
        await until(lambda: self.device.user in self.present, 30, f"{self.device.user} to see himself")

    async def leave(self) -> None:
        """Unsubscribes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def forget(self) -> None:
        """Counts anew."""
        for counted in (self.joins, self.leaves, self.updates):
            counted.clear()
        self.left_at.clear()

    def noise(self, users: Sequence[str]) -> dict[str, list[str]]:
        """Joins, leaves and updates of these users."""
        counted = {"joins": self.joins, "leaves": self.leaves, "updates": self.updates}
        return {name: found for name, of in counted.items() if (found := [user for user in users if of[user]])}

    def _take(self, data: dict) -> None:  # type: ignore[type-arg]
        action, at = data["action"], (data["epoch"], data["version"])
        if action == "snapshot":
            if at[0] != self.version[0] or at[1] >= self.version[1]:
                self.present = {member["user"]: member["status"] for member in data["members"]}
                self.version = at
            return
        if at[0] == self.version[0] and at[1] <= self.version[1]:
            return
        if at != (self.version[0], self.version[1] + 1):
            self.holes += 1
            return
        self.version = at
        user = data["user"]
        if action == "leave":
            self.leaves[user] += 1
            self.left_at.setdefault(user, time.monotonic())
            self.present.pop(user, None)
        else:
            (self.joins if action == "join" else self.updates)[user] += 1
            self.present[user] = data["status"]


class Crowd(contextlib.AsyncExitStack):
    """People in the lobby."""

    def __init__(self, world: ChatWorld) -> None:
        super().__init__()
        self.world = world

    async def witness(self, user: str, node: int) -> Witness:
        """Somebody in the room; to watch, or to be watched."""
        witness = Witness(await self.enter_async_context(self.world.device(user, node)))
        self.push_async_callback(witness.leave)
        await witness.enter()
        return witness

    async def several(self, prefix: str, count: int, node: int) -> list[Witness]:
        """So many of them at one node."""
        return list(await asyncio.gather(*(self.witness(f"{prefix}{number}", node) for number in range(count))))


def users(*groups: Sequence[Witness]) -> list[str]:
    """Their names."""
    return [one.device.user for group in groups for one in group]


async def everybody_sees(watching: Sequence[Witness], expected: set[str]) -> None:
    """Waits until all of them agree on who is there."""
    for witness in watching:
        await until(lambda witness=witness: set(witness.present) == expected, 30, f"{expected} to be all who are there")


async def test_a_killed_node_takes_its_users_with_it_and_nobody_else(world: ChatWorld, remark: Remark) -> None:
    async with Crowd(world) as crowd:
        watching = [await crowd.witness("walter", 1), await crowd.witness("wilma", 2)]
        gone = await crowd.several("gone", 5, 0)
        back = await crowd.several("back", 5, 0)
        both = await crowd.witness("both", 0)
        await crowd.witness("both", 2)
        expected = set(users(watching, gone, back, [both]))
        await everybody_sees(watching, expected)
        for witness in watching:
            witness.forget()

        for one in gone:
            one.device.door.refuse()
        both.device.door.refuse()
        killed = time.monotonic()
        await world.kill(0)
        left = users(gone)
        for witness in watching:
            await until(
                lambda witness=witness: not set(left) & set(witness.present),
                OFFLINE_S - (time.monotonic() - killed),
                f"{left} to be offline for {witness.device.user}",
            )
        took = max(witness.left_at[user] for witness in watching for user in left) - killed
        remark(f"kill -9: the last of {len(left)} users was offline for others after {took:.2f} s")
        # The lease of the dead node has ended: whoever had only lost a connection would be known to be away by now.
        await everybody_sees(watching, expected - set(left))
        for witness in watching:
            assert {user: witness.leaves[user] for user in left} == dict.fromkeys(left, 1)
            assert witness.noise(users(back, [both], watching)) == {}
            assert sum(witness.joins.values()) == 0
        await world.restore(0)
        for one in [*gone, both]:
            await one.device.door.allow()
        await everybody_sees(watching, expected)
        for witness in watching:
            assert {user: witness.joins[user] for user in left} == dict.fromkeys(left, 1)
            assert witness.noise(users(back, [both], watching)) == {}


async def test_a_rolling_restart_makes_no_noise(world: ChatWorld, remark: Remark) -> None:
    """Neither about those who move when they are told to, nor about those who come back when the node is gone."""
    async with Crowd(world) as crowd:
        people = [one for node in range(3) for one in await crowd.several(f"at{node}-", 4, node)]
        late = [await crowd.witness(f"late{node}", node) for node in range(3)]
        expected = set(users(people, late))
        await everybody_sees(people, expected)
        for witness in people:
            witness.forget()
        started = time.monotonic()
        for number in range(3):
            doors = [one.device.door for one in late if one.device.node == number]
            for door in doors:
                door.refuse()
                door.cut()
            assert await world.leave(number) == POLITE_EXIT
            # Within the lease of the node that is gone, however long the next one takes to start.
            for door in doors:
                await door.allow()
            await until(lambda: all(one.device.client.connected for one in late), 30, "the late ones to be connected")
            await until(lambda: all(one.device.client.connected for one in people), 30, "everybody to be connected")
            await world.restore(number)
        took = time.monotonic() - started
        # Until what the last node had is nobody's any more, and whoever was not counted elsewhere would be gone.
        await last_lease_over(world)
        await everybody_sees(people, expected)
        assert [one.noise(sorted(expected)) for one in people] == [{}] * len(people)
        remark(f"rolling restart of {len(world.nodes)} nodes in {took:.2f} s, {len(expected)} users: no noise")


async def last_lease_over(world: ChatWorld) -> None:
    """Waits until the leases of the nodes that run are the only ones left."""
    with client(world.redis) as link:
        ends = duty_names("presence").ends
        await until(lambda: link.zcard(ends) == len(world.nodes), 30, "the leases of the old nodes to be swept")
