"""How much becomes one turn: on an idle node what one read from Redis brought, on a busy one what several brought.

Writing is what delivery costs, and a subscriber costs one write per topic and turn. So a node rests from delivery for
as long as the turn before took, at most ``join_ms``; what arrives meanwhile is the next turn. A turn of one client is
over in microseconds, and nobody waits for it. One of a thousand clients takes milliseconds; then half of the time
belongs to everybody else, and what came during both goes out in one write each. Nothing is accepted or numbered before
its turn, so the rest of the node sees events as if they had arrived a little later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hub.config import Settings
from hub.fanout.broker import BrokerEvents
from hub.topics.publication import TopicState

MOST_MESSAGES = 20_000  # of one turn; beyond that it is taken at once


class Turns:
    """Stands between the broker and the dispatcher; implements ``BrokerEvents``."""

    def __init__(
        self, settings: Settings, events: BrokerEvents, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._join_s = settings.join_ms / 1000
        self._events = events
        self._clock = clock
        self._waiting: list[tuple[bytes, bytes]] = []
        self._writing: asyncio.Handle | None = None
        """Set from the beginning of a turn until its writes are out."""
        self._timer: asyncio.TimerHandle | None = None
        self._rested_at = 0.0
        """Before this, by the clock, no turn begins by itself."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Takes the turn now, or with what comes in the next milliseconds."""
        self._waiting.extend(batch)
        if len(self._waiting) >= MOST_MESSAGES:
            self._take()
        elif self._writing is None and self._timer is None:
            self._take_when_rested()

    def on_state(self, channel: bytes, state: TopicState) -> None:
        """What arrived before this state is seen before it."""
        self._take()
        self._events.on_state(channel, state)

    def on_link(self, ready: bool) -> None:
        """Passed on."""
        self._events.on_link(ready)

    def close(self) -> None:
        """Takes what waits."""
        self._take()

    def _take_when_rested(self) -> None:
        pause = self._rested_at - self._clock()
        if pause <= 0:
            self._take()
        else:
            self._timer = asyncio.get_running_loop().call_later(pause, self._take)

    def _take(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        started = self._clock()
        self._events.on_messages(batch)
        if self._writing is None:
            # uvloop writes at the end of the loop's turn: only the next one can tell what this one took.
            self._writing = asyncio.get_running_loop().call_soon(self._rest, started)

    def _rest(self, started: float) -> None:
        self._writing = None
        ended = self._clock()
        self._rested_at = ended + min(ended - started, self._join_s)
        if self._waiting:
            self._take_when_rested()
