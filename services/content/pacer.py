"""When the next chunk is due. No task, no wait: whoever asks says what time it is (monotonic seconds)."""

from __future__ import annotations

import math
from collections.abc import Callable

from services.content.metrics import ContentMetrics
from services.content.pipeline import Complexity, Speed, interval_ms, slowed_ms

# Streams whose chunks are due within the same step of the clock are published in the same turn of the event loop, and
# so share writes to Redis.
_GRID_S = 0.005
# A driver that is later than this does not make up for it: a burst helps nobody.
_MOST_BEHIND_S = 1.0


class Pacer:
    """The schedule of one stream; slower while ``lag`` says that a watcher cannot follow."""

    def __init__(self, now: float, metrics: ContentMetrics, lag: Callable[[], int]) -> None:
        self._metrics = metrics
        self._lag = lag
        self._next = now
        self._slowed = False

    @property
    def due(self) -> float:
        """When the next chunk goes out, at the latest a step of the grid after it could."""
        return math.ceil(self._next / _GRID_S) * _GRID_S

    def passed(self, now: float, speed: Speed, complexity: Complexity) -> float:
        """A chunk goes out now; the next one is due after what speed, complexity and watchers demand.

        Returns how much of that in seconds the watchers do.
        """
        self._metrics.late(max(0.0, now - self._next))
        interval_s = self._interval_s(speed, complexity)
        self._next = max(self._next, now - _MOST_BEHIND_S) + interval_s
        return interval_s - interval_ms(speed, complexity) / 1000

    def hurry(self, now: float, speed: Speed, complexity: Complexity) -> None:
        """The pace has changed, or a pause is over: nobody waits longer than the new pace demands."""
        self._next = min(max(self._next, now), now + self._interval_s(speed, complexity))

    def nothing_until(self, now: float) -> None:
        """There was no chunk until now, for which nobody here is to blame: what comes is not late."""
        self._next = max(self._next, now)

    def _interval_s(self, speed: Speed, complexity: Complexity) -> float:
        usual = interval_ms(speed, complexity)
        interval = slowed_ms(usual, self._lag())
        if interval > usual and not self._slowed:
            self._metrics.slowed()
        self._slowed = interval > usual
        return interval / 1000
