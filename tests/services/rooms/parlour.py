"""Nodes with the chat service on one Redis and one PostgreSQL, and people who talk and listen there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.api import Hub, Service
from hub.client import HubClient, RequestRefused
from services.chat.service import chat
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import EVERYTHING, RunningHub, running_hub
from tests.support.waiting import until

_keys = itertools.count(1)


class Listener:
    """What one client gets of one topic."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.events: list[Any] = []
        self.gaps: list[Any] = []
        self.ended: BaseException | None = None

    def named(self, *names: str) -> list[dict[str, Any]]:
        """The data of all events of these names, in order."""
        return [event.data for event in self.events if event.name in names]

    async def heard(self, name: str, count: int = 1, timeout: float = 30.0) -> dict[str, Any]:
        """The ``count``-th event of that name, when it is there."""
        await until(lambda: len(self.named(name)) >= count, timeout, f"{count} {name} on {self.topic}")
        return self.named(name)[count - 1]


class Person:
    """A user by one connection."""

    def __init__(self, client: HubClient, user: str, stack: contextlib.AsyncExitStack) -> None:
        self.client = client
        self.user = user
        self._stack = stack

    async def do(self, method: str, room: str | None = None, **params: Any) -> Any:
        """Calls ``chat.<method>``."""
        if room is not None:
            params["room"] = room
        return await self.client.call(f"chat.{method}", params)

    async def refused(self, method: str, room: str | None = None, **params: Any) -> RequestRefused:
        """The same, expecting a refusal."""
        with pytest.raises(RequestRefused) as caught:
            await self.do(method, room, **params)
        return caught.value

    async def send(self, room: str, text: str, **params: Any) -> dict[str, Any]:
        """Sends with a key of its own; returns the message."""
        answer = await self.do("send", room, text=text, **({"key": f"k{next(_keys)}"} | params))
        message: dict[str, Any] = answer["message"]
        return message

    async def listen(self, topic: str, **how: Any) -> Listener:
        """Follows a topic until the end of the test."""
        listener = Listener(topic)
        subscription = self.client.subscribe(topic, on_gap=listener.gaps.append, **how)
        await self._stack.enter_async_context(subscription)

        async def follow() -> None:
            try:
                async for event in subscription:
                    listener.events.append(event)
            except Exception as error:
                listener.ended = error

        task = asyncio.create_task(follow())
        self._stack.push_async_callback(_cancelled, task)
        return listener


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Parlour:
    """The nodes, and people of organisations."""

    def __init__(
        self, nodes: list[RunningHub], hubs: list[Hub], database: HubDatabase, stack: contextlib.AsyncExitStack
    ) -> None:
        self.nodes = nodes
        self.hubs = hubs
        """The nodes as their services see them; to be used on their event loops."""
        self.database = database
        self._stack = stack

    async def person(self, user: str = "ada", *, org: str = "acme", node: int = 0, scope: str = EVERYTHING) -> Person:
        """Somebody who is connected until the end of the test."""
        hub = self.nodes[node]
        token = hub.token(org, user, scope=scope)
        client = await self._stack.enter_async_context(HubClient(hub.url, get_token=lambda: token))
        return Person(client, user, self._stack)

    async def rows(self, query: str, *args: Any, org: str = "acme") -> list[Any]:
        """What PostgreSQL has, as the serving role in an organisation."""
        async with self.database.connect("hub_app") as link, link.transaction():
            await link.execute("SELECT set_config('hub.org', $1, true)", org)
            found: list[Any] = await link.fetch(query, *args)
            return found


@contextlib.asynccontextmanager
async def parlour(
    redis_url: str, database: HubDatabase, *, nodes: int = 1, allowed_errors: Any = (), **changes: Any
) -> AsyncIterator[Parlour]:
    """``nodes`` hubs with the chat service; ``changes`` are settings."""
    settings = {
        "database_url": database.url("hub_app"),
        "database_relay_url": database.url("hub_relay"),
        "outbox_poll_s": 0.1,
        "chat_messages_per_second": 1000,
        "chat_messages_burst": 10_000,
        "chat_reads_burst": 10_000,
        "chat_searches_burst": 10_000,
        "chat_changes_per_minute": 60_000,
        "chat_changes_burst": 10_000,
        "chat_read_batch_ms": 50,
    } | changes
    async with contextlib.AsyncExitStack() as stack:
        hubs: list[Hub] = []

        def factory(hub: Hub) -> Service:
            hubs.append(hub)
            return chat(hub)

        running = [
            await stack.enter_async_context(
                running_hub("direct", redis_url, factories=[factory], allowed_errors=allowed_errors, **settings)
            )
            for _ in range(nodes)
        ]
        yield Parlour(running, hubs, database, stack)
