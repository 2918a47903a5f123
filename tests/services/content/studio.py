"""Nodes with the content service on one Redis and one PostgreSQL, and editors that watch its streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hub.api import Hub, Service
from hub.client import HubClient
from hub.client.content import ContentAssembler
from services.content.service import content
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import EVERYTHING, RunningHub, running_hub
from tests.support.waiting import until

ENDS = ("stream_complete", "stream_error")


class Editor:
    """Follows one stream over our own client, as an editor would."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.document = ContentAssembler()
        self.gaps: list[Any] = []

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The data of all chunks that came."""
        return [event.data for event in self.events if event.name == "chunk"]

    @property
    def result(self) -> dict[str, Any] | None:
        """The data of the event that ended the stream."""
        return next((event.data for event in reversed(self.events) if event.name in ENDS), None)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The data of all events of that name."""
        return [event.data for event in self.events if event.name == name]

    async def ended(self, timeout: float = 30.0) -> dict[str, Any]:
        """Waits for the end of the stream."""
        await until(lambda: self.result is not None, timeout, "the stream's end")
        assert self.result is not None
        return self.result

    def take(self, event: Any) -> None:
        """One event of the topic."""
        self.events.append(event)
        if event.name == "stream_start":
            self.document.begin(event.data)
        elif event.name == "chunk":
            self.document.apply(event.data)


class Studio:
    """The nodes, and clients of one organisation."""

    def __init__(self, nodes: list[RunningHub], hubs: list[Hub], stack: contextlib.AsyncExitStack) -> None:
        self.nodes = nodes
        self.hubs = hubs
        """The nodes as their services see them; to be used on their event loops."""
        self._stack = stack

    async def client(
        self, user: str = "ada", *, org: str = "acme", node: int = 0, scope: str = EVERYTHING
    ) -> HubClient:
        """A client that is connected until the end of the test."""
        hub = self.nodes[node]
        token = hub.token(org, user, scope=scope)
        client = HubClient(hub.url, get_token=lambda: token)
        return await self._stack.enter_async_context(client)

    async def watch(self, stream: str, *, client: HubClient | None = None, node: int = 0, **how: Any) -> Editor:
        """An editor that follows ``stream`` from its start."""
        client = client or await self.client("watcher", node=node)
        editor = Editor()
        subscription = client.subscribe(
            f"content:{stream}", since=how.pop("since", "start"), on_gap=editor.gaps.append, **how
        )
        await self._stack.enter_async_context(subscription)

        async def follow() -> None:
            async for event in subscription:
                editor.take(event)

        task = asyncio.create_task(follow())
        self._stack.push_async_callback(_cancelled, task)
        return editor


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def studio(
    redis_url: str | Sequence[str],
    database: HubDatabase,
    *,
    nodes: int = 1,
    allowed_errors: Any = (),
    **changes: Any,
) -> AsyncIterator[Studio]:
    """``nodes`` hubs with the content service, or one for each address of a Redis; ``changes`` are settings."""
    urls = [redis_url] * nodes if isinstance(redis_url, str) else redis_url
    settings = {
        "database_url": database.url("hub_app"),
        "content_session_requests": 1000,
        "content_running_per_user": 1000,
        "duty_lease_s": 1.0,
    } | changes
    async with contextlib.AsyncExitStack() as stack:
        hubs: list[Hub] = []

        def service(hub: Hub) -> Service:
            hubs.append(hub)
            return content(hub)

        running = [
            await stack.enter_async_context(
                running_hub(
                    "direct",
                    url,
                    factories=[service],
                    allowed_errors=allowed_errors,
                    **settings,
                )
            )
            for url in urls
        ]
        yield Studio(running, hubs, await stack.enter_async_context(contextlib.AsyncExitStack()))
