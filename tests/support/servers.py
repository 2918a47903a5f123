"""Real servers for tests: one Redis, one PostgreSQL. Several Redis that belong together are in ``topologies``."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

from hub.embedded import PostgresServer, RedisServer
from hub.errors import ConfigError
from tests.support.waiting import until_sync

_ATTEMPTS = 5
# Linux gives out 32768 and above. A server of a cluster may also use the port 10 000 above its own.
_PORTS_FROM, _PORTS, _PORT_RANGES = 10_000, 3000, 4


def free_port() -> int:
    """A TCP port that was free just now on loopback, out of a range of this test process.

    The kernel takes the ports of outgoing connections from elsewhere, so that a server which is away for a while finds
    its port as it left it. For the same reason, and for servers that are not yet started, none is given out twice.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and _can_bind(port):
                return port


def _all_ports() -> Iterator[int]:
    """Those of this process in a random order, since other runs on the machine use them too; then again."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = _PORTS_FROM + worker % _PORT_RANGES * _PORTS
    return itertools.cycle(random.SystemRandom().sample(range(begin, begin + _PORTS), _PORTS))


_ports = _all_ports()


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A short folder that embedded servers can reach whoever runs the tests; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hub-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        until_sync(lambda: _removed(folder), what=f"nobody to write to {folder} any more")


def _removed(folder: Path) -> bool:
    # The processes of a server that was killed may still be on their way out and remove files of their own.
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise AssertionError(repr(error)) from None
    return True


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
