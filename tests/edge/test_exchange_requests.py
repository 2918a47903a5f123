"""Requests for streams and polls, byte by byte: nobody makes the hub keep or wait for much before it knows who asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from hub.embedded import RedisServer
from tests.edge.exchange_hub import SETTINGS
from tests.support.running_hub import RunningHub, SocketKind, running_hub
from tests.support.waiting import until

PATIENT = SETTINGS | {"http_head_bytes": 4096, "http_head_s": 60.0, "http_body_s": 60.0}
HELLO = json.dumps({"type": "hello", "topics": ["room:a"]}).encode()


@pytest.fixture(scope="module")
async def node(redis_server: RedisServer, socket_kind: SocketKind) -> AsyncIterator[RunningHub]:
    async with running_hub(socket_kind, redis_server.url, **PATIENT) as hub:
        yield hub


class Line:
    """One connection, as raw as can be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def head(self, length: int, *more: str, target: str = "/v1/poll") -> None:
        lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def answer(self) -> tuple[int, bytes]:
        """Status and body."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)


@contextlib.asynccontextmanager
async def opened(hub: RunningHub) -> AsyncIterator[Line]:
    line = Line(*await asyncio.open_connection("127.0.0.1", hub.port))
    try:
        yield line
    finally:
        line.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await line.writer.wait_closed()


def bearer(hub: RunningHub, token: str = "") -> str:
    return f"Authorization: Bearer {token or hub.token()}"


async def test_a_header_without_end_is_refused(node: RunningHub) -> None:
    if node.stock:
        pytest.skip("a stock server has limits of its own")
    async with opened(node) as line:
        line.writer.write(b"GET /v1/sse HTTP/1.1\r\nX: ")
        for _ in range(5):
            line.writer.write(b"a" * 1024)
            await line.writer.drain()
        status, body = await line.answer()
        assert (status, json.loads(body)["code"]) == (431, "too_large")


async def test_a_head_that_drips_gets_no_more_time(redis_server: RedisServer, socket_kind: SocketKind) -> None:
    if socket_kind == "asgi":
        pytest.skip("a stock server has limits of its own")
    settings = PATIENT | {"http_head_s": 0.3}
    async with running_hub(socket_kind, redis_server.url, **settings) as node, opened(node) as line:
        line.writer.write(b"GET /v1/sse HTTP/1.1\r\nX: ")

        reading = asyncio.create_task(line.reader.read())

        def dripped() -> bool:
            line.writer.write(b"a")
            return reading.done()

        await until(dripped, what="the hub to lose its patience")
        with contextlib.suppress(ConnectionError):
            assert await reading == b""


async def test_nobody_makes_the_hub_read_a_large_body_without_a_token(node: RunningHub) -> None:
    async with opened(node) as line:
        line.head(node.settings.http_hello_bytes + 1)
        status, body = await line.answer()
        assert (status, json.loads(body)["code"]) == (413, "too_large")
        assert "Authorization" in json.loads(body)["detail"]
    async with opened(node) as line:
        line.head(node.settings.http_hello_bytes + 1, bearer(node, "not-a-token"))
        assert (await line.answer())[0] == 401
    async with opened(node) as line:
        line.head(100, bearer(node), "Origin: https://evil.example")
        assert (await line.answer())[0] == 403


@pytest.mark.parametrize("known", [True, False])
async def test_a_body_has_its_time(redis_server: RedisServer, socket_kind: SocketKind, known: bool) -> None:
    settings = PATIENT | {"http_body_s": 1.0}
    async with running_hub(socket_kind, redis_server.url, **settings) as node, opened(node) as line:
        line.head(1000, *([bearer(node)] if known else []))
        line.writer.write(b"   ")
        status, body = await line.answer()
        assert (status, json.loads(body)["code"]) == (408, "bad_request")


async def test_a_body_in_pieces(node: RunningHub) -> None:
    async with opened(node) as line:
        for piece in (1, 10, len(HELLO) - 1):
            line.head(len(HELLO), bearer(node))
            line.writer.write(HELLO[:piece])
            await line.writer.drain()
            await until(lambda: _asking(node) or node.stock, what="the head to be looked at")
            # And another request right behind it.
            line.writer.write(HELLO[piece:] + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            status, body = await line.answer()
            assert (status, json.loads(body)["frames"][0]["type"]) == (200, "welcome")
            assert (await line.answer())[0] == 200


def _asking(hub: RunningHub) -> bool:
    return any(task.get_name() == "exchange" for task in asyncio.all_tasks(hub.loop))


async def test_a_ticket_is_good_for_a_body_that_comes_later(node: RunningHub) -> None:
    ticket = await node.within(lambda: _ticket(node))
    async with opened(node) as line:
        line.head(len(HELLO), target=f"/v1/poll?ticket={ticket}")
        await until(lambda: _asking(node) or node.stock, what="the head to be looked at")
        line.writer.write(HELLO)
        assert (await line.answer())[0] == 200


async def _ticket(hub: RunningHub) -> str:
    principal = await hub.gateway.verifier.verify(hub.token())
    return await hub.gateway.tickets.issue(principal, ttl_s=30)


async def test_bytes_behind_the_request_of_a_stream_are_dropped(node: RunningHub) -> None:
    if node.stock:
        pytest.skip("a stock server keeps them, and does not read on")
    async with opened(node) as line:
        line.head(len(HELLO), bearer(node), target="/v1/sse")
        await until(lambda: _asking(node), what="the head to be looked at")
        line.writer.write(HELLO + b"x" * (16 << 20))
        async with asyncio.timeout(30):
            await line.reader.readuntil(b"welcome")
            await line.writer.drain()


@pytest.mark.parametrize("path", ["/v1/poll", "/v1/sse", "/v1/frames"])
async def test_what_is_no_utf_8_is_refused_wherever_it_stands(node: RunningHub, path: str) -> None:
    body = HELLO[:-1] + b',"subscribe":[{"topic":"room:b","x":"\xff"}],"frames":[{"x":"\xff"}]}'
    async with opened(node) as line:
        line.head(len(body), bearer(node), target=path)
        line.writer.write(body)
        status, answer = await line.answer()
        assert (status, json.loads(answer)["code"]) == (400, "bad_request")
        assert "UTF-8" in json.loads(answer)["detail"]


@pytest.mark.parametrize("path", ["/v1/poll", "/v1/sse"])
async def test_who_asks_far_too_often_is_told_to_wait(node: RunningHub, path: str) -> None:
    node.gateway.admission.askings._spent_until["acme", "quick"] = time.monotonic() + 60
    async with opened(node) as line:
        line.head(len(HELLO), bearer(node, node.token(user="quick")), target=path)
        line.writer.write(HELLO)
        status, answer = await line.answer()
        assert (status, json.loads(answer)["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("token", ["", "not-a-token"])
async def test_401_is_the_same_as_elsewhere(node: RunningHub, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=node.http_url, timeout=30) as client:
        theirs = await client.get("/v1/topics/room:a/events", headers=headers)
        ours = await client.get("/v1/poll?topics=room:a", headers=headers)
    assert ours.status_code == theirs.status_code == 401
    for name in ("www-authenticate", "cache-control", "content-type"):
        assert ours.headers[name] == theirs.headers[name]
