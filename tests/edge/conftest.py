"""Nodes for the tests of the edge, shared by a module: tests use organisations, topics and users of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from hub.embedded import PostgresServer, RedisServer
from hub.protocol.codec import Encoding
from hub.protocol.frames import Event
from tests.edge import transports
from tests.edge.conversation import SHARED_TOPIC
from tests.edge.exchange_hub import SETTINGS, Web, web_of
from tests.edge.http_hub import HttpHub, running_hub
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.peers import Peers
from tests.support.running_hub import RunningHub, SocketKind
from tests.support.running_hub import running_hub as running_socket_hub

HubWith = Callable[..., Awaitable[Peers]]
"""Starts a hub of the test's own: settings by name, and ``encoding``."""


@pytest.fixture(scope="module")
async def http_hub(
    redis_server: RedisServer, postgres_server: PostgresServer, migrated_template: HubDatabase
) -> AsyncIterator[HttpHub]:
    """A running node."""
    async with empty_database(postgres_server, migrated_template.name) as database:
        settings = database.settings(
            redis_url=redis_server.url,
            database_relay_url="",
            max_publish_batch=50,
            max_publish_bytes=400_000,
            max_message_bytes=300_000,
            replay_page_events=20,
            allowed_origins=("https://app.example",),
        )
        async with running_hub(settings) as hub:
            yield hub


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of a hub by every way that its file is for."""
    if "socket_kind" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        metafunc.parametrize(
            "socket_kind", transports.KINDS.get(module, transports.SOCKETS), indirect=True, scope="module"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what cannot be asked over a transport."""
    left_out = [item for item in items if isinstance(item, pytest.Function) and _left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = {id(item) for item in left_out}
        items[:] = [item for item in items if id(item) not in gone]


def _left_out(item: pytest.Function) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    encoding = params.get("encoding", Encoding.JSON)
    name = encoding.name.lower() if isinstance(encoding, Encoding) else ""
    return bool(transports.reason_to_leave_out(item.originalname, params.get("socket_kind", "direct"), name))


@pytest.fixture
def patient_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes wait for one another however long one of them stands still."""
    for name, seconds in (
        ("takeover.SETTLE_S", 10.0),
        ("takeover.ASK_S", 20.0),
        ("relay.SETTLE_S", 10.0),
        ("relay._ASK_S", 20.0),
        ("session_saver.MESSAGE_S", 20.0),
    ):
        monkeypatch.setattr(f"hub.edge.{name}", seconds)


@pytest.fixture(scope="module")
def socket_kind(request: pytest.FixtureRequest) -> SocketKind:
    """By which server and transport the test asks."""
    kind: SocketKind = request.param
    return kind


@pytest.fixture(params=list(Encoding), ids=["json", "msgpack"])
def encoding(request: pytest.FixtureRequest) -> Encoding:
    """What the client speaks."""
    encoding: Encoding = request.param
    return encoding


@pytest.fixture(scope="module")
def transport_settings(request: pytest.FixtureRequest) -> dict[str, float]:
    """What a node needs for the tests of this module besides."""
    return transports.SETTINGS.get(request.module.__name__.rpartition(".")[2], {})


@pytest.fixture(scope="module")
async def hub(
    redis_server: RedisServer, socket_kind: SocketKind, transport_settings: dict[str, float]
) -> AsyncIterator[RunningHub]:
    """A running node with the usual settings."""
    async with running_socket_hub(socket_kind, redis_server.url, **transport_settings) as hub:
        yield hub


@pytest.fixture(scope="module")
async def web_node(redis_server: RedisServer, socket_kind: SocketKind) -> AsyncIterator[RunningHub]:
    """A running node for streams and polls."""
    async with running_socket_hub(socket_kind, redis_server.url, **SETTINGS) as hub:
        yield hub


@pytest.fixture
async def web(web_node: RunningHub) -> AsyncIterator[Web]:
    """Its HTTP, for one user in an organisation of the test's own."""
    async with web_of(web_node) as web:
        yield web


@pytest.fixture
async def peers(hub: RunningHub, encoding: Encoding) -> AsyncIterator[Peers]:
    """Clients of the shared node, in an organisation of the test's own."""
    async with Peers(hub, encoding) as peers:
        yield peers
    peers.check_logs()


@pytest.fixture
async def hub_with(
    redis_server: RedisServer, socket_kind: SocketKind, transport_settings: dict[str, float]
) -> AsyncIterator[HubWith]:
    """Starts nodes with settings of the test's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(encoding: Encoding = Encoding.JSON, org: str = "", **changes: Any) -> Peers:
            wanted = {**transport_settings, **changes}
            node = await stack.enter_async_context(running_socket_hub(socket_kind, redis_server.url, **wanted))
            return await stack.enter_async_context(Peers(node, encoding, org))

        yield start


@pytest.fixture
async def witness(peers: Peers) -> AsyncIterator[None]:
    """Others on the shared topic: events go on all the time, and every one of them arrives, in order."""
    writer = await peers.join("writer", encoding=Encoding.JSON)
    reader = await peers.join("reader", encoding=Encoding.JSON, subscribe=[{"topic": SHARED_TOPIC}])
    count = 0
    enough = asyncio.Event()

    async def publish() -> None:
        nonlocal count
        while not enough.is_set():
            await writer.publish(SHARED_TOPIC, count)
            count += 1
            await asyncio.sleep(0.002)  # leaves the event loop to the client under test

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        enough.set()
        await publishing
    events: list[Event] = []
    while len(events) < count:
        event = await reader.expect(Event)
        if event.by == "writer":
            events.append(event)
    assert [event.data for event in events] == list(range(count))
