"""What a guard looks at, and whether it trips: figures of a cohort against those of the rest. Pure.

``cohorts`` counts, ``leader`` adds up what the nodes have counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from hub.flags import Guards

_LEAST_MS: Final = 0.1
_STEP: Final = 1.1
"""Each bucket of a histogram is so many times as wide as the one before: a percentile is right to a tenth."""
_LOG_STEP: Final = math.log(_STEP)
_LONGEST_MS: Final = 60_000.0
_BUCKETS: Final = math.ceil(math.log(_LONGEST_MS / _LEAST_MS, _STEP)) + 1
_PERCENTILE: Final = 0.99

Buckets = Counter[int]
"""Times, by bucket; at most ``_BUCKETS`` of them."""


def bucket_of(ms: float) -> int:
    """The bucket of a time; what is longer than a minute is in the last one."""
    if ms <= _LEAST_MS:
        return 0
    return min(math.ceil(math.log(ms / _LEAST_MS) / _LOG_STEP), _BUCKETS - 1)


def p99_ms(buckets: Buckets) -> float:
    """The time that 99 of 100 stay below: the upper end of its bucket. 0 when there is none."""
    left = math.ceil(buckets.total() * _PERCENTILE)
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(_LEAST_MS * _STEP**bucket)
    return 0.0


class Figures(Struct):
    """What happened to some connections in a stretch of time."""

    connections: float = 0.0
    """How many there were, on average."""
    gaps: int = 0
    errors: int = 0
    requests: int = 0
    replies: Buckets = msgspec.field(default_factory=Counter)
    """From request to reply."""
    acks: Buckets = msgspec.field(default_factory=Counter)
    """From publication to acknowledgement."""

    @classmethod
    def sum(cls, several: Iterable[Figures]) -> Figures:
        """Those of several nodes."""
        total = cls()
        for one in several:
            total.connections += one.connections
            total.add(one)
        return total

    def add(self, other: Figures) -> None:
        """Adds what was counted; ``connections`` is left to the caller, who knows whether they are the same ones."""
        self.gaps += other.gaps
        self.errors += other.errors
        self.requests += other.requests
        self.replies.update(other.replies)
        self.acks.update(other.acks)

    def told(self) -> list[Any]:
        """For another node, in the JSON model and small."""
        counts = [round(self.connections, 3), self.gaps, self.errors, self.requests]
        return [*counts, *([*map(list, buckets.items())] for buckets in (self.replies, self.acks))]

    @classmethod
    def heard(cls, told: Any) -> Figures:
        """What ``told`` was made of. Raises ``msgspec.ValidationError``."""
        connections, gaps, errors, requests, replies, acks = msgspec.convert(told, _Told)
        return cls(connections, gaps, errors, requests, Counter(dict(replies)), Counter(dict(acks)))


_Told = tuple[float, int, int, int, list[tuple[int, int]], list[tuple[int, int]]]


class Trip(Struct, frozen=True):
    """A guard that says stop."""

    guard: str
    """``gap_rate``, ``error_rate`` or ``p99_ms``."""
    limit: float
    cohort: float
    rest: float | None
    """None: there is no rest to speak of, so the cohort counts alone."""
    observations: int
    what: str
    """What was observed: connections, requests …"""

    @property
    def text(self) -> str:
        """For the record of who changed what."""
        rest = "nobody to compare with" if self.rest is None else f"{self.rest:.4g} for the rest"
        return (
            f"{self.guard}: {self.cohort:.4g} where the flag is on, {rest}; "
            f"the limit is {self.limit:g} more ({self.observations} {self.what})"
        )


class _Measured(Struct, frozen=True):
    """One figure of one side, and how many observations it stands on."""

    value: float
    observations: int


def judge(guards: Guards, cohort: Figures, rest: Figures, *, whole: bool = True) -> Trip | None:
    """The first guard that trips, of figures of the last ``window_s``. ``whole``: it is all over since the last step.

    A guard needs ``least`` observations of the cohort. With fewer than that of the rest nothing is compared: the cohort
    counts alone, against the limit. Not before the window is ``whole``, if there are connections in the rest: where it
    is the smaller part it shows later what is so for everybody.
    """
    alone = whole or rest.connections < 1
    gaps = (_gap_rate(cohort, guards), _gap_rate(rest, guards), "connections")
    errors = (_error_rate(cohort), _error_rate(rest), "requests")
    replies = (_p99(cohort.replies), _p99(rest.replies), "replies")
    acks = (_p99(cohort.acks), _p99(rest.acks), "acknowledgements")
    trips = (
        _compare(guards, "gap_rate", guards.gap_rate, gaps),
        _compare(guards, "error_rate", guards.error_rate, errors),
        _compare(guards, "p99_ms", guards.p99_ms, replies),
        _compare(guards, "p99_ms", guards.p99_ms, acks),
    )
    return next((trip for trip in trips if trip is not None and (alone or trip.rest is not None)), None)


def _compare(
    guards: Guards, guard: str, limit: float | None, measured: tuple[_Measured, _Measured, str]
) -> Trip | None:
    cohort, rest, what = measured
    if limit is None or cohort.observations < guards.least:
        return None
    compared = rest.value if rest.observations >= guards.least else None
    if cohort.value - (compared or 0.0) <= limit:
        return None
    return Trip(guard, limit, cohort.value, compared, cohort.observations, what)


def _gap_rate(figures: Figures, guards: Guards) -> _Measured:
    """Per connection and minute, as if nothing more came until the window is over: one gap is no rate yet."""
    minutes = figures.connections * guards.window_s / 60
    return _Measured(figures.gaps / minutes if minutes else 0.0, int(figures.connections))


def _error_rate(figures: Figures) -> _Measured:
    """Per request. Those that were asked before a step may fail after it, so there may be more of them."""
    asked = max(figures.requests, figures.errors)
    return _Measured(figures.errors / asked if asked else 0.0, asked)


def _p99(buckets: Buckets) -> _Measured:
    return _Measured(p99_ms(buckets), buckets.total())
