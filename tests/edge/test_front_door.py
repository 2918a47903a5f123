"""The front door: a request for the hub's socket waits unread, and whoever leaves meanwhile is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from hub.edge.front_door import FrontDoor, front_door
from hub.fanout.turnstile import Step, Turnstile
from hub.telemetry import Metrics
from tests.support.fan_out import settings
from tests.support.waiting import until


async def test_a_client_that_leaves_in_the_turn_in_which_it_is_let_in() -> None:
    turnstile = Turnstile(settings(newcomer_steps_per_turn=1), Metrics())
    doors: list[FrontDoor] = []

    def door() -> FrontDoor:
        config = uvicorn.Config(app=lambda *_: None, log_config=None)  # type: ignore[arg-type, return-value]
        config.load()
        doors.append(front_door(turnstile, settings())(config=config, server_state=ServerState(), app_state={}))
        return doors[-1]

    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    server = await loop.create_server(door, "127.0.0.1", 0)
    try:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: bool(doors) and doors[0].transport is not None)
        assert turnstile.wait(Step.HELLO) is None, "this turn's only place"
        doors[0].data_received(b"GET /ws HTTP/1.1\r\nHost: hub\r\n\r\n")
        assert doors[0]._waiter is not None
        doors[0].transport.abort()  # it is lost after the turnstile has let it in, and before it goes on
        await until(lambda: doors[0]._waiter is None)
        assert problems == []
        writer.close()
        await writer.wait_closed()
    finally:
        loop.set_exception_handler(None)
        server.close()


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.asynccontextmanager
async def refusing_server(**changes: Any) -> AsyncIterator[tuple[Connect, set[Any]]]:
    """It answers each request as soon as its head has come. Gives its doors too. Every connection ends at the end."""

    async def refuses(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    door = front_door(Turnstile(settings(), Metrics()), settings(**changes))
    config = uvicorn.Config(app=refuses, log_config=None)  # type: ignore[arg-type]
    config.load()
    loop = asyncio.get_running_loop()
    state = ServerState()
    server = await loop.create_server(lambda: door(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writers.append(writer)
        return reader, writer

    try:
        yield connect, state.connections
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await until(lambda: not state.connections)
    finally:
        server.close()


HEAD = b"POST / HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n"


async def answered(reader: asyncio.StreamReader, status: bytes = b"413") -> None:
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status), head


async def is_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):  # it was closed before the last bytes were sent
            await reader.read()


async def test_a_client_that_goes_on_sending_after_its_answer_is_cut_off() -> None:
    async with refusing_server(http_linger_s=0.05) as (connect, _):
        reader, writer = await connect()
        writer.write(HEAD % 10**9 + b"x" * 10)
        await answered(reader)
        writer.write(b"x" * 100)  # uvicorn would now wait for ever
        await is_closed(reader)


async def test_a_client_that_has_sent_all_goes_on() -> None:
    async with refusing_server(http_linger_s=3600) as (connect, doors):
        reader, writer = await connect()
        writer.write(HEAD % 10)
        await answered(reader)
        (door,) = doors
        lingering = door._lingering
        assert not lingering.cancelled()
        writer.write(b"x" * 10 + HEAD % 0)
        await answered(reader)
        assert lingering.cancelled()
        assert door._lingering is None
        writer.write(HEAD % 0)
        await answered(reader)


async def test_heads_are_bounded() -> None:
    async with refusing_server(http_head_bytes=4096) as (connect, _):
        for sent in (b"x" * 5000, b"x" * 5000 + b"\r\n\r\n"):
            reader, writer = await connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: hub\r\nX-Much: ")
            await asyncio.sleep(0)
            writer.write(sent)
            await answered(reader, b"431")
            assert b"too_large" in await reader.readuntil(b"}")
            writer.write(HEAD % 0)  # not heard any more
            writer.write_eof()
            await is_closed(reader)
        reader, writer = await connect()
        for _ in range(5):  # each counts for itself
            writer.write(HEAD % 9000 + b"x" * 9000 + b"POST / HTTP/1.1\r\nX-Less: " + b"x" * 3000)
            await answered(reader)
            writer.write(b"\r\nContent-Length: 0\r\n\r\n")
            await answered(reader)


async def test_a_request_that_does_not_begin() -> None:
    async with refusing_server(http_head_s=0.05) as (connect, _):
        for begun in (b"", b"\r\n", b"GET / HTTP/1.1\r\nHo", HEAD % 0 + b"GET / HT"):
            reader, writer = await connect()
            writer.write(begun)
            await is_closed(reader)


async def test_a_body_that_is_late_is_no_head_that_is() -> None:
    async with refusing_server(http_head_s=3600) as (connect, doors):
        reader, writer = await connect()
        writer.write(HEAD % 1)
        await answered(reader)
        (door,) = doors
        assert door._head_timer is None
        writer.write(b"x" + HEAD % 0)
        await answered(reader)
