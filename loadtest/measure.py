"""One measurement of deliveries, and what several of them come to: medians, spread, and whether a run counts at all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from loadtest.machine import Load

LOAD_CORE_LIMIT = 0.85
"""Above this the generators, not the server, may have set the figure: the run is void."""
STRANGERS_LIMIT = 0.12
"""More of the server's core than this taken by somebody else: void too."""
LATE_LIMIT_MS = 5.0
"""A publisher whose p99 is later than this against its own clock sends in bursts: void as well."""
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: figures by name, and why it is void ("" when it counts)."""

    figures: dict[str, float]
    void: str = ""

    def __getitem__(self, name: str) -> float:
        return self.figures[name]


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs of one thing: median and spread."""

    median: float
    least: float
    most: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure must reach. ``text`` is how DESIGN's table says it."""

    text: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches it."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A line of the table."""

    row: str
    what: str
    unit: str
    figure: Summary
    target: Target | None = None
    references: dict[str, Summary] = field(default_factory=dict)
    against: str = ""
    """The reference that the ratio is quoted against."""
    void: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Figure / reference, by their medians."""
        reference = self.references.get(self.against)
        return self.figure.median / reference.median if reference is not None and reference.median else None

    @property
    def met(self) -> bool | None:
        """None where there is no target, or the runs were void."""
        return None if self.target is None or self.void else self.target.met(self.figure.median)


def thousands(value: float) -> str:
    """12 345."""
    return f"{value:,.0f}".replace(",", " ")


def why_void(load: Load, late_ms: float = 0.0) -> str:
    """Why a run with this load does not count; "" when it does."""
    if load.load_core > LOAD_CORE_LIMIT:
        return f"the load's core was {load.load_core:.0%} busy"
    if load.strangers > STRANGERS_LIMIT:
        return f"others took {load.strangers:.0%} of the server's core"
    if late_ms > LATE_LIMIT_MS:
        return f"the publisher was {late_ms:.0f} ms late"
    return ""


def attempted(measure: Callable[[], Sample], attempts: int = ATTEMPTS) -> Sample:
    """The first run that counts, else the last one with its reason."""
    sample = measure()
    for _ in range(attempts - 1):
        if not sample.void:
            break
        sample = measure()
    return sample


def summary(values: Iterable[float]) -> Summary:
    """Median and spread."""
    ordered = sorted(values)
    return Summary(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def summary_of(samples: Sequence[Sample], name: str) -> Summary:
    """The same of one figure; void runs are left out when there are others."""
    counted = [sample for sample in samples if not sample.void] or samples
    return summary(sample[name] for sample in counted)


def void_of(samples: Sequence[Sample]) -> str:
    """Why all runs are void; "" when one counts."""
    reasons = [sample.void for sample in samples]
    return reasons[0] if reasons and all(reasons) else ""


def highest(holds: Callable[[float], bool], low: float, high: float, tolerance: float) -> float:
    """The highest rate that ``holds``, to within ``tolerance`` (a share of it), between ``low`` and ``high``.

    0 when not even ``low`` holds. ``holds`` is asked upward, doubling, first, so that an overload comes late.
    """
    if not holds(low):
        return 0.0
    good = low
    while good < high and holds(min(good * 2, high)):
        good = min(good * 2, high)
    bad = min(good * 2, high)
    while bad - good > tolerance * good:
        middle = (good + bad) / 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good
