"""Workers that die, drain, hang and refuse a setting: real processes, the hub itself replaced by a small program."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hub.cli.supervisor import RestartPolicy, Supervisor
from tests.support.waiting import until

QUICK = RestartPolicy(base_s=0.01, max_s=0.05, stable_s=60)

# Notes its start and its end in files named after its process id.
WORKER = """
import os, pathlib, signal, sys, time
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
if how == "wrong":
    sys.exit(2)
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    def leave(*_):
        (folder / f"left-{os.getpid()}").touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
(folder / f"started-{os.getpid()}").touch()
if how == "crash":
    sys.exit(7)
while True:
    time.sleep(60)
"""


def pids(folder: Path, what: str) -> set[int]:
    return {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{what}-*")}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def supervised(folder: Path, how: str, *, stop_s: float = 10.0) -> AsyncIterator[asyncio.Task[int]]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = (sys.executable, str(script), str(folder), how)
        supervisor = Supervisor(command, 2, fd=listener.fileno(), environ=dict(os.environ), stop_s=stop_s, policy=QUICK)
        exits: list[int] = []
        supervisor.on_exit = exits.append
        running = asyncio.create_task(supervisor.run())
        try:
            yield running
        finally:
            if not running.done():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            await running
    # One that was ended at once may not have come to note that it started.
    assert set(exits) >= pids(folder, "started")
    assert not any(alive(pid) for pid in pids(folder, "started"))


async def test_a_dead_worker_is_replaced_and_all_drain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with supervised(tmp_path, "work") as running:
        await until(lambda: len(pids(tmp_path, "started")) == 2)
        victim = min(pids(tmp_path, "started"))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(pids(tmp_path, "started")) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, 45) == 0
    assert pids(tmp_path, "left") == pids(tmp_path, "started") - {victim}
    assert "ended with status -9; the next one starts in 0.01 s" in capfd.readouterr().err


async def test_workers_that_crash_at_once_come_back_ever_more_slowly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with supervised(tmp_path, "crash"):
        await until(lambda: len(pids(tmp_path, "started")) >= 10)
    said = capfd.readouterr().err
    assert "status 7; the next one starts in 0.01 s" in said
    assert "status 7; the next one starts in 0.05 s" in said


async def test_a_wrong_setting_ends_everything(tmp_path: Path) -> None:
    async with supervised(tmp_path, "wrong") as running:
        assert await asyncio.wait_for(running, 45) == 2


async def test_workers_that_do_not_end_are_killed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with supervised(tmp_path, "deaf", stop_s=0.1) as running:
        await until(lambda: len(pids(tmp_path, "started")) == 2)
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(running, 45) == 1
    assert "2 workers did not end within 0.1 s" in capfd.readouterr().err


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with supervised(tmp_path, "deaf", stop_s=60) as running:
        await until(lambda: len(pids(tmp_path, "started")) == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)  # so that the first is seen by itself
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(running, 45) == 1
