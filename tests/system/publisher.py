"""Numbered events, published in every way there is while things break, and a ledger of what was promised.

Every event has an idempotency key and is tried again until it is acknowledged, as a careful service would do.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

import asyncpg
import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

_AGAIN_S = 0.2
_TIMEOUT_S = 12.0  # the hub answers or refuses within its own Redis timeout of 5 s
_AT_ONCE = 6


class Entry(msgspec.Struct):
    """One event of the ledger."""

    number: int
    topic: str
    way: str
    acknowledged: bool = False
    epoch: str = ""
    """Where the hub said that it stands; unknown for SQL."""
    seq: int = 0
    outbox_number: int = 0
    """SQL: its number among the committed events of its topic."""

    @property
    def key(self) -> str:
        """The idempotency key."""
        return f"oracle-{self.number}"


class Ledger:
    """All events that anybody tried to publish."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self._numbers = count(1)

    def new(self, topic: str, way: str) -> Entry:
        """One event more."""
        entry = Entry(next(self._numbers), topic, way)
        self.entries[entry.number] = entry
        return entry

    @property
    def acknowledged(self) -> int:
        """How many are known to have happened."""
        return sum(entry.acknowledged for entry in self.entries.values())


class Way(Protocol):
    """One way to publish. ``send`` tries once; what it could not get acknowledged is tried again."""

    name: str

    async def send(self, entries: Sequence[Entry]) -> None:
        """Marks what was acknowledged. Raises ``OSError``, ``TimeoutError`` or the library's error."""

    async def close(self) -> None:
        """Lets go of connections."""


Addresses = Callable[[], Sequence[str]]
_FAILURES = (
    OSError, TimeoutError, EOFError, httpx.HTTPError, WebSocketException, InvalidHandshake, asyncpg.PostgresError,
    asyncpg.InterfaceError, asyncpg.InternalClientError,
)  # fmt: skip


class HttpWay:
    """``POST /v1/publish`` with a list."""

    name = "http"

    def __init__(self, addresses: Addresses, token: str, pad: int, seed: int = 0) -> None:
        self._addresses = addresses
        self._random = random.Random(seed)
        self._pad = pad
        self._client = httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S)

    async def send(self, entries: Sequence[Entry]) -> None:
        """See ``Way``."""
        address = self._random.choice(self._addresses())
        body = msgspec.json.encode([_event(entry, self._pad) for entry in entries])
        headers = {"Content-Type": "application/json"}
        answer = await self._client.post(f"http://{address}/v1/publish", content=body, headers=headers)
        if answer.status_code in (502, 503, 504):
            return
        answer.raise_for_status()
        for entry, outcome in zip(entries, answer.json(), strict=True):
            if "error" not in outcome:
                _acknowledge(entry, outcome)
            elif outcome["error"]["retry"] == "never":
                raise AssertionError(f"the hub refused an event: {outcome}")

    async def close(self) -> None:
        """See ``Way``."""
        await self._client.aclose()


class FrameWay:
    """``publish`` frames on a socket, several in flight."""

    name = "frame"

    def __init__(self, addresses: Addresses, token: str, pad: int, seed: int = 0) -> None:
        self._addresses = addresses
        self._random = random.Random(seed)
        self._token = token
        self._pad = pad
        self._socket: ClientConnection | None = None

    async def send(self, entries: Sequence[Entry]) -> None:
        """See ``Way``."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                link = await self._connected()
                waiting = {entry.number: entry for entry in entries}
                for entry in entries:
                    frame = {"type": "publish", "id": entry.number, **_event(entry, self._pad)}
                    await link.send(msgspec.json.encode(frame).decode())
                while waiting:
                    answer = msgspec.json.decode(await link.recv())
                    entry_or_none = waiting.pop(answer.get("id"), None)
                    if entry_or_none is not None and answer["type"] == "reply":
                        _acknowledge(entry_or_none, answer["result"])
                    elif answer["type"] == "error" and answer["retry"] == "never":
                        raise AssertionError(f"the hub refused an event: {answer}")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Way``."""
        link, self._socket = self._socket, None
        if link is not None:
            with contextlib.suppress(OSError, TimeoutError):
                await link.close()

    async def _connected(self) -> ClientConnection:
        if self._socket is None:
            url = f"ws://{self._random.choice(self._addresses())}/ws"
            headers = {"Authorization": f"Bearer {self._token}"}
            link = await connect(url, additional_headers=headers, compression=None, close_timeout=1)
            await link.send('{"type":"hello","id":0}')
            if msgspec.json.decode(await link.recv())["type"] != "welcome":
                await link.close()
                raise OSError("not welcome just now")
            self._socket = link
        return self._socket


