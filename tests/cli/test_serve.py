"""``hub serve`` as a process: one and several workers, wrong settings, a supervisor that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hub.client import ClientOptions, HubClient, Subscription
from hub.embedded import RedisServer
from tests.cli.conftest import SECRET, Commands, Run
from tests.cli.test_supervisor import alive
from tests.support.hub_database import HubDatabase
from tests.support.servers import free_port
from tests.support.waiting import until

NOWHERE = {"HUB_REDIS_URL": "redis://127.0.0.1:9", "HUB_DATABASE_URL": "postgresql://hub_app@127.0.0.1:9/hub"}


async def ask(port: int) -> tuple[int, int] | None:
    """(process id of the worker that answered, the port it believes to serve)."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    try:
        words = (await reader.read(100)).split()
    except ConnectionError:
        return None
    finally:
        writer.close()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


async def all_workers(port: int, count: int) -> set[int]:
    """Asks until ``count`` of them have answered, each believing to serve ``port``."""
    seen: set[int] = set()

    async def asked() -> bool:
        answer = await ask(port)
        if answer is not None:
            assert answer[1] == port
            seen.add(answer[0])
        return len(seen) == count

    await until(asked, timeout=60)
    return seen


@pytest.mark.usefixtures("fake_app")
@pytest.mark.parametrize("workers", [1, 2])
async def test_serve(hub_command: Commands, workers: int) -> None:
    port = free_port()
    run = await hub_command.start("serve", "--workers", str(workers), PORT=str(port), **NOWHERE)
    seen = await all_workers(port, workers)
    assert (run.process.pid in seen) == (workers == 1)
    run.signal(signal.SIGTERM)
    assert await run.ends() == 0
    assert run.out.count("drained") == workers
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.usefixtures("fake_app")
async def test_a_worker_that_is_killed_comes_back(hub_command: Commands) -> None:
    port = free_port()
    run = await hub_command.start("serve", "--workers", "2", "--port", str(port), **NOWHERE)
    victim, _ = await until(lambda: ask(port), timeout=60)
    os.kill(victim, signal.SIGKILL)
    await run.shows("ended with status -9", where="err")
    assert victim not in await all_workers(port, 2)
    run.signal(signal.SIGINT)
    assert await run.ends() == 0


@pytest.mark.usefixtures("fake_app")
async def test_workers_do_not_outlive_their_supervisor(hub_command: Commands, tmp_path: Path) -> None:
    port = free_port()
    # A folder for metrics of its own would stay behind.
    environ = {**NOWHERE, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = await hub_command.start("serve", "--workers", "2", "--port", str(port), **environ)
    worker, _ = await until(lambda: ask(port), timeout=60)
    run.signal(signal.SIGKILL)
    await run.process.wait()
    await until(lambda: not alive(worker), timeout=60)


@pytest.mark.parametrize(
    ("environ", "lines"),
    [
        (
            {"HUB_JWT_SECRET": "short"},
            ["hub: HUB_REDIS_URL is not set", "hub: HUB_DATABASE_URL is not set"],
        ),
        ({**NOWHERE, "HUB_JWT_SECRET": "short"}, ["hub: HUB_JWT_SECRET has 5 bytes; at least 32 are needed"]),
        ({**NOWHERE, "PORT": "many"}, ["hub: PORT: Expected `int`, got `str`"]),
        ({**NOWHERE, "HUB_TYPO": "1"}, ["hub: HUB_TYPO is not a setting; see docs/configuration.md"]),
        ({**NOWHERE, "HUB_URL": "ws://x/ws", "HUB_TOKEN": "t", "HUB_REDIS_URL": ""}, ["hub: HUB_REDIS_URL is not set"]),
    ],
)
async def test_wrong_settings(hub_command: Commands, environ: dict[str, str], lines: list[str]) -> None:
    run = await hub_command("serve", **environ)
    assert (run.process.returncode, run.out) == (2, "")
    assert run.err.splitlines() == lines


async def test_a_port_that_is_taken(hub_command: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = await hub_command("serve", "--port", str(port), **NOWHERE)
    assert run.process.returncode == 2
    assert run.err.startswith(f"hub: cannot listen on 127.0.0.1 port {port} (")
    assert run.err.endswith("; set PORT or HUB_HOST\n")


@asynccontextmanager
async def real_hub(commands: Commands, redis_url: str, database: HubDatabase) -> AsyncIterator[tuple[Run, str, str]]:
    """Two workers of the hub itself; the command, the WebSocket's address and a token."""
    port = free_port()
    environ = {"HUB_REDIS_URL": redis_url, "HUB_DATABASE_URL": database.url("hub_app"), "HUB_DRAIN_WINDOW_S": "0"}
    run = await commands.start("serve", "--workers", "2", PORT=str(port), **environ)
    options = ("--org", "acme", "--user", "al", "--scope", "subscribe:* publish:*")
    yield run, f"ws://127.0.0.1:{port}/ws", (await commands("token", *options)).out.strip()
    run.signal(signal.SIGTERM)
    assert await run.ends() == 0
    assert SECRET not in run.out + run.err


def workers_of(run: Run) -> set[int]:
    pid = run.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def take(events: Subscription, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [(await anext(events)).data for _ in range(count)]


async def test_no_event_is_lost_when_workers_end(
    hub_command: Commands, redis_server: RedisServer, redis_url: str, hub_database: HubDatabase
) -> None:
    """Both workers drain or die in turn, with clients on them: nothing is lost, nothing comes twice."""
    options = ClientOptions(use_system_proxy=False, backoff_max_s=0.5)
    async with (
        real_hub(hub_command, redis_url, hub_database) as (run, url, token),
        HubClient(url, lambda: token, options=options) as publisher,
        HubClient(url, lambda: token, encoding="msgpack", options=options) as reader,
        reader.subscribe("events:finance") as events,
    ):
        for turn, number in enumerate((None, signal.SIGTERM, signal.SIGKILL)):
            for worker in workers_of(run) if number is not None else ():
                with contextlib.suppress(ProcessLookupError):  # one that drained may have ended meanwhile
                    os.kill(worker, number or 0)
            for count in range(20):
                published = await publisher.publish("events:finance", "n", turn * 20 + count)
                assert published.seq == turn * 20 + count + 1
            assert await take(events, 20) == list(range(turn * 20, turn * 20 + 20))
        assert reader.counters.connections >= 2
        assert reader.counters.violations == 0
        assert reader.counters.gaps == 0


async def test_a_slow_consumer_catches_up_from_history(
    hub_command: Commands, redis_server: RedisServer, redis_url: str, hub_database: HubDatabase
) -> None:
    options = ClientOptions(use_system_proxy=False)
    async with (
        real_hub(hub_command, redis_url, hub_database) as (_, url, token),
        HubClient(url, lambda: token, options=options) as publisher,
        HubClient(url, lambda: token, options=ClientOptions(use_system_proxy=False, buffer_events=50)) as reader,
        reader.subscribe("events:finance") as events,
    ):
        for number in range(400):
            await publisher.publish("events:finance", "n", number)
        await until(lambda: reader.counters.overflows == 1, 60)
        assert await take(events, 400) == list(range(400))
        assert reader.counters.violations == 0
