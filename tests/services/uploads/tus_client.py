"""tus by hand: one request at a time, with whatever headers a test wants, and bodies that stop in the middle."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from tests.services.uploads.depot import Depot

BODY = "application/offset+octet-stream"
GUESTS = {"filename": "guests.csv", "document_type": "csv"}


def encoded(metadata: Mapping[str, str]) -> str:
    """``Upload-Metadata``."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())


class TusClient:
    """One person. Headers that are None are left out."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ask(self, method: str, url: str, headers: Mapping[str, Any] | None = None, **more: Any) -> httpx.Response:
        """Any request."""
        sent = {"Tus-Resumable": "1.0.0", **(headers or {})}
        pairs = [(name, value) for name, value in sent.items() if isinstance(value, str)]
        pairs += [(name, item) for name, value in sent.items() if isinstance(value, list) for item in value]
        answer = await self.http.request(method, url, headers=pairs, **more)
        assert answer.headers.get_list("tus-resumable") == ["1.0.0"], "every answer says it, and once"
        return answer

    async def post(self, size: int | None, metadata: Mapping[str, str] = GUESTS, **headers: Any) -> httpx.Response:
        """Begins an upload; ``headers`` with underscores."""
        content = headers.pop("content", b"")
        named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
        length = {"Upload-Length": str(size)} if size is not None else {}
        return await self.ask(
            "POST", "/v1/uploads", {**length, "Upload-Metadata": encoded(metadata), **named}, content=content
        )

    async def create(self, size: int, metadata: Mapping[str, str] = GUESTS, **headers: Any) -> str:
        """The same where nothing goes wrong; its URL."""
        answer = await self.post(size, metadata, **headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    async def patch(self, url: str, offset: int, content: Any, **headers: Any) -> httpx.Response:
        """Sends bytes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Upload-Offset": str(offset), "Content-Type": BODY, **named}
        return await self.ask("PATCH", url, sent, content=content)

    async def offset(self, url: str) -> int:
        """How far it is."""
        answer = await self.ask("HEAD", url)
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"])


def tus(house: Depot, user: str = "ada", **more: Any) -> TusClient:
    """To be closed by whoever closes its ``http``."""
    return TusClient(house.http(user, **more))


class Hanging:
    """A PATCH whose body does not end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """More of the body."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and head."""
        async with asyncio.timeout(30):
            head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head.lower()

    async def cut(self) -> None:
        """The connection is lost."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def hanging(
    house: Depot, url: str, offset: int, length: int, *headers: str, first: bytes = b"", ttl_s: float = 60.0
) -> AsyncIterator[Hanging]:
    """Its head says that ``length`` bytes follow; the test sends them, or not. ``first``: those that come with it."""
    hub = house.nodes[0]
    lines = (
        f"PATCH {url} HTTP/1.1",
        "Host: hub",
        f"Authorization: Bearer {hub.token('acme', 'ada', ttl_s=ttl_s)}",
        "Tus-Resumable: 1.0.0",
        f"Content-Type: {BODY}",
        f"Upload-Offset: {offset}",
        f"Content-Length: {length}",
        *headers,
    )
    request = Hanging(*await asyncio.open_connection("127.0.0.1", hub.port))
    try:
        await request.send("\r\n".join([*lines, "", ""]).encode() + first)
        yield request
    finally:
        await request.cut()
