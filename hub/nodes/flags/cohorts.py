"""What one node counts for the guards of staged flags: of those for whom a flag is on, and of the rest.

The edge tells it what happens on connections; ``leader`` tells the figures to whoever leads. A flag's counters begin
anew with every step of its schedule, so no figure is older than the percentage that it is held against.

What a client can bring about by itself decides about nobody else: only faults of the hub are errors, and of one user or
connection only so much counts.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from hub.config.flag_bounds import FLAG_CLIENTS
from hub.errors import ErrorCode
from hub.flags import Guards
from hub.nodes.flags.guards import Figures, bucket_of

_SLICES: Final = 60
"""Into so many slices a window is cut; it is wrong by one of them at most."""
_STALE_ACK_MS: Final = 60_000.0
"""Who acknowledges later than that was away: that is no latency."""

_SHARE: Final = 5
"""So many requests and so many acknowledgements of one user count in a window; the double when they come in bursts."""
_FAULTS: Final = frozenset({ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.UPSTREAM_FAILED})
"""Everything else is the client's own doing, or a limit that it has met."""

Values = Mapping[str, bool]
"""The flags of a connection at the moment."""
User = tuple[str, str]
"""Organisation and user."""


class Watched(Struct, frozen=True):
    """A flag whose figures are wanted."""

    version: int
    """Of the step of its schedule."""
    window_s: float
    gaps: int = _SHARE
    """So many of one connection count in a window; the double when they come in bursts."""

    @classmethod
    def by(cls, guards: Guards, version: int) -> Watched:
        """What guards want to know. One connection cannot trip them, and half of them can: each counts up to the double
        of what may be."""
        gaps = math.ceil(2 * (guards.gap_rate or 0.0) * guards.window_s / 60)
        return cls(version, guards.window_s, max(_SHARE, gaps))


class Asked(NamedTuple):
    """A request that is under way; it counts for what its flags were when it came."""

    flags: Values
    at: float
    counted: Sequence[str]
    """For which flags; the share of its user was used up for the others."""


class _Shares:
    """Lets so much of each client count: a share at once, and the same again evenly over each window."""

    def __init__(self, share: int, window_s: float) -> None:
        self._window_s = window_s
        self._each_s = window_s / share
        self._spent: dict[Hashable, float] = {}
        """By client: until when it has used up what it has."""

    def take(self, client: Hashable, now: float) -> bool:
        """Whether one more counts."""
        spent = max(self._spent.get(client, now), now) + self._each_s
        if spent - now > self._window_s * 1.001 or (len(self._spent) >= FLAG_CLIENTS and client not in self._spent):
            return False
        self._spent[client] = spent
        return True

    def prune(self, now: float) -> None:
        """Forgets those who have a whole share again."""
        self._spent = {client: spent for client, spent in self._spent.items() if spent > now}


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
        self._looked_at = self._pruned_at = now
        self.requests, self.acks = _Shares(_SHARE, watched.window_s), _Shares(_SHARE, watched.window_s)
        self.gaps = _Shares(watched.gaps, watched.window_s)

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
        if now - self._pruned_at >= self.watched.window_s:
            self._pruned_at = now
            for shares in (self.requests, self.acks, self.gaps):
                shares.prune(now)

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

    def asked(self, user: User, flags: Values) -> Asked | None:
        """A request has come that is to be answered. None: nobody wants to know, or ``user`` has had its share."""
        if not self._flags:
            return None
        now, counted = self.clock(), []
        for flag, counters in self._of(flags):
            if counters.requests.take(user, now):
                counters.now.sides[flags[flag]].requests += 1
                counted.append(flag)
        return Asked(flags, now, counted) if counted else None

    def answered(self, asked: Asked | None) -> None:
        """It was answered, and not by an error."""
        if asked is not None:
            bucket = bucket_of((self.clock() - asked.at) * 1000)
            for figures in self._sides(asked):
                figures.replies[bucket] += 1

    def failed(self, asked: Asked | None, code: str) -> None:
        """It was answered by an error; one of the hub's counts."""
        if asked is not None and code in _FAULTS:
            for figures in self._sides(asked):
                figures.errors += 1

    def joined(self, asked: Asked | None, refusals: Iterable[str]) -> None:
        """Topics were asked for, and some refused with these codes."""
        fault = next((code for code in refusals if code in _FAULTS), None)
        if fault is None:
            self.answered(asked)
        else:
            self.failed(asked, fault)

    def acknowledged(self, user: User, flags: Values, ms: float) -> None:
        """The newest event of a topic was acknowledged so long after it was published."""
        if self._flags and ms <= _STALE_ACK_MS:
            now, bucket = self.clock(), bucket_of(ms)
            for flag, counters in self._of(flags):
                if counters.acks.take(user, now):
                    counters.now.sides[flags[flag]].acks[bucket] += 1

    def gapped(self, connection: Hashable, flags: Values) -> None:
        """A ``gap`` frame was sent."""
        if self._flags:
            now = self.clock()
            for flag, counters in self._of(flags):
                if counters.gaps.take(connection, now):
                    counters.now.sides[flags[flag]].gaps += 1

    def _of(self, flags: Values) -> Iterable[tuple[str, _Counters]]:
        # A connection that has no value yet is on neither side.
        return [(flag, counters) for flag, counters in self._flags.items() if flag in flags]

    def _sides(self, asked: Asked) -> Iterable[Figures]:
        # A step may have been taken since.
        known = [(flag, self._flags[flag]) for flag in asked.counted if flag in self._flags]
        return [counters.now.sides[asked.flags[flag]] for flag, counters in known]

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
