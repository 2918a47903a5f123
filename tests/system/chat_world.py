"""Three nodes as real processes, and people who are connected to them by devices behind doors of their own.

Every door leads to one node, as a load balancer's would, and to another one when that is lost. What people do is for
the tests; what their devices show is compared with the database by ``tests.system.chat_judge``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jwt

from hub.client import ClientOptions, Event, HubClosed, PresenceView, RequestRefused, RequestTimeout, Room, RoomView
from hub.embedded import RedisServer
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import SECRET, HubProcess
from tests.support.servers import client
from tests.system.listener import Listener

ORG = "acme"
SCOPE = "subscribe:* publish:* call:*"

_ASK_AGAIN_S = 0.5
_OPTIONS = ClientOptions(backoff_base_s=0.1, backoff_max_s=0.5, now_jitter_s=0.05, first_connect_timeout_s=60)


class Seat:
    """A device's place in a room: taken whenever the user may be there, and taken again when he may again."""

    def __init__(self, device: Device, room: str) -> None:
        self.room = room
        self._device = device
        self._room: Room | None = None

    @property
    def open(self) -> bool:
        """Whether the device shows the room."""
        return self._room is not None

    @property
    def view(self) -> RoomView:
        """What it shows. Only while ``open``."""
        assert self._room is not None
        return self._room.view

    @property
    def presence(self) -> PresenceView:
        """Who it shows to be there. Only while ``open``."""
        assert self._room is not None
        return self._room.presence

    async def complete(self) -> None:
        """Goes back to the first message, and knows all members."""
        room = self._room
        if room is None:
            return
        while room.view.more_before:
            await room.older(200)
        if not room.view.members_loaded:
            await room.load_members()

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(RequestRefused, RequestTimeout):
                async with Room(self._device.client, self.room, window=1_000_000) as room:
                    try:
                        self._room = room
                        async for _ in room:
                            pass
                    finally:
                        self._room = None
            await asyncio.sleep(_ASK_AGAIN_S)  # nobody tells those who are invited to what they have left


class Device:
    """One client of one user, behind a door of its own."""

    def __init__(self, user: str, name: str, door: CutProxy, token: str) -> None:
        self.user = user
        self.name = name
        self.door = door
        self.node = 0
        """Where the door leads."""
        self.seats: dict[str, Seat] = {}
        self.inbox: list[Event] = []
        """What came on the user's own topic."""
        self.status = "online"
        """As the user has said it; not with every connection of the device."""
        self.gone = False
        """Left for good."""
        self.client = Listener(f"ws://127.0.0.1:{door.port}/ws", lambda: token, options=_OPTIONS)

    async def call(self, method: str, *, retry: bool = True, timeout_s: float = 40.0, **params: Any) -> Any:
        """A method's result. Sent again after a lost connection unless ``retry`` is False."""
        return await self.client.call(method, params, retry=retry, timeout_s=timeout_s)

    async def say_status(self) -> None:
        """Says it for the connection that it has now."""
        await self.call("presence.set", status=self.status)

    @contextlib.asynccontextmanager
    async def reading_inbox(self) -> AsyncIterator[None]:
        """From its start, until the end of the block."""

        async def read() -> None:
            async for event in self.client.subscribe("user:me", since="start", on_gap=lambda _: None):
                self.inbox.append(event)

        task = asyncio.create_task(read(), name=f"{self.name}'s inbox")
        try:
            yield
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(outcome, asyncio.CancelledError | HubClosed):
                raise AssertionError(f"the inbox of {self.name} ended: {outcome!r}") from outcome

    @contextlib.asynccontextmanager
    async def sitting(self, room: str) -> AsyncIterator[Seat]:
        """A seat in a room, from now on."""
        seat = self.seats[room] = Seat(self, room)
        task = asyncio.create_task(seat.keep(), name=f"{self.name} in {room}")
        try:
            yield seat
        finally:
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(outcome, asyncio.CancelledError | HubClosed):
                raise AssertionError(f"{self.name} in {room} ended: {outcome!r}") from outcome

    def __repr__(self) -> str:
        return self.name


class Visitor(Protocol):
    """Somebody behind a door of his own."""

    node: int
    door: CutProxy


