"""Several worker processes on one listening socket: started, restarted when they die, drained together.

Knows processes and signals; what a worker does is its command's business. Exit code 2 of a worker means a wrong
setting, which no restart would cure: then all of them end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from hub.cli.failure import FAILED, WRONG_SETTING

if sys.platform == "linux":
    import ctypes

_PR_SET_PDEATHSIG = 1


class RestartPolicy(Struct, frozen=True):
    """How a dead worker comes back."""

    base_s: float = 0.5
    max_s: float = 5.0
    stable_s: float = 10.0
    """A worker that lived this long is restarted after ``base_s`` again."""


class Supervisor:
    """Keeps ``count`` workers alive until SIGTERM or SIGINT, then waits for them. A second signal ends it at once.

    ``command`` is run with the descriptor ``fd`` inherited. ``stop_s``: how long the workers' drain may take before
    they are killed. ``on_exit`` is told the id of every worker that has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        fd: int,
        environ: Mapping[str, str],
        stop_s: float,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._command = command
        self._count = count
        self._fd = fd
        self._environ = environ
        self._stop_s = stop_s
        self._policy = policy or RestartPolicy()
        self._stopping = asyncio.Event()
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._code = 0
        self.on_exit: Callable[[int], None] = lambda _: None

    async def run(self) -> int:
        """Runs until it is stopped; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        try:
            keepers = [asyncio.create_task(self._keep(slot)) for slot in range(self._count)]
            await self._stopping.wait()
            for worker in self._workers.values():
                _signal(worker, signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=self._stop_s)
            if late:
                _say(f"{len(late)} workers did not end within {self._stop_s:g} s and are killed")
                self._code = self._code or FAILED
                self._kill()
                await asyncio.wait(late)
            for keeper in keepers:
                keeper.result()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return self._code

    async def _keep(self, slot: int) -> None:
        """One worker after the other, until the supervisor stops."""
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._one(slot)
            if self._stopping.is_set():
                return
            if code == WRONG_SETTING:
                # It has said on stderr what is wrong.
                self._code = WRONG_SETTING
                self._stopping.set()
                return
            # One that drained because somebody asked it to is no failure.
            lasted = code == 0 or time.monotonic() - started >= self._policy.stable_s
            failures = 0 if lasted else failures + 1
            delay_s = min(self._policy.max_s, self._policy.base_s * 2 ** min(max(failures - 1, 0), 10))
            _say(f"worker {slot} ended with status {code}; the next one starts in {delay_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()

    async def _one(self, slot: int) -> int:
        # A process group of its own: Ctrl-C at the terminal is for the supervisor, which passes it on once.
        worker = await asyncio.create_subprocess_exec(
            *self._command, pass_fds=(self._fd,), env=self._environ, process_group=0, stdin=asyncio.subprocess.DEVNULL
        )
        self._workers[slot] = worker
        try:
            if self._stopping.is_set():
                _signal(worker, signal.SIGTERM)
            return await worker.wait()
        finally:
            del self._workers[slot]
            self.on_exit(worker.pid)

    def _signalled(self) -> None:
        if self._stopping.is_set():
            _say("killing the workers")
            self._code = self._code or FAILED
            self._kill()
        self._stopping.set()

    def _kill(self) -> None:
        for worker in self._workers.values():
            _signal(worker, signal.SIGKILL)


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGTERM when ``parent`` dies, where it can (Linux). Ends now if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(FAILED)


def _signal(worker: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.send_signal(number)


def _say(text: str) -> None:
    print(f"hub: {text}", file=sys.stderr, flush=True)
