"""The hub with the services of this deployment under load, over a PostgreSQL of its own beside Redis."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from hub.auth.tokens import mint_token
from hub.client import ClientError, ClientOptions, HubClient
from hub.embedded import PostgresServer
from loadtest.hub_server import ORG, SCOPE, HubServer
from loadtest.local_hub import migrate
from loadtest.session import Bench

T = TypeVar("T")


@contextlib.contextmanager
def service_hub(bench: Bench, *, durable: bool, **settings: Any) -> Iterator[tuple[HubServer, PostgresServer]]:
    """Both running, with an empty database. ``durable``: a commit waits for the disk, as it does in earnest."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.folder)))
        database = PostgresServer(folder / "postgres", durable=durable)
        stack.callback(database.stop)
        database.start()
        wanted = {
            "database_url": database.url("hub_app"),
            "database_relay_url": database.url("hub_relay"),
            "database_owner_url": database.url(),
            "services": "services.main:SERVICES",
            "uploads_store": f"file:{folder / 'uploads'}",
            **settings,
        }
        migrate({**os.environ, **HubServer(bench.folder, bench.redis_url, **wanted).environment()})
        yield stack.enter_context(bench.hub(**wanted)), database


def client(hub: HubServer, user: str = "author", **options: Any) -> HubClient:
    """A user of the hub; ``options`` are those of ``ClientOptions``."""
    token = mint_token(hub.settings, ORG, user, scope=SCOPE)
    return HubClient(f"ws://127.0.0.1:{hub.port}/ws", lambda: token, options=ClientOptions(**options))


def together(work: Callable[[HubClient], Awaitable[T]], hub: HubServer, one: HubClient | None = None) -> T:
    """Runs ``work`` with a client in an event loop of its own. Raises ``RuntimeError`` when the hub refuses."""

    async def run() -> T:
        async with one or client(hub) as connected:
            return await work(connected)

    try:
        return uvloop.run(run())
    except ClientError as error:
        raise RuntimeError(str(error)) from error


async def call_times(one: HubClient, method: str, asked: Sequence[dict[str, Any]]) -> list[float]:
    """Milliseconds from each call, one after the other, to its decoded result."""
    times = []
    for params in asked:
        began = time.monotonic()
        await one.call(method, params)
        times.append(1000 * (time.monotonic() - began))
    return times


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and p99."""
    cut = statistics.quantiles(values, n=100)
    return cut[49], cut[98]