class ChatWorld:
    """Nodes, and the doors that lead to them."""

    def __init__(
        self, nodes: list[HubProcess], to_redis: list[CutProxy], redis: RedisServer, database: HubDatabase
    ) -> None:
        self.nodes = nodes
        self.to_redis = to_redis
        """Of each node."""
        self.redis = redis
        self.database = database
        self.devices: list[Visitor] = []
        self._lost: set[int] = set()

    @contextlib.asynccontextmanager
    async def device(
        self, user: str, node: int = 0, *, name: str = "", org: str = ORG, scope: str = SCOPE
    ) -> AsyncIterator[Device]:
        """A connected device; gone at the end."""
        async with CutProxy(("127.0.0.1", 1)) as door:
            device = Device(user, name or user, door, token(user, org=org, scope=scope))
            self.lead(device, node)
            self.devices.append(device)
            try:
                async with device.client:
                    yield device
            finally:
                self.devices.remove(device)

    def lead(self, device: Visitor, node: int) -> None:
        """The device's next connection goes to this node."""
        device.node = node
        device.door.target = ("127.0.0.1", self.nodes[node].port)

    def running(self) -> list[int]:
        """Nodes that take clients."""
        return [number for number in range(len(self.nodes)) if number not in self._lost]

    def avoid(self, number: int, chance: random.Random | None = None) -> None:
        """Whose door leads to this node is led to others, one after the other or by chance."""
        self._lost.add(number)
        others = self.running() or [number]
        moved = [device for device in self.devices if device.node == number]
        for turn, device in enumerate(moved):
            self.lead(device, chance.choice(others) if chance else others[turn % len(others)])

    async def kill(self, number: int, chance: random.Random | None = None) -> None:
        """As a machine that is lost."""
        await self.nodes[number].kill()
        self.avoid(number, chance)

    async def leave(self, number: int, chance: random.Random | None = None) -> int:
        """SIGTERM; new connections go elsewhere from now on. Returns the exit code."""
        self.avoid(number, chance)
        return await self.nodes[number].terminate()

    async def restore(self, number: int) -> None:
        """The node runs again; nobody is led there by himself."""
        await self.nodes[number].start()
        self.welcome(number)

    def welcome(self, number: int) -> None:
        """The node takes clients again; nobody is led there by himself."""
        self._lost.discard(number)

    async def restart_redis(self, *, keeps_data: bool, away_s: float = 0) -> None:
        """As a server that went down in order, or as another one that is empty."""
        if not keeps_data:
            with client(self.redis) as link:
                link.config_set("appendonly", "no")
        await asyncio.to_thread(self.redis.stop)
        if not keeps_data:
            for file in self.redis.home.data.glob("appendonlydir/*"):
                file.unlink()
        await asyncio.sleep(away_s)
        self.redis.start()

    def faults(self) -> list[str]:
        """What the nodes' logs say of faults of their own."""
        return [f"{node.name}: {line[:600]}" for node in self.nodes for line in node.faults()]


def token(user: str, *, org: str = ORG, scope: str = SCOPE) -> str:
    """Good at all nodes."""
    claims = {"sub": user, "name": user.title(), "org": org, "aud": "hub", "exp": time.time() + 7200, "scope": scope}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def environment(redis_url: str, database: HubDatabase, changes: Mapping[str, str]) -> dict[str, str]:
    """A node's settings: short drains and heartbeats, and no limits that a test full of people would meet."""
    return {
        "HUB_REDIS_URL": redis_url,
        "HUB_DATABASE_URL": database.url("hub_app"),
        "HUB_DATABASE_RELAY_URL": database.url("hub_relay"),
        "HUB_DATABASE_POOL": "6",
        "HUB_MESSAGES_PER_SECOND": "100000",
        "HUB_MESSAGES_BURST": "100000",
        "HUB_CHAT_MESSAGES_PER_SECOND": "1000",
        "HUB_CHAT_MESSAGES_BURST": "1000",
        "HUB_HEARTBEAT_S": "1",
        "HUB_DRAIN_WINDOW_S": "1",
        "HUB_DRAIN_GRACE_S": "1",
        "HUB_UNSUBSCRIBE_DELAY_S": "0.1",
        "HUB_OUTBOX_POLL_S": "0.5",
        **changes,
    }


@contextlib.asynccontextmanager
async def chat_world(
    redis: RedisServer, database: HubDatabase, folder: Path, *, nodes: int = 3, **changes: str
) -> AsyncIterator[ChatWorld]:
    """Runs it; ``changes`` are settings as they stand in the environment. Fails when a node logged a traceback."""
    async with contextlib.AsyncExitStack() as stack:
        to_redis = [await stack.enter_async_context(CutProxy(("127.0.0.1", redis.port))) for _ in range(nodes)]
        processes = [
            HubProcess(f"node{number}", folder, environment(f"redis://127.0.0.1:{proxy.port}/0", database, changes))
            for number, proxy in enumerate(to_redis)
        ]
        world = ChatWorld(processes, to_redis, redis, database)
        async with running(world):
            yield world


@contextlib.asynccontextmanager
async def running(world: ChatWorld) -> AsyncIterator[None]:
    """Its nodes run within the block. Fails when one of them logged a traceback."""
    try:
        for node in world.nodes:
            await node.launch()
        for node in world.nodes:
            await node.ready()
        yield
    finally:
        for node in world.nodes:
            await node.kill()
    faults = world.faults()
    assert not faults, faults[:10]
