"""A whole node with the chat route, whose providers lead to a fake language model; everything over real sockets."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from hub.api import Hub, Service
from hub.embedded import RedisServer
from hub.fake_llm import FakeLlmServer
from services.content.assistant import AssistantLimits, AssistantMetrics, Provider, Writer, build_providers
from services.content.chat import chat_routes
from services.content.pipeline import Pipeline
from tests.support.running_hub import EVERYTHING, RunningHub, running_hub

PATH = "/v1/chat/stream"
_users = itertools.count(1)


def chat_service(hub: Hub, providers: Sequence[Provider] = ()) -> Service:
    """The route alone. ``providers`` instead of those of the settings."""
    writer = Writer(providers or build_providers(hub.settings), hub.settings, metrics=AssistantMetrics(hub.registry))
    limits = AssistantLimits(hub.limits, hub.settings)
    routes = chat_routes(hub, writer, Pipeline(), limits)
    return Service(name="chat-route", routes=routes, stop=writer.close)


class ChatHub:
    """A node, a client of it, and the fake behind it."""

    def __init__(self, hub: RunningHub, client: httpx.AsyncClient, fake: FakeLlmServer) -> None:
        self.hub = hub
        self.client = client
        self.fake = fake

    def headers(self, user: str = "", scope: str | None = EVERYTHING) -> dict[str, str]:
        """With the token of a user; unless named, one whom nobody counted yet."""
        return {"Authorization": f"Bearer {self.hub.token(user=user or f'u{next(_users)}', scope=scope)}"}

    async def post(self, path: str = PATH, user: str = "", **how: Any) -> httpx.Response:
        """The whole answer."""
        headers = self.headers(user) | how.pop("headers", {})
        return await self.client.post(path, headers=headers, **(how or {"json": ask()}))

    @contextlib.asynccontextmanager
    async def streaming(self, path: str = PATH, user: str = "", **how: Any) -> AsyncIterator[httpx.Response]:
        """An answer that has begun. Leaving closes the connection."""
        how.setdefault("json", ask())
        async with self.client.stream("POST", path, headers=self.headers(user), **how) as response:
            assert response.status_code == 200, await response.aread()
            yield response


def ask(text: str = "a-question-that-stays-between-us", **more: Any) -> dict[str, Any]:
    """A body."""
    return {"messages": [{"role": "user", "content": text}], **more}


ChatHubWith = Callable[..., contextlib.AbstractAsyncContextManager[ChatHub]]


@pytest.fixture
def chat_hub_with(redis_server: RedisServer, fake: FakeLlmServer) -> ChatHubWith:
    """Makes nodes; settings by name."""

    @contextlib.asynccontextmanager
    async def make(
        kind: Any = "direct", model: str = "fake", providers: Sequence[Provider] = (), **changes: Any
    ) -> AsyncIterator[ChatHub]:
        lead: dict[str, Any] = {
            "assistant_providers": ("openai",),
            "assistant_openai_base_url": f"{fake.url}/v1",
            "assistant_openai_model": model,
            "assistant_backoff_base_s": 0.001,
            "assistant_connect_timeout_s": 30.0,
            "assistant_ip_requests_per_minute": 60_000,
            "assistant_ip_requests_burst": 60_000,
        }
        settings = lead | changes
        service = functools.partial(chat_service, providers=providers)
        async with (
            running_hub(kind, redis_server.url, factories=[service], **settings) as hub,
            httpx.AsyncClient(base_url=hub.http_url, timeout=45) as client,
        ):
            yield ChatHub(hub, client, fake)

    return make
