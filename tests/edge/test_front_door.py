"""The front door: a request for the hub's socket waits unread, and whoever leaves meanwhile is forgotten."""

from __future__ import annotations

import asyncio
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
        doors.append(front_door(turnstile, 1.0)(config=config, server_state=ServerState(), app_state={}))
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


async def test_a_client_that_goes_on_sending_after_its_answer_is_cut_off() -> None:
    async def refuses(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    door = front_door(Turnstile(settings(), Metrics()), 0.05)
    config = uvicorn.Config(app=refuses, log_config=None)  # type: ignore[arg-type]
    config.load()
    loop = asyncio.get_running_loop()
    state = ServerState()
    server = await loop.create_server(lambda: door(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
    try:
        head = b"POST / HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n"
        for size, sent in ((10, 10), (10**9, 10)):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(head % size + b"x" * sent)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
            if sent == size:
                writer.write(head % 0)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413"), "the connection goes on"
            else:
                writer.write(b"x" * 100)  # uvicorn would now wait for ever
                async with asyncio.timeout(5):
                    assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await until(lambda: not state.connections)
    finally:
        server.close()
