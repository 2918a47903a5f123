"""The open connections of this node: counted, found by user, told to leave."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from msgspec import Struct
from prometheus_client import Gauge

from hub.config import Settings
from hub.edge.socket import Transport
from hub.errors import ErrorCode, HubError
from hub.telemetry import Metrics

if TYPE_CHECKING:
    from hub.edge.connection import Connection


MOST_OVER = 1.1  # connections beyond max_connections, in the moment in which they are told so


class LastWord(Struct, frozen=True):
    """The answer that a poll was not there to take, of a connection that has ended."""

    org: str
    user: str
    after: int
    """The number of the cursor that it answers."""
    body: bytes
    forgotten: asyncio.TimerHandle


class Connections:
    """All connections of this process, at most ``max_connections``."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._max = settings.max_connections
        self._gauges: dict[str, Gauge] = {name: metrics.connections.labels(name) for name in get_args(Transport)}
        self._all: dict[str, Connection] = {}
        """By id."""
        self._by_session: dict[str, Connection] = {}
        """Those whose clients send frames by requests of their own."""
        self._last_words: OrderedDict[str, LastWord] = OrderedDict()
        """By id of the connection; bounded in time, and by max_connections."""
        self._emptied = asyncio.Event()
        self.draining = False
        """Set once, when the node leaves: nobody is let in any more and readiness says no."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._all.values()))

    def no_room(self) -> HubError | None:
        """Why nobody is let in now: the process is leaving or full."""
        if self.draining:
            return HubError(ErrorCode.UNAVAILABLE, "this node is leaving; connect again", retry_after_ms=1000)
        if len(self._all) >= self._max:
            return HubError(ErrorCode.UNAVAILABLE, "this node is full; try again", retry_after_ms=5000)
        return None

    @property
    def overrun(self) -> bool:
        """So many come that they cannot even be told one by one that there is no room."""
        return len(self._all) >= self._max * MOST_OVER

    def add(self, connection: Connection) -> None:
        """A connection was opened."""
        self._all[connection.id] = connection
        self._gauges[connection.socket.transport].inc()

    def opened(self, connection: Connection) -> None:
        """One that is no WebSocket has its session: ``of_session`` finds it. What it is sent waits for the welcome."""
        self._by_session[connection.session_id] = connection

    def of_id(self, connection: str) -> Connection | None:
        """Any that is open, also when another has its session now."""
        return self._all.get(connection)

    def leave_word(self, connection: Connection, after: int, body: bytes, seconds: float) -> None:
        """It ends, and has something to say to a client that may ask once more."""
        who = connection.verified
        forgotten = asyncio.get_running_loop().call_later(seconds, self._last_words.pop, connection.id, None)
        self._last_words[connection.id] = LastWord(str(who.org), who.user, after, body, forgotten)
        if len(self._last_words) > self._max:
            self._last_words.popitem(last=False)[1].forgotten.cancel()

    def last_word(self, connection: str, org: str, user: str, after: int) -> bytes | None:
        """The last answer of a connection that has ended, for a poll of its user with the cursor before; once."""
        word = self._last_words.get(connection)
        if word is None or (word.org, word.user, word.after) != (org, user, after):
            return None
        del self._last_words[connection]
        word.forgotten.cancel()
        return word.body

    def of_session(self, session: str) -> Connection | None:
        """The newest that is no WebSocket."""
        return self._by_session.get(session)

    def remove(self, connection: Connection) -> None:
        """It was closed; more than once is the same as once."""
        if self._all.pop(connection.id, None) is not None:
            self._gauges[connection.socket.transport].dec()
            if self._by_session.get(connection.session_id) is connection:
                del self._by_session[connection.session_id]
            if not self._all:
                self._emptied.set()

    async def wait_until_empty(self, timeout_s: float) -> None:
        """Returns when the last connection is closed, or after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._all:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            return

    def of_user(self, org: str, user: str) -> list[Connection]:
        """The connections of a user on this node."""
        return [
            connection
            for connection in self._all.values()
            if connection.applicant is not None
            and connection.applicant.org == org
            and connection.applicant.user == user
        ]
