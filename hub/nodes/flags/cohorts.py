"""What one node counts for the guards of staged flags: of those for whom a flag is on, and of the rest.

The edge tells it what happens on connections; ``leader`` tells the figures to whoever leads. A flag's counters begin
anew with every step of its schedule, so no figure is older than the percentage that it is held against.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import Struct

from hub.errors import ErrorCode
from hub.nodes.flags.guards import Figures, bucket_of

_SLICES: Final = 60
"""Into so many slices a window is cut; it is wrong by one of them at most."""
_STALE_ACK_MS: Final = 60_000.0
"""Who acknowledges later than that was away: that is no latency."""

Values = Mapping[str, bool]
"""The flags of a connection at the moment."""


class Watched(Struct, frozen=True):
    """A flag whose figures are wanted."""

    version: int
    """Of the step of its schedule."""
    window_s: float


class Asked(NamedTuple):
    """A request that is under way; it counts for what its flags were when it came."""

    flags: Values
    at: float


class _Slice:
    """A part of the window: from when to when, what happened, and how long it had how many connections."""

    __slots__ = ("began", "connection_s", "ended", "sides")

    def __init__(self, began: float) -> None:
        self.began = self.ended = began
        self.sides = {True: Figures(), False: Figures()}
        self.connection_s = {True: 0.0, False: 0.0}


class _Counters:
    """Those of one flag since its last step."""

    def __init__(self, watched: Watched, now: float) -> None:
        self.watched = watched
        self.now = _Slice(now)
        self._past: deque[_Slice] = deque(maxlen=_SLICES + 1)
        self._looked_at = now

    def look(self, counts: Mapping[bool, int], now: float) -> None:
        """So many connections there are on either side; and old slices end."""
        for side, count in counts.items():
            self.now.connection_s[side] += count * max(0.0, now - self._looked_at)
        self._looked_at = now
        if now - self.now.began >= self.watched.window_s / _SLICES:
            self.now.ended = now
            self._past.append(self.now)
            self.now = _Slice(now)
        while self._past and self._past[0].ended <= now - self.watched.window_s:
            self._past.popleft()

    def figures(self, side: bool, now: float) -> Figures:
        """Of the last window, or since the last step."""
        slices = (*self._past, self.now)
        seconds = max(now - slices[0].began, 0.001)
        total = Figures(sum(one.connection_s[side] for one in slices) / seconds)
        for one in slices:
            total.add(one.sides[side])
        return total


class Cohorts:
    """The counters of this node. While no flag has stages every call returns at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._flags: dict[str, _Counters] = {}

    @property
    def counting(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._flags)

    def now(self) -> float:
        """The time by which it counts, in seconds."""
        return self.clock()

    def watch(self, flags: Mapping[str, Watched]) -> None:
        """These are wanted from now on. Counters go on where the version is the one before."""
        now = self.clock()
        self._flags = {
            flag: known
            if (known := self._flags.get(flag)) is not None and known.watched == watched
            else _Counters(watched, now)
            for flag, watched in flags.items()
        }

    # --- what the edge tells

    def asked(self, flags: Values) -> Asked | None:
        """A request has come that is to be answered. None: nobody wants to know."""
        if not self._flags:
            return None
        for figures in self._of(flags):
            figures.requests += 1
        return Asked(flags, self.clock())

    def answered(self, asked: Asked | None) -> None:
        """It was answered, and not by an error."""
        if asked is not None:
            bucket = bucket_of((self.clock() - asked.at) * 1000)
            for figures in self._of(asked.flags):
                figures.replies[bucket] += 1

    def acknowledged(self, flags: Values, ms: float) -> None:
        """The newest event of a topic was acknowledged so long after it was published."""
        if self._flags and ms <= _STALE_ACK_MS:
            bucket = bucket_of(ms)
            for figures in self._of(flags):
                figures.acks[bucket] += 1

    def failed(self, flags: Values, code: ErrorCode) -> None:
        """An ``error`` frame was sent. That something is switched off is no fault of it."""
        if self._flags and code is not ErrorCode.FEATURE_DISABLED:
            for figures in self._of(flags):
                figures.errors += 1

    def gapped(self, flags: Values) -> None:
        """A ``gap`` frame was sent."""
        for figures in self._of(flags):
            figures.gaps += 1

    def _of(self, flags: Values) -> Iterable[Figures]:
        # A connection that has no value yet is on neither side.
        return [counters.now.sides[flags[flag]] for flag, counters in self._flags.items() if flag in flags]

    # --- what the leader is told

    def look(self, connections: Iterable[Values]) -> dict[str, Any]:
        """Counts the connections, given by their flags, and says the figures of the window, in the JSON model.

        To be called every few seconds: so long a connection counts as there.
        """
        now = self.clock()
        # Most share a few mappings.
        all_flags = list(connections)
        alike = Counter(map(id, all_flags))
        mappings = dict(zip(map(id, all_flags), all_flags, strict=True))
        told = {}
        for flag, counters in self._flags.items():
            counts: Counter[bool] = Counter()
            for identity, flags in mappings.items():
                if flag in flags:
                    counts[flags[flag]] += alike[identity]
            counters.look(counts, now)
            told[flag] = [
                counters.watched.version,
                counters.figures(True, now).told(),
                counters.figures(False, now).told(),
            ]
        return told
