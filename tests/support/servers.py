"""Real servers for tests: one Redis, one PostgreSQL. Several Redis that belong together are in ``topologies``."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

from hub.embedded import PostgresServer, RedisServer
from hub.errors import ConfigError

_ATTEMPTS = 5


def free_port() -> int:
    """A TCP port that was free just now on loopback. Another process may take it first: start again if so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A short folder that embedded servers can reach whoever runs the tests; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hub-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running_redis(
    *, tcp: bool = True, append_only: bool = False, options: Mapping[str, str] | None = None
) -> Iterator[RedisServer]:
    """A Redis on a free port (``tcp``) and a unix socket."""
    with temporary_folder() as folder:
        server = start_redis(folder, tcp=tcp, append_only=append_only, options=options)
        try:
            yield server
        finally:
            server.stop()


def start_redis(
    folder: Path, *, tcp: bool = True, append_only: bool = False, options: Mapping[str, str] | None = None
) -> RedisServer:
    """The same in ``folder``; the caller stops it."""
    for attempt in range(_ATTEMPTS):
        port = free_port() if tcp else None
        # By default the bus would be at the port + 10 000, which may be taken or no port at all.
        bus = {"cluster-port": str(free_port())} if options and "cluster-enabled" in options else {}
        server = RedisServer(folder, port=port, append_only=append_only, options={**bus, **(options or {})})
        try:
            server.start()
        except ConfigError:
            if not tcp or attempt == _ATTEMPTS - 1:
                raise
        else:
            return server
    raise AssertionError("unreachable")


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL with an empty database ``hub`` that does not wait for the disk."""
    with temporary_folder() as folder:
        server = PostgresServer(folder, durable=False)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def client(server: RedisServer) -> redis.Redis:
    """A synchronous client over the unix socket, which works whatever happens to TCP; the caller closes it."""
    return redis.Redis(unix_socket_path=str(server.socket_path), protocol=3, decode_responses=True)


def flush(server: RedisServer) -> None:
    """Empties a server."""
    with client(server) as link:
        link.flushall()
