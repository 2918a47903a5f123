"""Lets clients that come in through a few at a time, so that events go out in between however many come at once.

Everything costly that a newcomer causes passes here: its handshake, its hello, what it missed. Whoever is through does
the work; this only says when.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum

from hub.config import Settings
from hub.telemetry import Metrics


class Step(IntEnum):
    """What a newcomer does, the last first: who is nearly in is let in before others begin. Who lags comes last."""

    CATCH_UP = 0
    HELLO = 1
    HANDSHAKE = 2
    LAG = 3


class Turnstile:
    """Lets ``newcomer_steps_per_turn`` pass in one turn of the event loop; of the same step, first come, first served.

    Where few come nobody waits. Who waits is bounded by the connections: each takes one step at a time.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._per_turn = settings.newcomer_steps_per_turn
        self._left = self._per_turn
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = tuple(deque() for _ in Step)

    @property
    def waiting(self) -> int:
        """Steps that wait for their turn."""
        return sum(map(len, self._waiting))

    async def turn(self, step: Step) -> None:
        """Returns when ``step`` may be taken."""
        waiter = self.wait(step)
        if waiter is not None:
            await waiter

    def wait(self, step: Step) -> asyncio.Future[None] | None:
        """None: take the step now; else when the future is done. Cancelling it gives the place in line to others."""
        if self._left:
            self._take()
            return None
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[step].append(waiter)
        return waiter

    def _take(self) -> None:
        if self._left == self._per_turn:
            # The loop looks at its sockets before it comes back to this.
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._left -= 1

    def _next_turn(self) -> None:
        self._left = self._per_turn
        for line in self._waiting:
            while line and self._left:
                waiter = line.popleft()
                if not waiter.done():  # else its client has left
                    waiter.set_result(None)
                    self._take()
        self._metrics.newcomers.set(self.waiting)
