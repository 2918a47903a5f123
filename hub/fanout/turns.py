"""How much becomes one turn: on an idle node what one read from Redis brought, on a busy one what several brought.

Writing is what delivery costs, and a subscriber costs one write per topic and turn. So a node that spends much of its
time on delivery gathers what arrives for a few milliseconds; an idle one never waits. Nothing is accepted or numbered
before its turn, so everybody else sees the node as if the events had arrived a little later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hub.config import Settings
from hub.fanout.broker import BrokerEvents
from hub.topics.publication import TopicState

# Share of the time spent on delivery above which turns are gathered, and below which they are not any more. The gap
# keeps it from swinging: gathering itself makes delivery cheaper.
BUSY_ABOVE = 0.4
BUSY_BELOW = 0.15
SMOOTHING = 0.1
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
        self._timer: asyncio.TimerHandle | None = None
        self._load = 0.0
        self._started = clock()
        self.busy = False
        """Whether turns are being gathered."""

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Takes the turn now, or with what comes in the next milliseconds."""
        self._waiting.extend(batch)
        if not self.busy or len(self._waiting) >= MOST_MESSAGES:
            self._take()
        elif self._timer is None:
            pause = self._join_s - (self._clock() - self._started)
            if pause <= 0:
                self._take()
            else:
                self._timer = asyncio.get_running_loop().call_later(pause, self._take)

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

    def _take(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        started = self._clock()
        self._events.on_messages(batch)
        self._weigh(started, self._clock())

    def _weigh(self, started: float, ended: float) -> None:
        """Delivery's share of the time since the turn before, smoothed."""
        passed = max(ended - self._started, 1e-9)
        # After a pause one turn says all there is to say of it.
        weight = max(SMOOTHING, min(1.0, passed))
        self._load += (min(1.0, (ended - started) / passed) - self._load) * weight
        self._started = started
        self.busy = self._load > (BUSY_BELOW if self.busy else BUSY_ABOVE)
