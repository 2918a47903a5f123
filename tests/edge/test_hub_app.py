"""``HubApp``: the node as a plain ASGI application, built when a stock server starts its lifespan."""

from __future__ import annotations

import threading

import uvicorn
import uvloop

from hub.app import HubApp
from hub.auth.tokens import mint_token
from hub.embedded import RedisServer
from hub.protocol.frames import Event
from tests.edge.exchange_hub import webs
from tests.support.hub_services import TestService
from tests.support.log_catcher import caught_logs
from tests.support.raw_client import raw_client
from tests.support.running_hub import EVERYTHING, hub_settings
from tests.support.waiting import until


async def test_any_server_can_run_it(redis_server: RedisServer) -> None:
    settings = hub_settings(redis_server.url)
    app = HubApp(settings, [TestService().factory])
    config = uvicorn.Config(app, port=0, ws="websockets-sansio", lifespan="on", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve()), daemon=True)
    with caught_logs() as logs:
        thread.start()
        try:
            await until(lambda: server.started, 30, "the server to listen")
            port = server.servers[0].sockets[0].getsockname()[1]
            token = mint_token(settings, "hub-app", "u1", scope=EVERYTHING)
            async with raw_client(f"ws://127.0.0.1:{port}/ws", token) as client:
                await client.hello(subscribe=[{"topic": "room:a"}])
                await client.publish("room:a", 1)
                await client.expect(Event, seq=1, data=1)
        finally:
            server.should_exit = True
            await until(lambda: not thread.is_alive(), 30, "the server to stop")
        assert logs.named("stopped")
        assert not logs.errors()


async def test_a_stock_server_with_a_limit_stops_although_a_stream_is_open(redis_server: RedisServer) -> None:
    impatient = "Cancel 1 running task(s), timeout graceful shutdown exceeded"
    async with webs("asgi", redis_server.url, allowed_errors={impatient}) as web, web.stream() as stream:
        await stream.frame("welcome")
        web.hub.leave()
        assert (await stream.frame("close"))["code"] == 4504
        await until(lambda: not web.hub._thread.is_alive(), 30, "the hub to stop")
