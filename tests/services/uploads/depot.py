"""Nodes with the upload service on one store, one Redis and one PostgreSQL, and people who send files by hand."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from hub.api import Hub, Service
from hub.protocol.codec import Encoding
from hub.protocol.frames import Credit, Error
from services.events.service import events
from services.uploads.service import uploads
from tests.support.files import files_in
from tests.support.hub_database import HubDatabase
from tests.support.raw_client import RawClient, raw_client
from tests.support.running_hub import EVERYTHING, RunningHub, SocketKind, running_hub
from tests.support.waiting import until


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that no position of them resembles another: a fault of order shows."""
    return random.Random(seed).randbytes(size)


def some_text(size: int, seed: int = 1) -> bytes:
    """A table that any check takes for one, of exactly this size."""
    dice = random.Random(seed)
    line = b"".join(b"%d;guest %d;%d\r\n" % (n, dice.randrange(10**9), dice.randrange(10**9)) for n in range(2000))
    head = b"number;name;amount\r\n"
    return (head + line * (size // len(line) + 1))[:size]


class Person:
    """A user by one raw connection."""

    def __init__(self, client: RawClient, hub: RunningHub, token: str) -> None:
        self.client = client
        self.hub = hub
        self.token = token

    async def call(self, method: str, **params: Any) -> Any:
        """Calls ``upload.<method>``."""
        return await self.client.result({"type": "call", "method": f"upload.{method}", "params": params})

    async def refused(self, method: str, code: str, **params: Any) -> Error:
        """The same, expecting a refusal."""
        return await self.client.refusal({"type": "call", "method": f"upload.{method}", "params": params}, code)

    async def create(self, data: bytes, filename: str = "guests.csv", document_type: str = "csv", **more: Any) -> Any:
        """Begins an upload of ``data``."""
        return await self.call("create", filename=filename, size=len(data), document_type=document_type, **more)

    async def chunk(self, handle: int, offset: int, data: bytes) -> None:
        """One chunk, whatever it is worth."""
        if self.client.encoding is Encoding.JSON:
            await self.client.send_raw(handle.to_bytes(4) + offset.to_bytes(8) + data)
        else:
            await self.client.send({"type": "chunk", "handle": handle, "offset": offset, "data": data})

    async def send(self, opened: Any, data: bytes, until: int | None = None, step: int = 65_536) -> None:
        """Sends ``data`` from where ``opened`` says, within the credit."""
        offset, edge = opened["offset"], opened["offset"] + opened["window"]
        end = len(data) if until is None else until
        while offset < end:
            if offset >= edge:
                credit = await self.client.await_kind(Credit)
                if credit.handle == opened["handle"]:
                    edge = credit.offset + credit.window
                continue
            piece = data[offset : min(offset + step, end, edge)]
            await self.chunk(opened["handle"], offset, piece)
            offset += len(piece)

    async def taken(self, opened: Any) -> None:
        """Waits until the hub has read what was sent: what comes over another connection may overtake it."""
        await self.call("status", upload=opened["upload"])

    async def acknowledged(self, opened: Any, offset: int) -> None:
        """Waits until the hub has said that everything below is safe."""
        while True:
            credit = await self.client.await_kind(Credit)
            if credit.handle == opened["handle"] and credit.offset >= offset:
                return

    async def ended(self, upload: str, state: str = "available", timeout: float = 30.0) -> Any:
        """Its shape, when it is in that state."""
        found: dict[str, Any] = {}

        async def is_there() -> bool:
            found.update(await self.call("status", upload=upload))
            return bool(found["state"] == state)

        await until(is_there, timeout, f"the upload to be {state}")
        return found


class Depot:
    """The nodes, and people of organisations."""

    def __init__(
        self, nodes: list[RunningHub], hubs: list[Hub], folder: Path, database: HubDatabase, stack: Any
    ) -> None:
        self.nodes = nodes
        self.hubs = hubs
        self.folder = folder
        self.database = database
        self._stack: contextlib.AsyncExitStack = stack

    async def person(
        self,
        user: str = "ada",
        *,
        org: str = "acme",
        node: int = 0,
        scope: str = EVERYTHING,
        encoding: Encoding = Encoding.JSON,
    ) -> Person:
        """Somebody who is connected until the end of the test."""
        hub = self.nodes[node]
        token = hub.token(org, user, scope=scope)
        client = await self._stack.enter_async_context(raw_client(hub.url, token=token, encoding=encoding))
        await client.hello()
        return Person(client, hub, token)

    def http(
        self, user: str = "ada", *, org: str = "acme", node: int = 0, scope: str = EVERYTHING
    ) -> httpx.AsyncClient:
        """The same person by HTTP; to be entered."""
        hub = self.nodes[node]
        headers = {"Authorization": f"Bearer {hub.token(org, user, scope=scope)}"}
        return httpx.AsyncClient(base_url=hub.http_url, headers=headers, timeout=30.0)

    def stored(self) -> list[str]:
        """The names of all objects in the store."""
        return sorted(str(path.relative_to(self.folder)) for path in files_in(self.folder))

    def content(self, upload: str, org: str = "acme") -> bytes:
        """What the store has of it."""
        return (self.folder / org / upload / "content").read_bytes()

    async def rows(self, query: str, *args: Any, org: str = "acme") -> list[Any]:
        """What PostgreSQL has, as the serving role in an organisation."""
        async with self.database.connect("hub_app") as link, link.transaction():
            await link.execute("SELECT set_config('hub.org', $1, true)", org)
            found: list[Any] = await link.fetch(query, *args)
            return found


@contextlib.asynccontextmanager
async def depot(
    redis_url: str,
    database: HubDatabase,
    folder: Path,
    *,
    nodes: int = 1,
    kind: SocketKind = "direct",
    others: Sequence[Any] = (),
    allowed_errors: Any = (),
    **changes: Any,
) -> AsyncIterator[Depot]:
    """``nodes`` hubs with the upload service; ``changes`` are settings."""
    settings = {
        "database_url": database.url("hub_app"),
        "database_relay_url": database.url("hub_relay"),
        "outbox_poll_s": 0.1,
        "uploads_store": f"file:{folder}",
        "uploads_creates_burst": 10_000,
        "uploads_reads_burst": 10_000,
        "uploads_flush_s": 0.1,
        "uploads_janitor_s": 0.2,
        "uploads_release_s": 30.0,  # a writer that finishes late is no dead one
    } | changes
    async with contextlib.AsyncExitStack() as stack:
        hubs: list[Hub] = []

        def factory(hub: Hub) -> Service:
            hubs.append(hub)
            return uploads(hub)

        running = [
            await stack.enter_async_context(
                running_hub(
                    kind, redis_url, factories=[events, factory, *others], allowed_errors=allowed_errors, **settings
                )
            )
            for _ in range(nodes)
        ]
        yield Depot(running, hubs, folder, database, stack)


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()
