"""What every server under load has in common: a process on the server's core, what clients say, how one publishes.

The hub and each reference is one ``Server``. All deliver events of the same size and with the same marker, so that the
generators do not know whom they measure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from loadtest.generators import Clients, Publication
from loadtest.machine import SERVER_CORE, children

ROOT = Path(__file__).parent.parent
EVENT_BYTES = 200
"""An event as it reaches a client, whatever the server puts around the data."""
SENT_NS = b'"sent_ns":1000000000000000000'
_START_S = 30.0


def payload(size: int = EVENT_BYTES) -> bytes:
    """A JSON object of ``size`` bytes with the time in it."""
    head = b"{" + SENT_NS + b',"pad":"'
    return head + b"x" * max(0, size - len(head) - 2) + b'"}'


def free_port() -> int:
    """A TCP port that was free just now on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess(ABC):
    """A process under load. As a context manager it runs inside the block."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What is started."""

    def environment(self) -> Mapping[str, str]:
        """Added to this process's environment."""
        return {}

    def ready(self) -> bool:
        """Whether clients may come."""
        return answers(self.port)

    @property
    def pids(self) -> list[int]:
        """The server's processes."""
        assert self._process is not None
        return children(self._process.pid)

    def start(self) -> None:
        """Starts it on its core and waits until it is ready. Raises ``RuntimeError`` with the end of its log."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env={**inherited, **self.environment()},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} does not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kills it and its workers: a bench has nobody who would have to be told."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_tail(self) -> str:
        """The end of what it said."""
        return self._log.read_text(errors="replace")[-2000:]

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(ServerProcess):
    """One that delivers events."""

    @abstractmethod
    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        """Everybody on one topic, or (``own_topics``) the client of number n on topic n."""

    @abstractmethod
    def publication(self) -> Publication:
        """An event on the topic of the number that the generator puts in; 0 is the shared one."""


def on_server_core(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs a program to its end where servers run otherwise; what it printed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )
    return done.stdout


def python(module: str, *arguments: str) -> Sequence[str]:
    """A module of ours as a command."""
    return [sys.executable, "-m", module, *arguments]
