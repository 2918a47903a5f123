"""How often flags are decided, and for how many connections they are on: counted without looking at each flag.

Those who have the same flags share one object, so what is counted are objects; their flags are looked at when the
counts go to the metrics, a moment later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from hub.flags import Evaluation, Outcome
from hub.telemetry import FlagMetrics

_FLUSH_S: Final = 0.5
_MOST_COUNTED: Final = 1024

Values = Mapping[str, bool]
_T = TypeVar("_T")


class _Tally(Generic[_T]):
    """So many of each object. It is kept as long as it is counted, so that no other takes its identity."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[_T, int]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, one: _T, count: int) -> None:
        self._of[id(one)] = (one, self._of.get(id(one), (one, 0))[1] + count)

    def take(self) -> list[tuple[_T, int]]:
        """What was counted; from here on nothing is."""
        counted = [(one, count) for one, count in self._of.values() if count]
        self._of.clear()
        return counted


class FlagCounts:
    """The counts of one node."""

    def __init__(self, metrics: FlagMetrics) -> None:
        self._metrics = metrics
        self._decided: _Tally[Outcome] = _Tally()
        self._moved: _Tally[Values] = _Tally()
        self._timer: asyncio.TimerHandle | None = None

    def evaluated(self, found: Evaluation) -> None:
        """One flag was decided. One that does not exist is not counted: anybody may make up its name."""
        if found.error_code is None:
            self._metrics.evaluated(found.flag, found.variant or "", found.reason)

    def decided(self, outcome: Outcome) -> None:
        """All boolean flags were decided for somebody."""
        self._decided.add(outcome, 1)
        self._dirty()

    def cohort(self, before: Values | None, now: Values | None) -> None:
        """A connection that had the flags ``before`` (None: there was none) has ``now`` (None: it is gone)."""
        if before is not None:
            self._moved.add(before, -1)
        if now is not None:
            self._moved.add(now, 1)
        self._dirty()

    def flip(self, flag: str) -> None:
        """A flag has changed for somebody."""
        self._metrics.flipped(flag)

    def guard_tripped(self, flag: str, guard: str) -> None:
        """A guard has stopped a flag's schedule."""
        self._metrics.guard_tripped(flag, guard)

    def file_error(self) -> None:
        """The file was refused."""
        self._metrics.file_refused()

    def flush(self) -> None:
        """What was counted stands in the metrics."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        evaluations: Counter[tuple[str, str, str]] = Counter()
        for outcome, count in self._decided.take():
            for flag, value in outcome.values.items():
                evaluations[flag, _variant(value), outcome.reasons[flag]] += count
        for (flag, variant, reason), count in evaluations.items():
            self._metrics.evaluated(flag, variant, reason, count)
        moves: Counter[tuple[str, str]] = Counter()
        for values, count in self._moved.take():
            for flag, value in values.items():
                moves[flag, _variant(value)] += count
        for (flag, variant), count in moves.items():
            self._metrics.moved(flag, variant, count)

    def _dirty(self) -> None:
        if len(self._decided) + len(self._moved) > _MOST_COUNTED:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)


def _variant(value: bool) -> str:
    return "on" if value else "off"
