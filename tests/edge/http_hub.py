"""A whole node on a free port, in the test's event loop: real Redis, real PostgreSQL, real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx
import uvicorn

from hub.app import Node
from hub.auth.principal import Principal
from hub.auth.tokens import mint_token
from hub.config import Settings
from hub.edge.gateway import Gateway
from hub.errors import ERROR_SPECS, ErrorCode
from hub.service import Hub, Service
from hub.topics.kinds import History, SlowPolicy, TopicKind
from tests.support.waiting import until

EVERYTHING = "subscribe:* publish:* call:* admin"


async def _is_member(principal: Principal, key: str) -> bool:
    return principal.user in key.split("-")


async def _first_seen(principal: Principal, key: str) -> int:
    return int(key.rpartition("-")[2])


KINDS = (
    TopicKind(name="events"),
    TopicKind(name="short", history=History(count=3)),
    TopicKind(name="clicks", history=None, slow=SlowPolicy.GAP),
    TopicKind(name="room", may_subscribe=_is_member, may_publish=_is_member),
    # The key ends with the first number that anybody may see.
    TopicKind(name="late", history_from=_first_seen),
)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to pytest."""
        yield


class HttpHub:
    """A running node and a client of it."""

    def __init__(self, node: Node, base_url: str, client: httpx.AsyncClient) -> None:
        self.gateway: Gateway = node.gateway
        self.settings: Settings = node.gateway.settings
        self.base_url = base_url
        self.client = client

    def token(self, user: str = "u1", org: str = "acme", scope: str | None = EVERYTHING, **more: Any) -> str:
        """A valid token."""
        return mint_token(self.settings, org, user, scope=scope, **more)

    def headers(self, user: str = "u1", org: str = "acme", scope: str | None = EVERYTHING) -> dict[str, str]:
        """The header with a valid token."""
        return {"Authorization": f"Bearer {self.token(user, org, scope)}"}

    async def get(
        self, path: str, user: str = "u1", org: str = "acme", headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """GET with a token that allows everything."""
        return await self.client.get(path, headers=self.headers(user, org) | (headers or {}), **more)

    async def post(
        self, path: str, user: str = "u1", org: str = "acme", headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """POST with a token that allows everything."""
        return await self.client.post(path, headers=self.headers(user, org) | (headers or {}), **more)

    async def publish(self, topic: str, name: str = "n", data: Any = None, **more: Any) -> dict[str, Any]:
        """Publishes one event that must be accepted."""
        answer = await self.post("/v1/publish", json={"topic": topic, "name": name, "data": data, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def events(self, topic: str, **params: Any) -> dict[str, Any]:
        """A page that must be there."""
        answer = await self.get(f"/v1/topics/{topic}/events", params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def assert_problem(answer: httpx.Response, code: str, status: int | None = None, says: str = "") -> dict[str, Any]:
    """The answer is a complete problem with this code, and says nothing of the inside."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    spec = ERROR_SPECS[ErrorCode(body["code"])]
    assert body["code"] == code, body
    assert answer.status_code == body["status"] == (status or spec.http_status)
    assert body["type"] == f"urn:hub:error:{code}"
    assert body["title"] == spec.meaning
    assert says in body["detail"], body
    assert "Traceback" not in answer.text
    assert "litestar" not in answer.text.lower()
    return body


@contextlib.asynccontextmanager
async def running_hub(
    settings: Settings, routes: Sequence[Any] = (), *, ready: bool = True, **more: Any
) -> AsyncIterator[HttpHub]:
    """A node with the kinds above, stopped at the end. ``more``: what else its service has."""

    def service(_: Hub) -> Service:
        return Service(name="test", kinds=KINDS, routes=routes, **more)

    node = await Node.build(settings, [service])
    config = uvicorn.Config(
        node.http(), host="127.0.0.1", port=0, log_config=None, access_log=False, ws="websockets-sansio", lifespan="on"
    )
    config.timeout_keep_alive = 600  # a test that is slow for a while finds its lines as it left them
    server = _Server(config)
    running = asyncio.create_task(server.serve(), name="test-hub")
    try:
        await until(lambda: server.started or running.done(), what="the server to start")
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            hub = HttpHub(node, f"127.0.0.1:{port}", client)
            if ready:
                await until(lambda: node.gateway.broker.ready, 30, "the node to be ready")
            yield hub
    finally:
        server.should_exit = True
        await running
