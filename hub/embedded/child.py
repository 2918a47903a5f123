"""One server process as a direct child that cannot outlive the hub, and that a Ctrl-C at the terminal does not reach.

Knows processes and signals, nothing of Redis or PostgreSQL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from hub.config import EMBEDDED_LOG_BYTES, EMBEDDED_START_S, EMBEDDED_STOP_S
from hub.embedded.home import Home
from hub.errors import ConfigError

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.005


class Child:
    """A running server. ``stop_signal`` asks it to leave; the kernel sends the same when the hub dies."""

    def __init__(
        self, home: Home, command: Sequence[str | Path], stop_signal: signal.Signals, lock: int, words: bytes = b""
    ) -> None:
        """Starts ``command`` inside the home's data folder. Raises ``ConfigError`` when it cannot be executed.

        ``lock`` is the descriptor of ``home.locked()``; ``words`` (under 4 KB) is what the program reads from stdin.
        Must be called in the main thread: the kernel ties the child to the thread that made it, and would end it with
        that thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start embedded servers in the main thread: they end with the thread that started them")
        self._home = home
        self._stop_signal = stop_signal
        self._process = _spawn(home, command, stop_signal, lock)
        if self._process.stdin is not None:
            # A pipe takes this much at once, whether or not anybody reads it.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(words)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def wait_until(self, answers: Callable[[], bool]) -> None:
        """Waits until ``answers``. Raises ``ConfigError`` with the end of the log when the server ends or is silent."""
        deadline = time.monotonic() + EMBEDDED_START_S
        while not answers():
            if not self.running:
                self._fail(f"ended with status {self._process.returncode} instead of starting")
            if time.monotonic() > deadline:
                self.kill()
                self._fail(f"does not answer within {EMBEDDED_START_S:.0f} s")
            time.sleep(_POLL_S)

    def wait_for_end(self) -> None:
        """Waits for a program that ends by itself. Raises ``ConfigError`` when it fails or takes too long."""
        try:
            status = self._process.wait(EMBEDDED_START_S)
        except subprocess.TimeoutExpired:
            self.kill()
            self._fail(f"was not done within {EMBEDDED_START_S:.0f} s")
        if status != 0:
            self._fail(f"failed with status {status}")

    def stop(self) -> None:
        """Asks the server to leave and waits for it; SIGKILL after ``EMBEDDED_STOP_S``. No effect once it has ended."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(EMBEDDED_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would be, to the server and what else is in its process group."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal (SIGSTOP and SIGCONT in tests)."""
        self._process.send_signal(number)

    def _fail(self, what: str) -> None:
        home = self._home
        raise ConfigError(f"the embedded {home.name} {what}; its log {home.log} ends with\n{home.log_tail()}")


def _spawn(
    home: Home, command: Sequence[str | Path], stop_signal: signal.Signals, lock: int
) -> subprocess.Popen[bytes]:
    account = home.account
    too_long = home.log.exists() and home.log.stat().st_size > EMBEDDED_LOG_BYTES
    with home.log.open("wb" if too_long else "ab") as log, warnings.catch_warnings():
        # Python 3.12 warns of fork in a process with threads. What runs between fork and exec here is one system call.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return subprocess.Popen(  # noqa: S603
                command,
                cwd=home.data,  # entered before the privileges are dropped
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Nothing of the hub's own environment: it holds secrets.
                env={"PATH": os.defpath, "LC_ALL": "C"},
                umask=0o077,
                process_group=0,
                pass_fds=(lock,),
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                # Runs after the privileges were dropped, as it must: changing the user clears the death signal.
                preexec_fn=_die_with(os.getpid(), stop_signal),
            )
        except (OSError, subprocess.SubprocessError) as error:
            hint = (
                "; as root it needs the right to become `nobody`: start the hub as an ordinary user" if account else ""
            )
            raise ConfigError(f"cannot start the embedded {home.name} ({command[0]}): {error}{hint}") from error


def _die_with(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does before it becomes the server: asks the kernel for ``death_signal`` when the parent dies.

    Only Linux can do that. Elsewhere servers survive a hub that was killed with SIGKILL, and the next start says so.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.PyDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        # The parent may have died before the kernel was asked.
        if os.getppid() != parent:
            os._exit(1)

    return ask
