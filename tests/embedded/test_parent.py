"""However the hub ends, its servers end with it and are not in the way of the next. As root and as an ordinary user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from hub.embedded.account import server_account
from hub.embedded.binaries import find_postgres
from hub.errors import ConfigError
from tests.support.servers import temporary_folder
from tests.support.waiting import until_sync

PROJECT = Path(__file__).parents[2]


class Parent:
    """The helper process, with what it said."""

    def __init__(self, folder: Path | None, user: str) -> None:
        command = [sys.executable, "-m", "tests.support.embedded_parent", str(folder or "-"), *user.split()]
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            # Where a shell started these tests in the background, it would inherit that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said: dict[str, Any] = json.loads(line) if line else {}

    def gone(self) -> bool:
        return not any(alive(pid) for pid in self.said["pids"])

    def end(self, number: signal.Signals) -> str:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def become_nobody() -> str:
    """The argument that makes the helper an ordinary user, or a skip where that is not possible."""
    account = server_account()
    if account is None:
        return ""  # the tests run as an ordinary user already
    with contextlib.suppress(ConfigError):
        if account.can_reach(find_postgres().postgres):
            return "nobody"
    pytest.skip("the binaries lie in a folder that only root can enter")


@pytest.fixture(params=["as this user", "as an ordinary user"])
def start(request: pytest.FixtureRequest) -> Iterator[Callable[[Path | None], Parent]]:
    if request.param == "as this user":
        user = ""
    elif os.geteuid() == 0:
        user = become_nobody()
    else:
        pytest.skip("the same, since the tests do not run as root")
    parents: list[Parent] = []

    def starter(folder: Path | None) -> Parent:
        if folder is not None and user:
            account = server_account()
            assert account is not None
            folder.mkdir(exist_ok=True)
            account.give(folder)
        parents.append(Parent(folder, user))
        return parents[-1]

    yield starter
    for parent in parents:
        parent.end(signal.SIGKILL)
        with contextlib.suppress(KeyError):
            until_sync(parent.gone, 30, "the servers to be gone")
            if "hub-ephemeral-" in parent.said["path"]:
                shutil.rmtree(parent.said["path"], ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as base:
        yield base / ".hub"


def redis_at(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=3, decode_responses=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_servers_end_with_the_hub(
    start: Callable[[Path | None], Parent], folder: Path, number: signal.Signals
) -> None:
    parent = start(folder)
    assert all(alive(pid) for pid in parent.said["pids"])
    parent.end(number)
    until_sync(parent.gone, 30, "both servers to be gone")


async def test_what_was_written_survives_a_killed_hub_and_the_next_start_needs_no_pause(
    start: Callable[[Path | None], Parent], folder: Path
) -> None:
    first = start(folder)
    with redis_at(first.said["redis"]) as link:
        link.xadd("stream", {"n": "1"}, id="1-0")
    connection = await asyncpg.connect(first.said["postgres"])
    await connection.execute("CREATE TABLE kept (n int)")
    await connection.execute("INSERT INTO kept VALUES (42)")
    connection.terminate()
    first.end(signal.SIGKILL)

    second = start(folder)  # at once: the first servers may still be shutting down
    with redis_at(second.said["redis"]) as link:
        assert link.xrange("stream")[0][0] == "1-0"
    connection = await asyncpg.connect(second.said["postgres"])
    assert await connection.fetchval("SELECT n FROM kept") == 42
    await connection.close()


def test_a_second_hub_in_the_same_folder_is_told_who_is_there(
    start: Callable[[Path | None], Parent], folder: Path
) -> None:
    first = start(folder)
    second = start(folder)
    error = second.end(signal.SIGTERM)
    assert "ConfigError" in error
    assert str(first.process.pid) in error
    assert str(folder) in error
    assert all(alive(pid) for pid in first.said["pids"])


def test_a_temporary_folder_is_removed_at_the_end(start: Callable[[Path | None], Parent]) -> None:
    parent = start(None)
    assert Path(parent.said["path"]).exists()
    parent.end(signal.SIGTERM)
    assert not Path(parent.said["path"]).exists()


def test_the_servers_are_neither_root_nor_in_the_group_that_ctrl_c_reaches(
    start: Callable[[Path | None], Parent], folder: Path
) -> None:
    parent = start(folder)
    for pid in parent.said["pids"]:
        status = Path(f"/proc/{pid}/status").read_text()
        assert next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1] != "0"
        assert os.getpgid(pid) != os.getpgid(parent.process.pid)