class SqlWay:
    """``hub_publish`` in a transaction."""

    name = "sql"

    def __init__(self, url: str, org: str, pad: int) -> None:
        self._url = url
        self._org = org
        self._pad = pad
        self._connection: Any = None

    async def send(self, entries: Sequence[Entry]) -> None:
        """See ``Way``. Topics are locked in one order, so that transactions do not wait for one another in a ring."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._url)
                numbers = await self._transaction(sorted(entries, key=lambda entry: (entry.topic, entry.number)))
        except BaseException:
            await self.close()
            raise
        for entry in entries:
            entry.acknowledged, entry.outbox_number = True, numbers[entry.number]

    async def close(self) -> None:
        """See ``Way``."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_FAILURES):
                await connection.close(timeout=1)

    async def _transaction(self, entries: Sequence[Entry]) -> dict[int, int]:
        async with self._connection.transaction():
            await self._connection.execute("SELECT set_config('hub.org', $1, true)", self._org)
            return {
                entry.number: await self._connection.fetchval(
                    "SELECT hub_publish($1, $2, 'oracle.event', $3::jsonb, $4)",
                    self._org, entry.topic, msgspec.json.encode(_data(entry, self._pad)).decode(), entry.key,
                )
                for entry in entries
            }  # fmt: skip


class Publisher:
    """Publishes at a steady rate over all ways until it is stopped."""

    def __init__(self, ways: Sequence[Way], topics: Sequence[str], rate: float, seed: int) -> None:
        self.ledger = Ledger()
        self._ways = list(ways)
        self._topics = topics
        self._rate = rate
        self._chances = [random.Random(f"{seed} {number}") for number in range(len(ways))]
        self._running = True
        self._silent: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins, or goes on after ``stop``."""
        self._running = True
        self._tasks = [
            asyncio.create_task(self._run(way, chance), name=f"publish-{way.name}")
            for way, chance in zip(self._ways, self._chances, strict=True)
        ]

    async def stop(self, timeout_s: float) -> None:
        """Begins nothing new and waits until everything begun is acknowledged."""
        self._running = False
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*self._tasks)

    def silence(self, way: str) -> None:
        """Begins nothing new this way."""
        self._silent.add(way)

    async def close(self) -> None:
        """Ends, whatever is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for way in self._ways:
            await way.close()

    async def mark(self, sender: Way | None = None) -> list[Entry]:
        """One event on every topic, acknowledged."""
        # Over HTTP, whose requests may overlap with those of the steady stream.
        chosen = sender or self._ways[0]
        entries = [self.ledger.new(topic, chosen.name) for topic in self._topics]
        await self._insist(chosen, entries)
        return entries

    async def _run(self, way: Way, chance: random.Random) -> None:
        share = self._rate / len(self._ways)
        due = time.monotonic()
        while self._running and way.name not in self._silent:
            count = chance.randint(1, _AT_ONCE)
            entries = [self.ledger.new(chance.choice(self._topics), way.name) for _ in range(count)]
            await self._insist(way, entries)
            # At random moments: in step with one another, the ways would leave pauses in which faults go unnoticed.
            # After an outage nobody catches up what was not even begun.
            due = max(due + count / share * chance.uniform(0.2, 1.8), time.monotonic() - 0.5)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _insist(self, way: Way, entries: Sequence[Entry]) -> None:
        while left := [entry for entry in entries if not entry.acknowledged]:
            with contextlib.suppress(*_FAILURES):
                await way.send(left)
            if not all(entry.acknowledged for entry in left):
                await asyncio.sleep(_AGAIN_S)


def _data(entry: Entry, pad: int) -> dict[str, Any]:
    return {"number": entry.number, "pad": "x" * pad}


def _event(entry: Entry, pad: int) -> dict[str, Any]:
    return {"topic": entry.topic, "name": "oracle.event", "data": _data(entry, pad), "key": entry.key}


def _acknowledge(entry: Entry, outcome: dict[str, Any]) -> None:
    entry.acknowledged, entry.epoch, entry.seq = True, outcome["epoch"], outcome["seq"]
