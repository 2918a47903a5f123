"""Documents over HTTP: whole and in parts, to whom they may go, and what ends a download."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.edge.http_hub import assert_problem
from tests.services.uploads.depot import Depot, depot, sha256, some_text
from tests.services.uploads.shelved import available
from tests.services.uploads.tus_client import TusClient, tus
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

MANY = some_text(600_000)
HUGE = some_text(40_000_000)  # more than sockets and transports keep


@pytest.fixture
async def ada(house: Depot) -> AsyncIterator[TusClient]:
    client = tus(house)
    async with client.http:
        yield client


async def test_a_document(ada: TusClient, house: Depot) -> None:
    url = await available(ada, MANY, "gäste.csv") + "/content"
    answer = await ada.http.get(url)
    assert (answer.status_code, answer.content) == (200, MANY)
    expected = {
        "content-type": "text/csv",
        "content-length": str(len(MANY)),
        "content-disposition": "attachment; filename=\"g_ste.csv\"; filename*=UTF-8''g%C3%A4ste.csv",
        "etag": f'"{sha256(MANY)}"',
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cross-origin-resource-policy": "same-origin",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    head = await ada.http.head(url, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers.get(name) for name in expected} == expected
    part = await ada.http.get(url, headers={"Range": "bytes=100000-499999", "If-Range": expected["etag"]})
    assert (part.status_code, part.content) == (206, MANY[100_000:500_000])
    assert part.headers["content-range"] == f"bytes 100000-499999/{len(MANY)}"
    assert part.headers["content-length"] == "400000"
    twice = await ada.http.get(url, headers=[("Range", "bytes=0-1"), ("Range", "bytes=0-1")])
    assert twice.status_code == 200
    known = await ada.http.get(url, headers={"If-None-Match": expected["etag"], "Range": "bytes=0-1"})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", expected["etag"])
    beyond = await ada.http.get(url, headers={"Range": f"bytes={len(MANY)}-"})
    assert_problem(beyond, "bad_request", 416)
    assert beyond.headers["content-range"] == f"bytes */{len(MANY)}"


async def test_only_what_is_available_and_only_to_whom_it_may_go(ada: TusClient, house: Depot) -> None:
    ready = await available(ada, MANY) + "/content"
    receiving = await ada.create(10) + "/content"
    problem = assert_problem(await ada.http.get(receiving), "conflict")
    assert problem["details"] == {"state": "receiving"}
    assert_problem(await ada.http.get("/v1/uploads/nobodys/content"), "not_found")
    stranger, foreigner = tus(house, "grace"), tus(house, "ada", org="other")
    reader, weak = tus(house, "grace", scope="uploads:read subscribe:* call:*"), tus(house, scope="subscribe:*")
    async with stranger.http, foreigner.http, reader.http, weak.http:
        assert_problem(await stranger.http.get(ready), "not_found")
        assert_problem(await foreigner.http.get(ready), "not_found")
        assert_problem(await weak.http.get(ready), "forbidden")
        assert (await reader.http.get(ready)).content == MANY
    assert_problem(await ada.http.get(ready, headers={"Authorization": ""}), "unauthenticated")
    assert (await ada.ask("DELETE", ready.removesuffix("/content"))).status_code == 204
    assert (await ada.http.get(ready)).status_code == 409


@contextlib.asynccontextmanager
async def download(house: Depot, url: str, node: int = 0) -> AsyncIterator[asyncio.StreamReader]:
    """A client that has read the head, and reads nothing more by itself."""
    hub = house.nodes[node]
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port, limit=4096)
    try:
        head = f"GET {url} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {hub.token('acme', 'ada')}\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_broken_off(house: Depot, reader: asyncio.StreamReader, downloads: int = 1) -> None:
    """It ends, and before the document does; so many have then."""
    logs = house.nodes[-1].logs  # all nodes log there
    await until(lambda: len(logs.named("upload_content_broken_off")) == downloads, what="the download to be ended")
    came = 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            while piece := await reader.read(1_000_000):
                came += len(piece)
    assert came < len(HUGE)


async def test_what_ends_a_download(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with depot(redis_url, hub_database, tmp_path, nodes=2) as house:
        ada, admin = tus(house), house.http("admin", node=1, scope="admin")
        async with ada.http, admin:
            url = await available(ada, HUGE) + "/content"
            async with download(house, url) as reader:
                house.nodes[0].leave()
                await is_broken_off(house, reader)
            async with download(house, url, node=1) as reader:
                assert (await admin.post("/v1/admin/kick", json={"user": "ada"})).status_code < 300
                await is_broken_off(house, reader, 2)


async def test_a_client_that_takes_nothing_is_given_up(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, no_progress_s=0.2) as house:
        ada = tus(house)
        async with ada.http:
            url = await available(ada, HUGE) + "/content"
            async with download(house, url) as reader:
                await is_broken_off(house, reader)
