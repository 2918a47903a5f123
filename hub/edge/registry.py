"""The open connections of this node: counted, found by user, told to leave."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from prometheus_client import Gauge

from hub.config import Settings
from hub.edge.socket import Transport
from hub.errors import ErrorCode, HubError
from hub.telemetry import Metrics

if TYPE_CHECKING:
    from hub.edge.connection import Connection


MOST_OVER = 1.1  # connections beyond max_connections, in the moment in which they are told so


class Connections:
    """All connections of this process, at most ``max_connections``."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._max = settings.max_connections
        self._gauges: dict[str, Gauge] = {name: metrics.connections.labels(name) for name in get_args(Transport)}
        self._all: set[Connection] = set()
        self._by_session: dict[str, Connection] = {}
        self._by_id: dict[str, Connection] = {}
        """Those whose clients send frames by requests of their own."""
        self._parted: dict[str, Connection] = {}
        """Ended while their clients did not ask; bounded in time."""
        self._emptied = asyncio.Event()
        self.draining = False
        """Set once, when the node leaves: nobody is let in any more and readiness says no."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._all))

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
        self._all.add(connection)
        self._gauges[connection.socket.transport].inc()

    def opened(self, connection: Connection) -> None:
        """One that is no WebSocket was welcomed: ``of_session`` finds it."""
        self._by_session[connection.session_id] = self._by_id[connection.id] = connection

    def of_id(self, connection: str) -> Connection | None:
        """One that is no WebSocket, also when another has its session now, or it has just ended."""
        return self._by_id.get(connection) or self._parted.get(connection)

    def part(self, connection: Connection, seconds: float) -> None:
        """It ends, and has something to say to a client that may ask once more."""
        self._parted[connection.id] = connection
        asyncio.get_running_loop().call_later(seconds, self.forget, connection)

    def forget(self, connection: Connection) -> None:
        """It has said it."""
        self._parted.pop(connection.id, None)

    def of_session(self, session: str) -> Connection | None:
        """The newest that is no WebSocket."""
        return self._by_session.get(session)

    def remove(self, connection: Connection) -> None:
        """It was closed; more than once is the same as once."""
        if connection in self._all:
            self._all.remove(connection)
            self._gauges[connection.socket.transport].dec()
            if self._by_session.get(connection.session_id) is connection:
                del self._by_session[connection.session_id]
            self._by_id.pop(connection.id, None)
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
            for connection in self._all
            if connection.applicant is not None
            and connection.applicant.org == org
            and connection.applicant.user == user
        ]
