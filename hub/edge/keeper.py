"""Keeps the deadlines of all connections with one task: hello, heartbeat, pong, token, idleness, progress, drain.

Each connection is looked at when its next deadline comes. Those whose deadlines are close together share a slot, so
that keeping them costs a connection nothing but its place in a list.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.delivery import Delivery
from hub.protocol.codes import CloseCode
from hub.protocol.frames import Expiring, Heartbeat
from hub.protocol.session import State

if TYPE_CHECKING:
    from hub.edge.connection import Connection

log = structlog.get_logger(__name__)

LOOK_AT_CONGESTED_S = 1.0
LOOKS_AT_ONCE = 200  # then others have their turn
SLOT_S = 0.05  # how late a deadline may be kept, and the shortest time between two looks


def expiring_notice_s(settings: Settings, principal: Principal) -> float:
    """How long before its end a token's end is told: not before half of its life is over, if it says when it began."""
    if not principal.issued_at:
        return settings.expiring_notice_s
    return min(settings.expiring_notice_s, (principal.expires_at - principal.issued_at) / 2)


class Keeper:
    """The one task; started and closed by the composition root."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._settings = settings
        self._delivery = delivery
        self._soon: set[Connection] = set()
        # By number: slot n is looked at n * SLOT_S after the clock's beginning. The heap has the numbers there are.
        self._slots: dict[int, list[Connection]] = {}
        self._numbers: list[int] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def watch(self, connection: Connection) -> None:
        """Looks at a connection soon, and from then on as its deadlines ask."""
        self._soon.add(connection)
        self._wake.set()

    def start(self) -> None:
        """Starts the task; ``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="keeper")

    async def close(self) -> None:
        """Ends the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _schedule(self, connection: Connection, due: float) -> None:
        number = math.ceil(due / SLOT_S)
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = []
            heapq.heappush(self._numbers, number)
        slot.append(connection)
        # Where it stood before, it is passed over when that slot comes up.
        connection.slot = slot

    async def _run(self) -> None:
        while True:
            pause = self._numbers[0] * SLOT_S - time.monotonic() if self._numbers else 60.0
            if pause > 0:
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            self._wake.clear()
            for _ in self._look_at_due():
                await asyncio.sleep(0)

    def _look_at_due(self) -> Iterator[None]:
        """Looks at everything that is due; comes up for air every LOOKS_AT_ONCE connections, and once at the end."""
        soon, self._soon = self._soon, set()
        for number, connection in enumerate(soon, 1):
            self._look_and_schedule(connection, time.monotonic())
            if number % LOOKS_AT_ONCE == 0:
                yield
        while self._numbers and self._numbers[0] * SLOT_S <= time.monotonic():
            slot = self._slots.pop(heapq.heappop(self._numbers))
            for number, connection in enumerate(slot, 1):
                if connection.slot is slot:
                    self._look_and_schedule(connection, time.monotonic())
                if number % LOOKS_AT_ONCE == 0:
                    yield
        yield

    def _look_and_schedule(self, connection: Connection, now: float) -> None:
        if connection.gone:
            connection.slot = None
            return
        try:
            self._schedule(connection, max(self._look(connection, now), now + SLOT_S))
        except Exception:
            log.exception("deadlines not kept", connection=connection.id)
            connection.close(CloseCode.INTERNAL)
            self._schedule(connection, now + LOOK_AT_CONGESTED_S)

    # --- deadlines: each does what is due and returns when to look again (monotonic seconds)

    def _look(self, connection: Connection, now: float) -> float:
        if connection.close_code:
            return self._look_at_closing(connection, now)
        if connection.principal is None or connection.session.state is State.OPENING:
            return self._look_at_hello(connection, now)  # nothing comes before `welcome`
        return min(
            self._look_at_token(connection, now),
            self._look_at_silence(connection, now),
            self._look_at_progress(connection, now),
            self._look_at_pong(connection, now),
            self._look_at_age(connection, now),
            self._look_at_positions(connection, now),
            connection.socket.look(now),
            *(() if connection.attendance is None else (connection.look_away(now),)),
        )

    def _look_at_closing(self, connection: Connection, now: float) -> float:
        # The socket has its own deadline for the closing handshake; this only forgets the connection afterwards.
        return now + LOOK_AT_CONGESTED_S

    def _look_at_hello(self, connection: Connection, now: float) -> float:
        if connection.session.state is State.OPENING:
            return now + self._settings.hello_timeout_s  # it has come; what it waits for has its own deadlines
        due = connection.opened_at + self._settings.hello_timeout_s
        if now >= due:
            connection.close(CloseCode.TIMEOUT, HubError(ErrorCode.TIMEOUT, "no 'hello' came in time"))
        return due

    def _look_at_token(self, connection: Connection, now: float) -> float:
        principal = connection.principal
        assert principal is not None  # noqa: S101 - asked by _look
        left = principal.expires_at - time.time()
        if left <= 0:
            error = HubError(ErrorCode.TOKEN_EXPIRED, "the token has expired; connect with a fresh one")
            connection.close(CloseCode.UNAUTHENTICATED, error)
        notice_s = expiring_notice_s(self._settings, principal)
        if 0 < left <= notice_s and not connection.expiring_told:
            connection.expiring_told = True
            connection.send(Expiring(int(left * 1000)))
        notice = left - notice_s
        return now + (notice if notice > 0 else max(left, 0))

    def _look_at_silence(self, connection: Connection, now: float) -> float:
        """A heartbeat when nothing was sent for a while. It would answer a poll that waits for something to happen."""
        if connection.socket.transport == "poll":
            return math.inf
        due = connection.sent_at + self._settings.heartbeat_s
        if now < due or connection.congested:
            return due if now < due else now + self._settings.heartbeat_s
        connection.send(Heartbeat(int(time.time() * 1000)))
        return now + self._settings.heartbeat_s

    def _look_at_pong(self, connection: Connection, now: float) -> float:
        if connection.pinged_at:
            if connection.socket.unsent:
                # The ping may be behind what is unsent: the wait begins when that is out.
                connection.pinged_at = now
            elif now - connection.pinged_at >= self._settings.pong_timeout_s:
                connection.close(CloseCode.NO_PONG)
            return connection.pinged_at + self._settings.pong_timeout_s
        due = connection.heard_at + self._settings.heartbeat_s
        if now >= due and not connection.socket.unsent:
            if connection.socket.ping():
                connection.pinged_at = now
                return now + self._settings.pong_timeout_s
            return now + self._settings.heartbeat_s
        return max(due, now + LOOK_AT_CONGESTED_S)

    def _look_at_progress(self, connection: Connection, now: float) -> float:
        if not connection.congested:
            return now + self._settings.no_progress_s
        unsent = connection.socket.unsent
        fewest, since = connection.progress
        if unsent < fewest:
            connection.progress = (unsent, now)
        elif now - since >= self._settings.no_progress_s:
            connection.close(CloseCode.TOO_SLOW)
            connection.socket.abort()
        return now + LOOK_AT_CONGESTED_S

    def _look_at_age(self, connection: Connection, now: float) -> float:
        """Idle for too long (no subscription, nothing said), or alive for too long."""
        if connection.drain_at:
            if now >= connection.drain_at:
                connection.close(CloseCode.DRAINING)
            return connection.drain_at
        longest = self._settings.session_max_s
        end = connection.opened_at + longest if longest else now + 3600
        if now >= end:
            connection.close(CloseCode.DRAINING)
        if connection.subscriptions:
            return end
        idle = connection.spoke_at + self._settings.idle_timeout_s
        if now >= idle:
            connection.close(CloseCode.TIMEOUT, HubError(ErrorCode.TIMEOUT, "idle: no subscription and no frame"))
        return min(end, idle)

    def _look_at_positions(self, connection: Connection, now: float) -> float:
        """Filtered subscriptions that skipped events learn their position now and then."""
        pause = self._settings.position_skip_s
        next_due = now + pause
        for sub in connection.subscriptions.values():
            if sub.filter is None or not sub.skipped:
                continue
            due = sub.position_sent_at + pause
            if due <= now:
                self._delivery.tell_position(sub)
            else:
                next_due = min(next_due, due)
        return next_due
