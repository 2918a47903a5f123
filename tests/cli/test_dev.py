"""``hub dev`` as a process, with the servers and the hub that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub.cli.dev import revive
from hub.embedded import RedisServer
from tests.cli.conftest import Commands, Run
from tests.support.hub_database import HubDatabase
from tests.support.servers import free_port
from tests.support.virtual_loop import run_virtually
from tests.support.waiting import until


@pytest.fixture
def hub_command(hub_command: Commands) -> Commands:
    del hub_command.environ["HUB_JWT_SECRET"]
    # Clients need not leave one after the other here.
    hub_command.environ |= {"HUB_DRAIN_WINDOW_S": "0", "PORT": str(free_port())}
    return hub_command


async def ready(hub_command: Commands, *arguments: str, **environ: str) -> Run:
    run = await hub_command.start("dev", *arguments, **environ)
    await run.shows("hub is ready at")
    await run.shows(' sql "')
    return run


async def stopped(run: Run) -> None:
    run.signal(signal.SIGINT)
    assert await run.ends() == 0


def servers_in(folder: Path) -> list[str]:
    """Command lines of processes whose arguments or working folder lead there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = f"{command} {os.readlink(process / 'cwd')}"
        except OSError:
            continue
        if str(folder) in place and "hub.cli" not in command:
            found.append(command)
    return found


async def test_from_nothing_to_events(hub_command: Commands) -> None:
    run = await ready(hub_command)
    for token in ("acme/alice: ey", "acme/bob: ey", "globex/carol: ey"):
        assert token in run.out
    assert (hub_command.folder / ".hub" / "secret").stat().st_mode & 0o777 == 0o600
    assert servers_in(hub_command.folder)
    # Uploads are kept there, and commands in this folder find them.
    assert (hub_command.folder / ".hub" / "uploads").is_dir()
    assert "file:.hub/uploads" in (await hub_command("doctor")).out

    published = await hub_command("publish", "events:finance", "invoice.paid", '{"amount": 12}')
    assert (published.err, published.process.returncode) == ("", 0)
    rows = await hub_command(
        "sql", "--json", "SELECT current_user, current_setting('hub.org') AS org", "--org", "globex"
    )
    assert rows.out == '{"current_user":"hub_app","org":"globex"}\n'
    written = await hub_command(
        "sql", """SELECT hub_publish('acme', 'events:finance', 'invoice.sent', '{"amount": 13}')"""
    )
    assert written.process.returncode == 0, written.err
    refused = await hub_command("sql", "SELECT hub_publish('globex', 'events:finance', 'x', '1')")
    assert refused.process.returncode == 1
    assert refused.err.startswith("hub: ")

    alice = next(line.split()[-1] for line in run.out.splitlines() if "acme/alice" in line)
    tail = await hub_command.start("tail", "events:finance", "--since", "start", "--token", alice)
    await tail.shows('invoice.paid {"amount":12}')
    tail.signal(signal.SIGINT)
    assert await tail.ends() == 130

    second = await hub_command("dev")
    assert second.process.returncode == 2
    assert "another hub" in second.err

    await stopped(run)
    assert not servers_in(hub_command.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the servers in /proc")
async def test_servers_that_are_killed_come_back_with_what_they_had(hub_command: Commands) -> None:
    run = await ready(hub_command)
    position = (await hub_command("publish", "events:finance", "kept", "1")).out.strip()
    for name, program in (("redis", "valkey-server"), ("postgres", "postgres")):
        kill_server(run.process.pid, program)
        await run.shows(f"hub: {name} has ended; starting it again", where="err")

    async def healed() -> bool:
        publication = await hub_command("publish", "events:finance", "n", "2")
        row = await hub_command("sql", "SELECT 1")
        return publication.process.returncode == row.process.returncode == 0

    await until(healed, 60, "the hub to heal")
    tail = await hub_command.start("tail", "events:finance", "--since", "start", "--json")
    await tail.shows(f'"seq":{position.rpartition(":")[2]},')
    tail.signal(signal.SIGINT)
    assert await tail.ends() == 130
    await stopped(run)
    assert servers_in(hub_command.folder) == []


def kill_server(parent: int, program: str) -> None:
    """SIGKILL to the child of that name."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (pid,) = (int(child) for child in children if program in Path(f"/proc/{child}/cmdline").read_text())
    os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("fake_app")
async def test_data_and_secret_are_kept(hub_command: Commands) -> None:
    first = await ready(hub_command)
    secret = (hub_command.folder / ".hub" / "secret").read_text()
    assert "0001_roles applied" in first.out
    await stopped(first)
    second = await ready(hub_command)
    assert "migrate: up to date" in second.out
    await stopped(second)
    assert (hub_command.folder / ".hub" / "secret").read_text() == secret


@pytest.mark.usefixtures("fake_app")
async def test_ephemeral_keeps_the_secret_only(hub_command: Commands) -> None:
    run = await ready(hub_command, "--ephemeral")
    assert [path.name for path in (hub_command.folder / ".hub").iterdir()] == ["secret"]
    line = next(line for line in run.out.splitlines() if ' sql "' in line)
    url = line.partition('HUB_DATABASE_URL="')[2].partition('"')[0]
    rows = await hub_command("sql", "SELECT 1 AS one", "--json", HUB_DATABASE_URL=url)
    assert rows.out == '{"one":1}\n'
    await stopped(run)
    folder = Path(url.partition("host=")[2].partition("&")[0].replace("%2F", "/"))
    assert not servers_in(folder)


@pytest.mark.usefixtures("fake_app")
async def test_servers_of_ones_own(hub_command: Commands, redis_server: RedisServer, hub_database: HubDatabase) -> None:
    run = await ready(hub_command, HUB_REDIS_URL=redis_server.unix_url, HUB_DATABASE_URL=hub_database.url("hub_app"))
    assert "HUB_DATABASE_OWNER_URL is not set: the database is taken as it is" in run.out
    assert [path.name for path in (hub_command.folder / ".hub").iterdir()] == ["secret"]
    await stopped(run)
    run = await ready(hub_command, HUB_DATABASE_URL=hub_database.url("hub_app"))
    assert not (hub_command.folder / ".hub" / "postgres").exists()
    assert (hub_command.folder / ".hub" / "redis").exists()
    await stopped(run)


class StubbornServer:
    """Does not start before the third attempt; runs for 60 s then."""

    home = SimpleNamespace(name="redis", log="redis.log")

    def __init__(self) -> None:
        self.attempts: list[float] = []

    @property
    def running(self) -> bool:
        return len(self.attempts) >= 3 and self.attempts[-1] + 60 > asyncio.get_running_loop().time()

    def launch(self) -> None:
        self.attempts.append(asyncio.get_running_loop().time())
        if len(self.attempts) < 3:
            raise OSError("no space left")


def test_a_server_that_does_not_start_is_tried_less_and_less_often(capsys: pytest.CaptureFixture[str]) -> None:
    server = StubbornServer()

    async def two_deaths() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(120):
                await revive([server])  # type: ignore[list-item]

    run_virtually(two_deaths())
    assert server.attempts[:3] == [0.5, 1.5, 3.5]
    assert 63.5 <= server.attempts[3] <= 65
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4, said
    assert [line.startswith("hub: redis has ended; starting it again") for line in said] == [True, False, False, True]
    assert said[1] == said[2] == "hub: redis does not start: no space left"
