"""Times cases against a reference loop: repetitions interleaved, medians, one ratio per case. No thresholds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

Run = Callable[[], object]


class Case(NamedTuple):
    """One thing to time."""

    name: str
    unit: str
    """What one operation is."""
    operations: int
    """Of them in one call of what ``prepare`` gives."""
    prepare: Callable[[], Awaitable[Run]]


class Timing(NamedTuple):
    """What came out for one case."""

    case: Case
    ns: float
    """Median time of an operation."""
    ratio: float
    """Median over the repetitions of: this time / the reference's time just before it."""
    spread: float
    """Half the distance between the quartiles of that ratio, as a part of it."""


class Sink:
    """What the reference loop writes to."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        """The least that a delivery in Python can be."""
        self.last = data


REFERENCE_SINKS = 1000


def reference() -> Run:
    """A bare broadcast: one method call per receiver, nothing else. One operation is one call."""
    sinks = {Sink() for _ in range(REFERENCE_SINKS)}
    data = b"x" * 200

    def run() -> None:
        for sink in sinks:
            sink.write(data)

    return run


def sample(run: Run, calls: int) -> float:
    """Seconds that ``calls`` calls take."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started


def calls_for(run: Run, seconds: float) -> int:
    """How many calls last about that long."""
    calls = 1
    while (took := sample(run, calls)) < seconds / 4:
        calls *= 4
    return max(1, round(calls * seconds / took))


async def measure(cases: Sequence[Case], repetitions: int, seconds: float) -> list[Timing]:
    """Every case in every repetition, each right after a sample of the reference loop, ``seconds`` long."""
    base = reference()
    base_calls = calls_for(base, seconds)
    runs = [await case.prepare() for case in cases]
    calls = [calls_for(run, seconds) for run in runs]
    times: list[list[float]] = [[] for _ in cases]
    ratios: list[list[float]] = [[] for _ in cases]
    # What a collection costs depends on how much else lives, so not on the code that happens to be running.
    gc.collect()
    gc.disable()
    try:
        for _ in range(repetitions):
            for index, case in enumerate(cases):
                unit = sample(base, base_calls) / (base_calls * REFERENCE_SINKS)
                took = sample(runs[index], calls[index]) / (calls[index] * case.operations)
                times[index].append(took)
                ratios[index].append(took / unit)
            gc.collect()
    finally:
        gc.enable()
    return [_timing(*measured) for measured in zip(cases, times, ratios, strict=True)]


def _timing(case: Case, times: list[float], ratios: list[float]) -> Timing:
    ratio = statistics.median(ratios)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratio] * 3
    return Timing(case, statistics.median(times) * 1e9, ratio, (quartiles[2] - quartiles[0]) / 2 / ratio)
