"""Nodes as real processes that stream content, and editors who follow it wherever they are connected."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import redis

from hub.client import ClientOptions, HubClient
from hub.embedded import RedisServer
from hub.fanout.bodies import name_and_data
from hub.orgs import OrgId, topic_names
from services.content.pipeline import Pipeline
from tests.services.content.studio import Editor
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase
from tests.support.hub_process import SECRET, HubProcess
from tests.support.waiting import until

ORG = "acme"
OWNER = "ada"
LEASE_S = 2.0
TAKEN_OVER_S = 25.0
"""For another node to go on. It takes a lease and a quarter; the machine may be busy."""

_OPTIONS = ClientOptions(backoff_base_s=0.1, backoff_max_s=0.5, now_jitter_s=0.0, max_subscriptions=200)


class Clocked(Editor):
    """An editor who knows when the last chunk came."""

    def __init__(self) -> None:
        super().__init__()
        self.last_at = 0.0
        self.longest_wait_s = 0.0
        """Between two chunks."""

    def take(self, event: Any) -> None:
        now = time.monotonic()
        if event.name == "chunk":
            if self.last_at:
                self.longest_wait_s = max(self.longest_wait_s, now - self.last_at)
            self.last_at = now
        super().take(event)


class Newsroom:
    """Two nodes. Node 0 is reached through doors: to its clients, to Redis, and to PostgreSQL."""

    def __init__(self, nodes: list[HubProcess], door: CutProxy, to_postgres: CutProxy, redis: RedisServer) -> None:
        self.nodes = nodes
        self.door = door
        """Of the editors who are connected to node 0, as a load balancer's: it leads to another node when that dies."""
        self.to_postgres = to_postgres
        self.redis = redis
        self.waits: list[float] = []
        """Seconds for which the streams of a dead node stood still."""

    async def ready(self) -> None:
        """Both nodes run."""
        self.to_postgres.resume()
        for node in self.nodes:
            if not node.running:
                await node.start()
        self.door.target = ("127.0.0.1", self.nodes[0].port)

    async def lose(self, *, politely: bool = False) -> None:
        """Node 0 dies, or leaves; whoever comes through the door is at node 1 then."""
        self.door.target = ("127.0.0.1", self.nodes[1].port)
        if politely:
            await self.nodes[0].terminate()
        else:
            await self.nodes[0].kill()

    @contextlib.asynccontextmanager
    async def desk(self, user: str = OWNER, *, door: bool = False, node: int = 0) -> AsyncIterator[Desk]:
        """A client at a node, or behind the door."""
        port = self.door.port if door else self.nodes[node].port
        async with HubClient(f"ws://127.0.0.1:{port}/ws", lambda: token(user), options=_OPTIONS) as client:
            desk = Desk(client)
            try:
                yield desk
            finally:
                await desk.leave()

    def written(self, stream: str) -> str:
        """What a language model has said, as it stands in Redis."""
        names = topic_names(OrgId.from_claim(ORG), f"content_dictation:{stream}")
        with redis.Redis(unix_socket_path=str(self.redis.socket_path)) as link:
            entries = [name_and_data(fields[b"body"]) for _, fields in link.xrange(names.history)]
        return "".join(data["text"] for name, data in entries if name == "text")


