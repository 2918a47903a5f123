"""Whose events go out next, and how many of them in one write.

Writing is what delivery costs, and a subscriber costs one write per topic and turn. So after a turn its topics rest for
twice as long as it took, at most ``join_ms``; what arrives meanwhile goes out together. A turn for one client is over
in microseconds, and its topic is ready for the next event at once. One for a thousand clients takes milliseconds: its
topic rests longer than it works, and joins what comes meanwhile. Topics take turns in the order in which they became
ready, and a turn ends when it has enough to write. So a loud topic joins its own events and delays nobody else's.

Nothing is accepted or numbered before its turn, so the rest of the node sees events as if they had arrived a little
later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from hub.config import Settings
from hub.fanout.broker import BrokerEvents
from hub.topics.publication import TopicState
from hub.topics.subscriptions import LocalTopics

TURN_WORK = 250  # in writes: one or two milliseconds
MESSAGE_WORK = 3  # taking in a message costs as much as this many writes
LIGHT = 8  # what is less work does not rest: to joining there is nothing to gain
REST = 2  # times as long as the turn


class Turns:
    """Stands between the broker and the dispatcher; implements ``BrokerEvents``."""

    def __init__(
        self,
        settings: Settings,
        topics: LocalTopics,
        events: BrokerEvents,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._join_s = settings.join_ms / 1000
        self._topics = topics
        self._events = events
        self._clock = clock
        self._waiting: dict[bytes, list[tuple[bytes, bytes]]] = {}
        """Messages by channel, of channels that are ready, or rest and may have got none yet."""
        self._count = 0
        self._ready: deque[bytes] = deque()
        self._most = settings.max_waiting_messages
        self._next: asyncio.Handle | None = None
        """Set after a turn: the loop looks at its sockets before the next one."""

    def __len__(self) -> int:
        """Topics that are ready or rest."""
        return len(self._waiting)

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        """Takes them now, or when their topics have rested and it is their turn."""
        for message in batch:
            channel = message[0]
            waiting = self._waiting.get(channel)
            if waiting is None:
                self._waiting[channel] = [message]
                self._ready.append(channel)
            else:
                waiting.append(message)
        self._count += len(batch)
        if self._count >= self._most:
            self._take_all()
        elif self._next is None:
            self._turn()

    def on_state(self, channel: bytes, state: TopicState) -> None:
        """What arrived before this state is seen before it."""
        if waiting := self._waiting.get(channel):
            self._waiting[channel] = []
            self._take(waiting)
        self._events.on_state(channel, state)

    def on_link(self, ready: bool) -> None:
        """Passed on."""
        self._events.on_link(ready)

    def close(self) -> None:
        """Takes what waits."""
        self._take_all()

    def _turn(self) -> None:
        """As many topics as make a turn."""
        batch: list[tuple[bytes, bytes]] = []
        resting: list[bytes] = []
        work = 0
        while self._ready and work < TURN_WORK:
            channel = self._ready.popleft()
            waiting = self._waiting.pop(channel)
            if not waiting:
                continue
            batch += waiting
            local = self._topics.get(channel)
            weight = len(waiting) * MESSAGE_WORK + (local.holders if local is not None else 0)
            work += weight
            if weight > LIGHT:
                self._waiting[channel] = []
                resting.append(channel)
        if batch:
            started = self._clock()
            self._next = asyncio.get_running_loop().call_soon(self._go_on)
            try:
                self._take(batch)
            finally:
                self._rest(started, resting)

    def _go_on(self) -> None:
        self._next = None
        self._turn()

    def _rest(self, started: float, channels: Sequence[bytes]) -> None:
        """Who is still being written to rests when that is done."""
        walking: list[bytes] = []
        resting: list[bytes] = []
        for channel in channels:
            (walking if self._walks(channel) else resting).append(channel)
        if resting:
            pause = min((self._clock() - started) * REST, self._join_s)
            asyncio.get_running_loop().call_later(pause, self._rested, resting)
        if walking:
            asyncio.get_running_loop().call_soon(self._rest, started, walking)

    def _take_all(self) -> None:
        batch = [message for waiting in self._waiting.values() for message in waiting]
        for channel in self._waiting:
            self._waiting[channel] = []
        self._take(batch)

    def _take(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        self._count -= len(batch)
        if batch:
            self._events.on_messages(batch)

    def _walks(self, channel: bytes) -> bool:
        local = self._topics.get(channel)
        return local is not None and local.walk is not None

    def _rested(self, channels: Sequence[bytes]) -> None:
        for channel in channels:
            if self._waiting[channel]:
                self._ready.append(channel)
            else:
                del self._waiting[channel]
        if self._next is None:
            self._turn()
