"""The client: pipelined calls to the right master, redirections followed, every library error translated once.

It repeats only what Redis has certainly not done (a redirection, an unknown script, a read-only or loading server).
Whatever failed otherwise may have happened all the same, and the error says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from hub.config import Settings
from hub.errors import ErrorCode, HubError, unavailable
from hub.redis.calls import Arg, Command, Script, ScriptCall
from hub.redis.departures import Departures
from hub.redis.exchange import NotSent, Try, exchange, not_sent
from hub.redis.masters import Layout, Login, Masters, changed_masters

OLDEST_VERSION = (7, 2)
# A server that cannot write just now (failover, slot on the move) is asked again after this long, then twice that …
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
MOST_REDIRECTIONS = 5

log = structlog.get_logger(__name__)

# Redis refused these before it did anything.
_NOT_NOW = (TryAgainError, ClusterDownError, ReadOnlyError, MasterDownError)


_NOT_DONE = (NotSent, NoScriptError, MovedError, AskError, OutOfMemoryError, *_NOT_NOW)


class Redis:
    """Commands and scripts on the servers of ``HUB_REDIS_URL``. Replies are bytes, numbers and lists of them.

    Every method raises ``HubError(unavailable)`` when no connection can be had, or no answer comes, each within
    ``redis_timeout_s``. After a failover the next call finds the new master.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._masters = Masters(settings)
        self._layout: Layout | None = None
        self._pools: dict[str, BlockingConnectionPool] = {}
        self._departures = Departures(settings, self._send)
        self._alone = asyncio.Semaphore(settings.redis_max_connections - settings.redis_departures)
        self._scripts: dict[str, Script] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._stale = False
        self._closing: set[asyncio.Future[None]] = set()
        self.layout_version = 0
        """Grows whenever another server has become master of something."""

    @property
    def login(self) -> Login:
        """What a connection of one's own says first."""
        return self._masters.login

    @property
    def cluster(self) -> bool:
        """Whether keys are spread over several masters, and channels with them."""
        return self._masters.mode == "cluster"

    def register(self, *scripts: Script) -> None:
        """Loads ``scripts`` on every new connection, so that an unknown script stays an exception."""
        self._scripts.update({script.sha: script for script in scripts})

    async def start(self) -> None:
        """Connects, checks version and eviction policy. What is wrong is logged: a node may start before Redis."""
        try:
            await self.refresh()
            for address in self.masters():
                await self._inspect(address)
        except HubError as error:
            log.error("redis is not reachable", setting="HUB_REDIS_URL", reason=str(error.__cause__))

    async def close(self) -> None:
        """Closes every connection. Calls that are still waiting fail."""
        refresh = self._refresh
        if refresh is not None:
            refresh.cancel()
            await asyncio.gather(refresh, return_exceptions=True)
        self._departures.stop()
        pools, self._pools = self._pools, {}
        await asyncio.gather(*(pool.aclose() for pool in pools.values()), *self._closing, return_exceptions=True)
        await self._departures.close()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Runs a script on the master that holds ``keys`` (all under one hash tag)."""
        return await self._one(ScriptCall(script, tuple(keys), tuple(args)))

    async def command(self, key: str, *args: Arg) -> Any:
        """Runs a command on the master that holds ``key``: ``command("k", "GETDEL", "k")``."""
        return await self._one(Command(key, args))

    async def batch(self, calls: Sequence[ScriptCall | Command]) -> list[Any]:
        """One pipelined write per master, all masters at once, in order per key; a reply or a ``HubError`` per call."""
        tries = [Try(call) for call in calls]
        waiting = tries
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.redis_timeout_s
        pause = FIRST_PAUSE_S
        while waiting:
            await self._attempt(waiting)
            waiting = [item for item in waiting if isinstance(item.outcome, Exception)]
            if not waiting:
                break
            if any(isinstance(item.outcome, NotSent) for item in waiting):
                await self._refreshed()
            waiting = [item for item in waiting if self._wants_another(item)]
            if any(isinstance(item.outcome, _NOT_NOW) for item in waiting):
                if now() + pause > deadline:
                    break
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                await self._refreshed()
        return [_translated(item) for item in tries]

    async def servers(self) -> dict[str, str]:
        """``run_id`` by address of every master."""
        await self._located()
        return {address: (await self._info(address, "server"))["run_id"] for address in self.masters()}

    async def refresh(self) -> None:
        """Finds out anew who is master of what."""
        self._stale = True
        await self._located()

    def masters(self) -> tuple[str, ...]:
        """Addresses of all masters; none before Redis was first reached."""
        return self._layout.masters if self._layout is not None else ()

    def address_of(self, key: str) -> str:
        """The master that holds ``key``; "" when that is not known."""
        return self._layout.address_of(key) if self._layout is not None else ""

    async def open_link(self, address: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """A connection of one's own to a master, nothing said on it yet. Raises ``OSError`` or ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.redis_connect_timeout_s):
            if address.startswith("unix:"):
                return (await loop.create_unix_connection(lambda: protocol, address.removeprefix("unix:")))[0]
            host, _, port = address.rpartition(":")
            context = self._masters.tls_context(address)
            transport, _ = await loop.create_connection(
                lambda: protocol, host.strip("[]"), int(port), ssl=context, server_hostname=host if context else None
            )
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return transport

    async def _one(self, call: ScriptCall | Command) -> Any:
        (outcome,) = await self.batch((call,))
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    async def _attempt(self, tries: list[Try]) -> None:
        try:
            await self._located()
        except HubError as error:
            for item in tries:
                item.outcome = error
            return
        groups: dict[str, list[Try]] = {}
        for item in tries:
            item.sent_to = item.address or self.address_of(item.call.key)
            groups.setdefault(item.sent_to, []).append(item)
        for item in groups.pop("", ()):
            item.outcome = ClusterDownError("no master serves this slot")
        # Behind a large batch the others would only wait.
        send = self._departures.join if len(tries) <= self._settings.redis_departure_calls else self._send_alone
        if len(groups) == 1:
            await send(*groups.popitem())
        else:
            await asyncio.gather(*(send(address, group) for address, group in groups.items()))

    async def _send_alone(self, address: str, tries: list[Try]) -> None:
        # However many there are, departures find a connection.
        async with self._alone:
            await self._send(address, tries)

    async def _send(self, address: str, tries: list[Try]) -> None:
        pool = self._pool(address)
        try:
            async with asyncio.timeout(self._settings.redis_timeout_s):
                connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            not_sent(tries, error)
            return
        try:
            await exchange(connection, tries, self._settings.redis_timeout_s)
        finally:
            await pool.release(connection)
            if self._pools.get(address) is not pool:
                await pool.disconnect()

    def _wants_another(self, item: Try) -> bool:
        """Whether Redis has certainly not done it and there is somewhere to try again."""
        error = item.outcome
        item.address, item.asking = "", False
        if isinstance(error, NoScriptError):
            first, item.load = not item.load, True
            return first
        if isinstance(error, MovedError | AskError):
            item.hops += 1
            item.address = f"{error.host or item.sent_to.rpartition(':')[0]}:{error.port}"
            item.asking = isinstance(error, AskError)
            self._stale = self._stale or isinstance(error, MovedError)
            return item.hops <= MOST_REDIRECTIONS
        if isinstance(error, ReadOnlyError):
            # The name may lead to another server by now.
            self._retire(item.sent_to)
        if isinstance(error, NotSent):
            first, item.hops = item.hops == 0, item.hops + 1
            return first and self.address_of(item.call.key) not in ("", item.sent_to)
        return isinstance(error, _NOT_NOW)

    def _pool(self, address: str) -> BlockingConnectionPool:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = BlockingConnectionPool(
                max_connections=self._settings.redis_max_connections,
                timeout=self._settings.redis_timeout_s,
                connection_class=self._masters.connection_class(),
                redis_connect_func=self._greet,
                **self._masters.connection_options(address),
            )
        return pool

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        for script in self._scripts.values():
            await connection.send_command("SCRIPT", "LOAD", script.text, check_health=False)
            await connection.read_response()

    def _retire(self, address: str) -> None:
        """Lets go of a server's connections; what is under way on them fails."""
        pool = self._pools.pop(address, None)
        if pool is not None:
            task = asyncio.ensure_future(pool.disconnect())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Future[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("a connection to redis did not close well", reason=str(task.exception()))

    async def _located(self) -> None:
        """Makes sure that there is a layout, and a fresh one if it was found to be stale."""
        if self._layout is not None and not self._stale:
            return
        if self._refresh is None:
            self._refresh = asyncio.create_task(self._discover())
            self._refresh.add_done_callback(self._discovered)
        try:
            await asyncio.shield(self._refresh)
        except (RedisError, OSError, TimeoutError) as error:
            if self._layout is None:
                raise unavailable("Redis") from error
            # The masters may well be alive when those that know them are not.
            log.warning("could not find out who is master in redis", reason=str(error))

    async def _discover(self) -> None:
        # First, because what makes it stale meanwhile must count.
        self._stale = False
        known = list(self.masters())
        random.shuffle(known)
        layout = await self._masters.discover(known)
        if layout != self._layout:
            gone = changed_masters(self._layout, layout)
            self._layout = layout
            self.layout_version += 1
            for address in gone:
                self._retire(address)

    def _discovered(self, task: asyncio.Task[None]) -> None:
        self._refresh = None
        if not task.cancelled():
            # Whoever waited has seen it; if they all gave up meanwhile, nobody needs to.
            task.exception()

    async def _refreshed(self) -> None:
        self._stale = True
        with contextlib.suppress(HubError):
            await self._located()

    async def _info(self, address: str, *sections: str) -> dict[str, str]:
        item = Try(Command("", ("INFO", *sections)))
        await self._send(address, [item])
        if isinstance(outcome := _translated(item), HubError):
            raise outcome
        return dict(line.split(":", 1) for line in outcome.decode().splitlines() if ":" in line)

    async def _inspect(self, address: str) -> None:
        info = await self._info(address)
        version = info.get("redis_version", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
            log.error("redis is too old; 7.2 is needed", setting="HUB_REDIS_URL", server=address, version=version)
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.error(
                "redis may throw away positions and history; set maxmemory-policy to noeviction",
                setting="maxmemory-policy",
                server=address,
                value=policy,
            )


class Refused(HubError):
    """Redis answered, and did not do it: a fault of this call, or of the server, but not of the way to it."""


def _translated(item: Try) -> Any:
    """The outcome as the layers above know it: a reply or a ``HubError``."""
    cause = item.outcome
    if not isinstance(cause, BaseException) or isinstance(cause, HubError):
        return cause
    if isinstance(cause, _NOT_DONE):
        error = unavailable("Redis")
    elif isinstance(cause, ResponseError):
        log.error("redis refused a call", server=item.sent_to, reason=str(cause))
        error = Refused(ErrorCode.UNAVAILABLE, "Redis refused this; the reason is in the hub's log")
    else:
        error = HubError(
            ErrorCode.UNAVAILABLE,
            "Redis did not answer in time; it may have happened all the same, so repeat it with the same key only",
            retry_after_ms=1000,
        )
    error.__cause__ = cause
    return error
