"""A hub of one's own for load: Redis and PostgreSQL of the wheels in a temporary folder, and ``hub serve`` over them.

Everything is a child process and ends with the block. Nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from hub.embedded import EmbeddedServers

_ROOT = Path(__file__).resolve().parent.parent
_START_S = 40.0
_STOP_S = 30.0


class LocalHub:
    """What ``local_hub`` yields."""

    def __init__(self, port: int, secret: str, process: subprocess.Popen[bytes], redis_url: str) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/ws"
        self.http = f"http://127.0.0.1:{port}"
        self.secret = secret
        self.process = process
        self.redis_url = redis_url

    @property
    def client_environ(self) -> dict[str, str]:
        """The environment of a program that is to use this hub."""
        return {"HUB_URL": self.url, "HUB_JWT_SECRET": self.secret}


@contextlib.contextmanager
def local_hub(settings: Mapping[str, str] | None = None, *, log: Path | None = None) -> Iterator[LocalHub]:
    """A hub that is ready. ``settings``: further environment; ``log``: where its lines go, else to stderr.

    Its drain is short. Raises ``RuntimeError`` when it does not become ready.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    with EmbeddedServers(None) as servers, contextlib.ExitStack() as stack:
        secret = secrets.token_urlsafe(48)
        port = _free_port()
        environ = {
            **inherited,
            "PORT": str(port),
            "LOG_LEVEL": "warning",
            "HUB_JWT_SECRET": secret,
            "HUB_REDIS_URL": servers.redis.url,
            "HUB_DATABASE_URL": servers.postgres.url("hub_app"),
            "HUB_DATABASE_RELAY_URL": servers.postgres.url("hub_relay"),
            "HUB_DATABASE_OWNER_URL": servers.postgres.url(),
            "HUB_DRAIN_WINDOW_S": "0",
            "HUB_UPLOADS_STORE": f"file:{stack.enter_context(tempfile.TemporaryDirectory(prefix='hub-uploads-'))}",
            **(settings or {}),
        }
        output = stack.enter_context(log.open("ab")) if log is not None else None
        migrate(environ)
        process = subprocess.Popen(
            [sys.executable, "-m", "hub.cli", "serve"], cwd=_ROOT, env=environ, stdout=output, stderr=output
        )
        stack.callback(_stop, process)
        hub = LocalHub(port, secret, process, servers.redis.url)
        _await_ready(hub)
        yield hub


def migrate(environ: Mapping[str, str]) -> None:
    """Brings the database that ``environ`` names to the newest version. Raises ``RuntimeError``."""
    done = subprocess.run(
        [sys.executable, "-m", "hub.cli", "migrate"],
        cwd=_ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=_START_S,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def _await_ready(hub: LocalHub) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if hub.process.poll() is not None:
            raise RuntimeError(f"the hub ended with status {hub.process.returncode}")
        # HTTPError is an OSError: not ready yet, like a refused connection.
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{hub.http}/health/ready", timeout=2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the hub was not ready within {_START_S:g} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
