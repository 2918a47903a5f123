"""A real Valkey (or Redis) as a child process: over a unix socket, and over TCP on loopback when a port is given."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from hub.embedded.binaries import find_redis
from hub.embedded.child import Child
from hub.embedded.home import Home

_ANSWER_TIMEOUT_S = 1.0


class RedisServer:
    """One server in ``folder``. ``start`` it in the main thread; it can be stopped and started again on the same data.

    ``port`` None: unix socket only. ``append_only`` False keeps nothing over a restart. ``options`` are any settings
    of valkey.conf (``{"cluster-enabled": "yes"}``, ``{"replicaof": "127.0.0.1 7000"}``) and win over ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        append_only: bool = True,
        options: Mapping[str, str] | None = None,
        sockets: Path | None = None,
        name: str = "redis",
    ) -> None:
        self.port = port or 0
        self.home = Home(folder, name, sockets)
        self._options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocketperm": "700",
            "appendonly": "yes" if append_only else "no",
            "appendfsync": "everysec",
            "save": "",
            # The hub's history must not be evicted: with any other policy it refuses to serve.
            "maxmemory-policy": "noeviction",
            # A stop does not wait for replicas.
            "shutdown-timeout": "0",
            **(options or {}),
        }
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port/0`` when there is a port, else ``unix://`` and the socket's path."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.unix_url

    @property
    def unix_url(self) -> str:
        """``unix://`` and the socket's path; known once started."""
        return f"unix://{self.socket_path}"

    @property
    def socket_path(self) -> Path:
        """The unix socket; known once started."""
        return self.home.sockets / f"{self.home.name}.sock"

    @property
    def pid(self) -> int:
        """Process id. Raises ``RuntimeError`` when it was never started."""
        return self._require().pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._child is not None and self._child.running

    def setting(self, name: str) -> str:
        """A setting that it was made with. Raises ``KeyError`` when that was left to the server."""
        return self._options[name]

    def start(self) -> None:
        """Starts it and waits until it answers. Raises ``ConfigError``."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Starts it without waiting; ``wait`` must follow."""
        if self.running:
            return
        binary = find_redis(self.home.account)
        self.home.prepare()
        settings = {**self._options, "unixsocket": str(self.socket_path)}
        arguments = [argument for key, value in settings.items() for argument in (f"--{key}", *_words(value))]
        with self.home.locked() as lock:
            self.socket_path.unlink(missing_ok=True)
            self._child = Child(self.home, [binary, *arguments], signal.SIGTERM, lock)

    def wait(self) -> None:
        """Waits until it answers. Raises ``ConfigError`` with the end of its log when it does not."""
        self._require().wait_until(self._answers)

    def stop(self) -> None:
        """Stops it in order; the data stays."""
        if self._child is not None:
            self._child.stop()
        self.home.discard_sockets()

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._require().kill()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal (SIGSTOP and SIGCONT in tests)."""
        self._require().signal(number)

    def _require(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.home.name} has not been started")
        return self._child

    def _answers(self) -> bool:
        # Over TCP when there is a port: then both listeners are up.
        family = socket.AF_INET if self.port else socket.AF_UNIX
        address = ("127.0.0.1", self.port) if self.port else str(self.socket_path)
        try:
            with socket.socket(family, socket.SOCK_STREAM) as link:
                link.settimeout(_ANSWER_TIMEOUT_S)
                link.connect(address)
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _words(value: str) -> list[str]:
    """A value of several words is several arguments; an empty one is still one."""
    return value.split() or [""]
