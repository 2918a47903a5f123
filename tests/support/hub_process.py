"""Hub nodes as real processes: started as a user does (``hub serve``), asked for readiness, terminated, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.support.servers import free_port
from tests.support.waiting import until

SECRET = "a-secret-for-tests-of-forty-characters-!"
"""Signs the tokens of all nodes."""

STOCK_SERVER = os.environ.get("ORACLE_SOCKET") == "asgi"
"""Whether the nodes run on a stock server, whose sockets the hub does not own."""

POLITE_EXIT = -signal.SIGTERM if STOCK_SERVER else 0
"""How a node ends that was told to leave: a stock server raises its signal again."""

_START_S = 40.0  # two cores that others use as well
_STOP_S = 30.0


class HubProcess:
    """One node. It keeps its port over restarts, as behind a load balancer; its log grows in ``folder``."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self._log = folder / f"{name}.log"
        self._settings = {"HUB_UPLOADS_STORE": f"file:{folder / 'uploads'}", **settings}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.returncode is None

    @property
    def resident_bytes(self) -> int:
        """Memory of the process that is really there. Only while it runs."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    async def start(self) -> None:
        """Starts it and waits until ``/health/ready`` says yes."""
        await self.launch()
        await self.ready()

    async def launch(self) -> None:
        """Starts it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        own = {"PORT": str(self.port), "HUB_NODE": self.name, "HUB_JWT_SECRET": SECRET, **self._settings}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *self._command(), env={**inherited, **own}, stdout=log, stderr=log
            )

    def _command(self) -> tuple[str, ...]:
        if not STOCK_SERVER:
            return "hub.cli", "serve"
        port = ("--port", str(self.port))
        stop = ("--timeout-graceful-shutdown", "5")  # streams have no end
        return (
            "uvicorn",
            "--factory",
            "hub.app:application",
            "--ws",
            "websockets-sansio",
            "--no-access-log",
            *stop,
            *port,
        )

    async def ready(self) -> None:
        """Waits until it answers that it is ready."""

        async def answers() -> bool:
            assert self.running, f"{self.name} has ended: {self.log()[-2000:]}"
            return await self.health("ready") == 200

        try:
            await until(answers, _START_S, f"{self.name} to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-3000:]}") from None

    async def health(self, which: str) -> int:
        """The status of ``/health/<which>``; 0 when nobody answers."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return 0
        try:
            writer.write(f"GET /health/{which} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
            words = (await reader.readline()).split()
            return int(words[1]) if len(words) > 1 else 0
        except OSError:
            return 0
        finally:
            writer.close()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; to a process that has ended, nothing."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, as a machine that is lost."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """SIGTERM: it drains and ends. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Waits for its end; returns the exit code. A node that does not end is killed, and fails the test."""
        if self._process is None:
            return 0
        started = time.monotonic()
        try:
            async with asyncio.timeout(_STOP_S):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            took = time.monotonic() - started
            raise AssertionError(f"{self.name} did not end within {took:.0f} s\n{self.log()[-3000:]}") from None

    def log(self) -> str:
        """Everything it has said since the first start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def said(self, event: str) -> int:
        """How often a line of the log tells of ``event``."""
        return self.log().count(f'"event": "{event}"')

    def faults(self) -> list[str]:
        """Lines of the log that tell of a fault of the hub itself: exceptions that nobody expected."""
        return [line for line in self.log().splitlines() if "Traceback" in line]

    async def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels; or over those with ``label``, as it is written there."""
        async with httpx.AsyncClient(timeout=30) as client:
            text = (await client.get(f"http://{self.address}/metrics")).text
        lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if label in line)
