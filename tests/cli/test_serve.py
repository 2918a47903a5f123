"""``hub serve`` as a process: one and several workers, wrong settings, a supervisor that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from hub.client import ClientOptions, HubClient
from hub.embedded import RedisServer
from tests.cli.conftest import SECRET, Commands
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


@pytest.mark.usefixtures("fake_app")
@pytest.mark.parametrize("workers", [1, 2])
async def test_serve(hub_command: Commands, workers: int) -> None:
    port = free_port()
    run = await hub_command.start("serve", "--workers", str(workers), PORT=str(port), **NOWHERE)
    answer = await until(lambda: ask(port), timeout=20)
    assert answer[1] == port
    assert (answer[0] == run.process.pid) == (workers == 1)
    run.signal(signal.SIGTERM)
    assert await run.ends() == 0
    assert run.out.count("drained") == workers
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.usefixtures("fake_app")
async def test_a_worker_that_is_killed_comes_back(hub_command: Commands) -> None:
    port = free_port()
    run = await hub_command.start("serve", "--workers", "2", "--port", str(port), **NOWHERE)
    victim, _ = await until(lambda: ask(port), timeout=20)
    os.kill(victim, signal.SIGKILL)
    await run.shows("ended with status -9", where="err")
    seen: set[int] = set()

    async def two_others() -> bool:
        answer = await ask(port)
        seen.update({answer[0]} if answer else set())
        return len(seen - {victim}) == 2

    await until(two_others, timeout=20)
    run.signal(signal.SIGINT)
    assert await run.ends() == 0


@pytest.mark.usefixtures("fake_app")
async def test_workers_do_not_outlive_their_supervisor(hub_command: Commands) -> None:
    port = free_port()
    run = await hub_command.start("serve", "--workers", "2", "--port", str(port), **NOWHERE)
    worker, _ = await until(lambda: ask(port), timeout=20)
    run.signal(signal.SIGKILL)
    await run.process.wait()
    await until(lambda: not alive(worker), timeout=20)


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


async def test_the_real_hub_with_two_workers(
    hub_command: Commands, redis_server: RedisServer, redis_url: str, hub_database: HubDatabase
) -> None:
    port = free_port()
    environ = {"HUB_REDIS_URL": redis_url, "HUB_DATABASE_URL": hub_database.url("hub_app"), "HUB_DRAIN_WINDOW_S": "0"}
    run = await hub_command.start("serve", "--workers", "2", PORT=str(port), **environ)
    token = (
        await hub_command("token", "--org", "acme", "--user", "al", "--scope", "subscribe:* publish:*")
    ).out.strip()
    options = ClientOptions(use_system_proxy=False)
    url = f"ws://127.0.0.1:{port}/ws"
    async with (
        HubClient(url, lambda: token, options=options) as publisher,
        HubClient(url, lambda: token, encoding="msgpack", options=options) as reader,
        reader.subscribe("events:finance") as events,
    ):
        for number in range(20):
            published = await publisher.publish("events:finance", "n", number)
            assert published.seq == number + 1
        async with asyncio.timeout(10):
            assert [(await anext(events)).data for _ in range(20)] == list(range(20))
    run.signal(signal.SIGTERM)
    assert await run.ends() == 0
    assert SECRET not in run.out + run.err
