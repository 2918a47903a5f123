"""Which servers are masters and which of them holds a key: one server, a cluster, or what the sentinels say.

Parses ``HUB_REDIS_URL`` and asks for the layout; when to ask is the client's business.
"""

from __future__ import annotations

import asyncio
import binascii
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as parse_library_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from hub.config import Settings
from hub.errors import ConfigError

SLOTS = 16_384
SCHEMES = "redis://, rediss:// (each also with +cluster or +sentinel) or unix://"
DEFAULT_PORT = {"cluster": 6379, "sentinel": 26_379, "": 6379}

Mode = Literal["", "cluster", "sentinel"]


class Login(NamedTuple):
    """What a connection says first."""

    username: str
    password: str
    db: int


class Layout(NamedTuple):
    """Who is master. ``slots`` names the master of each slot of a cluster; None: the one master holds everything."""

    masters: tuple[str, ...]
    slots: tuple[str, ...] | None

    def address_of(self, key: str) -> str:
        """The master that holds ``key``; "" when no master serves its slot."""
        if self.slots is None:
            return self.masters[0]
        return self.slots[slot_of(key)]


def slot_of(key: str) -> int:
    """The cluster slot of a key: CRC16 of its hash tag, if it has one, else of all of it."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key.encode(), 0) % SLOTS


class Masters:
    """The servers that ``HUB_REDIS_URL`` names. Raises ``ConfigError`` when it cannot be read."""

    def __init__(self, settings: Settings) -> None:
        scheme, _, rest = settings.redis_url.partition("://")
        base, _, mode = scheme.partition("+")
        if base not in ("redis", "rediss", "unix") or mode not in DEFAULT_PORT or (mode and base == "unix"):
            raise ConfigError(f"HUB_REDIS_URL must start with {SCHEMES}")
        self.mode: Mode = mode  # type: ignore[assignment]  # it is a key of DEFAULT_PORT
        self.tls = base == "rediss"
        servers, path, query = _split(rest)
        user, at, hosts = servers.rpartition("@")
        names = hosts.split(",")
        if mode == "sentinel":
            # What is the database elsewhere is the name of the master here.
            self.master_name, path = path, ""
            if not self.master_name:
                raise ConfigError("HUB_REDIS_URL must end with a name: redis+sentinel://host:port/master-name")
        try:
            options: dict[str, Any] = dict(parse_library_url(f"{base}://{user}{at}{names[0]}/{path}{query}"))
        except ValueError as error:
            raise ConfigError(f"HUB_REDIS_URL: {error}") from error
        if base == "unix":
            self.seeds: tuple[str, ...] = (f"unix:{options.pop('path', '')}",)
        else:
            self.seeds = tuple(_with_port(name, DEFAULT_PORT[mode]) for name in names)
        self._sentinel_login = {
            name: options.pop(f"sentinel_{name}", None) for name in ("username", "password") if mode == "sentinel"
        }
        self._timeout_s = settings.redis_connect_timeout_s
        self._options = _connection_options(options, settings)
        self.login = Login(options.get("username") or "", options.get("password") or "", int(options.get("db") or 0))
        if mode == "cluster" and self.login.db:
            raise ConfigError("HUB_REDIS_URL: a cluster has database 0 only")

    def connection_class(self) -> type[AbstractConnection]:
        """The client library's class for these servers."""
        if self.seeds[0].startswith("unix:"):
            return UnixDomainSocketConnection
        return SSLConnection if self.tls else Connection

    def connection_options(self, address: str) -> dict[str, Any]:
        """Keyword arguments of ``connection_class`` for the server at ``address``."""
        if address.startswith("unix:"):
            return {**self._options, "path": address.removeprefix("unix:")}
        host, _, port = address.rpartition(":")
        return {**self._options, "host": host.strip("[]"), "port": int(port)}

    def tls_context(self, address: str) -> ssl.SSLContext | None:
        """The TLS settings of the URL; None without TLS."""
        if not self.tls:
            return None
        return SSLConnection(**self.connection_options(address)).ssl_context.get()

    async def discover(self, first: Iterable[str]) -> Layout:
        """The layout as the servers see it now; ``first`` are asked before the seeds. Raises ``RedisError``."""
        if not self.mode:
            return Layout(self.seeds, None)
        asked = self.seeds if self.mode == "sentinel" else tuple(dict.fromkeys((*first, *self.seeds)))
        problem: RedisError = RedisError("nobody answered")
        for address in asked:
            try:
                return await (self._ask_sentinel(address) if self.mode == "sentinel" else self._ask_cluster(address))
            except RedisError as error:
                problem = error
        raise problem

    async def _ask_sentinel(self, address: str) -> Layout:
        reply = await self._ask(address, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)
        if not reply:
            raise RedisError(f"the sentinel at {address} knows no master named {self.master_name}")
        return Layout((f"{reply[0].decode()}:{int(reply[1])}",), None)

    async def _ask_cluster(self, address: str) -> Layout:
        ranges = await self._ask(address, "CLUSTER", "SLOTS")
        slots = [""] * SLOTS
        for start, end, master, *_ in ranges:
            # An empty host means: the one you are talking to.
            host = master[0].decode() if master[0] else address.rpartition(":")[0]
            slots[start : end + 1] = [f"{host}:{master[1]}"] * (end - start + 1)
        masters = tuple(sorted({name for name in slots if name}))
        if not masters:
            raise RedisError(f"the cluster node at {address} knows no master")
        return Layout(masters, tuple(slots))

    async def _ask(self, address: str, *command: str) -> Any:
        options = self.connection_options(address)
        if self.mode == "sentinel":
            # The sentinels have users of their own, and one database.
            options = {**options, "db": 0, **self._sentinel_login}
        connection = self.connection_class()(**options)
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command(*command)
                return await connection.read_response()
        except TimeoutError as error:
            raise RedisError(f"{address} does not answer") from error
        finally:
            await connection.disconnect(nowait=True)


def _split(rest: str) -> tuple[str, str, str]:
    """``user@host:port,host:port``, path without its slash, and the query with its question mark."""
    before, mark, query = rest.partition("?")
    servers, _, path = before.partition("/")
    return servers, path, mark + query


def _with_port(name: str, port: int) -> str:
    return name if name.rpartition(":")[2].isdigit() and not name.endswith("]") else f"{name}:{port}"


def _connection_options(options: dict[str, Any], settings: Settings) -> dict[str, Any]:
    for name in ("host", "port", "connection_class", "max_connections", "timeout"):
        options.pop(name, None)
    return {
        **options,
        "protocol": 3,
        "client_name": "hub",
        "driver_info": None,
        # Time limits are set around whole exchanges; the library's own would cost a task per command.
        "socket_timeout": None,
        "socket_connect_timeout": settings.redis_connect_timeout_s,
        # A repeated publish could happen twice, so nothing is repeated behind our back.
        "retry": Retry(NoBackoff(), 0),
        # On by default in redis-py 8.1, where it also switches off the pool's check for closed connections (its #4260).
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def changed_masters(before: Layout | None, after: Layout) -> Sequence[str]:
    """Masters that are none any more."""
    return () if before is None else [address for address in before.masters if address not in after.masters]