class Desk:
    """A client, and the editors who use it."""

    def __init__(self, client: HubClient) -> None:
        self.client = client
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, method: str, **params: Any) -> Any:
        """A method's result."""
        return await self.client.call(method, params)

    async def watch(self, stream: str, *, ack: bool = False) -> Clocked:
        """An editor who follows a stream from its start."""
        editor = Clocked()
        subscription = self.client.subscribe(f"content:{stream}", since="start", on_gap=editor.gaps.append, ack=ack)
        joined = asyncio.Event()

        async def follow() -> None:
            async with subscription:
                joined.set()
                async for event in subscription:
                    editor.take(event)

        self._tasks.append(asyncio.create_task(follow()))
        await joined.wait()
        return editor

    async def leave(self) -> None:
        """Nobody follows any more."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome


async def stored(desk: Desk, stream: str) -> dict[str, Any]:
    """The stream as it is kept, when its end is."""

    async def row() -> Any:
        found = await desk.call("content.get", stream=stream)
        return found if found["finished_ms"] else None

    return dict(await until(row, TAKEN_OVER_S, "the end to be stored"))


def shown(markdown: str) -> str:
    """What the pipeline makes of a text that is complete."""
    live = Pipeline().live()
    live.feed(markdown)
    live.finish()
    return live.html


def sanitised(source: str, kind: str) -> str:
    """What the pipeline makes of a document."""
    return Pipeline().document(source, kind).document.html


def page(words: int) -> str:
    """HTML of about so many words, with everything that makes cutting hard."""
    parts = ["<h2>A <em>page</em></h2>"]
    for n in range(words // 10):
        parts.append(
            f"<p>Paragraph <b>number <i>{n}</i></b> &amp; some &lt;words&gt;.</p><ul><li>one<li>two 👩‍👩‍👧</ul>"
            if n % 3
            else f"<table><tr><td>{n}</td><td onclick='alert(1)'>cell</td></tr></table><script>alert({n})</script>"
        )
    return "".join(parts)


def same(editors: list[Editor], html: str) -> None:
    """All of them have this document, every chunk once and in order, and one end."""
    for editor in editors:
        assert editor.document.html == html
        indexes = [chunk["index"] for chunk in editor.chunks]
        assert indexes == list(range(len(indexes))), "lost, doubled, or out of order"
        assert len(editor.named("stream_start")) == 1
        assert len(editor.named("stream_complete")) == 1
        assert editor.named("stream_error") == []
        assert editor.events[-1].name == "stream_complete"
        assert editor.result is not None
        assert editor.result["chunks"] == len(indexes)
    first = editors[0]
    assert all(editor.chunks == first.chunks for editor in editors)


def token(user: str) -> str:
    """Good at all nodes."""
    scope = "subscribe:* publish:* call:*"
    claims = {"sub": user, "org": ORG, "aud": "hub", "exp": time.time() + 3600, "scope": scope}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@contextlib.asynccontextmanager
async def newsroom(redis: RedisServer, database: HubDatabase, folder: Path, **changes: str) -> AsyncIterator[Newsroom]:
    """Runs it; ``changes`` are settings as they stand in the environment."""
    home = database.server.home
    port = parse_qs(urlsplit(database.url("hub_app")).query)["port"][0]
    async with (
        CutProxy(home.sockets / f".s.PGSQL.{port}") as to_postgres,
        CutProxy(("127.0.0.1", 1)) as door,
    ):
        settings = {
            "HUB_REDIS_URL": redis.url,
            "HUB_DATABASE_RELAY_URL": "",
            "HUB_MESSAGES_PER_SECOND": "100000",
            "HUB_MESSAGES_BURST": "100000",
            "HUB_HEARTBEAT_S": "1",
            "HUB_DRAIN_WINDOW_S": "0.5",
            "HUB_DRAIN_GRACE_S": "0.5",
            "HUB_DUTY_LEASE_S": str(LEASE_S),
            "HUB_CONTENT_SESSION_REQUESTS": "10000",
            "HUB_CONTENT_RUNNING_PER_USER": "1000",
            "HUB_ASSISTANT_OFFLINE_WORDS_PER_S": "100",
            **changes,
        }
        near = f"postgresql://hub_app@127.0.0.1:{to_postgres.port}/{database.name}?sslmode=disable"
        nodes = [
            HubProcess("node0", folder, settings | {"HUB_DATABASE_URL": near}),
            HubProcess("node1", folder, settings | {"HUB_DATABASE_URL": database.url("hub_app")}),
        ]
        room = Newsroom(nodes, door, to_postgres, redis)
        try:
            yield room
        finally:
            to_postgres.resume()
            for node in nodes:
                await node.kill()
        for node in nodes:
            assert node.faults() == []
