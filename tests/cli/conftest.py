"""Runs the ``hub`` command as users do: a process, in a folder of its own, with an environment of its own."""

from __future__ import annotations

import asyncio
import codecs
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.scripted_hub import ScriptedHub, scripted_hub
from tests.support.waiting import until

SECRET = "a-secret-for-tests-of-forty-characters-!"
HUB = (sys.executable, "-m", "hub.cli")

# Stands for the hub's own entry, which has tests of its own: answers every connection with its process id, drains on
# SIGTERM, and does as its environment says.
FAKE_APP = """
import asyncio, os, signal, socket, sys, types

def run(settings, listener, ready=None, chore=None):
    stopped = []
    def stop(number, frame):
        stopped.append(number)
        listener.settimeout(0.01)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listener.settimeout(0.05)
    async def on_the_loop():
        ready()
    if ready is not None:
        asyncio.run(on_the_loop())
    while not stopped:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            continue
        with peer:
            peer.settimeout(None)
            peer.sendall(f"{os.getpid()} {settings.port}".encode())
    print("drained", os.getpid(), flush=True)

module = types.ModuleType("hub.serving")
module.run = run
sys.modules["hub.serving"] = module
"""


class Run:
    """A running or finished ``hub`` command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.err = ""
        streams = {"out": process.stdout, "err": process.stderr}
        self._readers = [asyncio.create_task(self._read(stream, name)) for name, stream in streams.items() if stream]

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()  # what comes may end within a character
        while chunk := await stream.read(65536):
            setattr(self, name, getattr(self, name) + decoder.decode(chunk))

    async def shows(self, text: str, *, where: str = "out") -> None:
        """Waits until it has printed ``text``."""
        await until(lambda: text in getattr(self, where), timeout=60, what=f"{text!r} in {self.out!r} / {self.err!r}")

    async def type(self, text: str) -> None:
        """Types into its stdin, which was a pipe."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        await self.process.stdin.drain()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self) -> int:
        """Waits for the end; returns the exit code. Never with a traceback."""
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        # The hub's own log lines, which are JSON, may hold one; the command shows none.
        assert not any(line.startswith("Traceback") for line in self.err.splitlines()), self.err
        return code

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._readers)


class Commands:
    """Starts commands in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {"HUB_JWT_SECRET": SECRET}
        self.runs: list[Run] = []

    async def start(
        self, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL, stdout: int = PIPE, **environ: str
    ) -> Run:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HUB_") and name != "PORT"}
        process = await asyncio.create_subprocess_exec(
            *HUB,
            *arguments,
            cwd=self.folder,
            env={**clean, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **self.environ, **environ},
            stdin=stdin,
            stdout=stdout,
            stderr=PIPE,
            # Where a shell started these tests in the background, they would inherit that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        run = Run(process)
        self.runs.append(run)
        return run

    async def __call__(self, *arguments: str, **environ: str) -> Run:
        """Runs a command to its end."""
        run = await self.start(*arguments, **environ)
        await run.ends()
        return run


@pytest.fixture
async def hub_command(tmp_path: Path) -> AsyncIterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    for run in commands.runs:
        await run.kill()


@pytest.fixture
async def hub() -> AsyncIterator[ScriptedHub]:
    async with scripted_hub() as running:
        yield running


@pytest.fixture
def fake_app(hub_command: Commands, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Puts the fake in the place of ``hub.serving`` in every process that ``hub_command`` starts."""
    folder = tmp_path_factory.mktemp("fake")
    (folder / "sitecustomize.py").write_text(FAKE_APP)
    others = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    hub_command.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *others])
