"""Ten thousand topics with one subscriber each: what a publication costs that only one client listens to."""

from __future__ import annotations

from loadtest.measure import Result, Target, attempted, summary_of, thousands, void_of
from loadtest.session import Bench, Stream

TOPICS = 10_000
# Pipelined as a service would: one write for each event, and its answer, would fill the load's core.
_STREAM = Stream(rate=20_000.0, connections=TOPICS, own_topics=True, tick_us=500)


def run(bench: Bench) -> list[Result]:
    """Interleaved with the bare loop."""
    floor = bench.reference("bare uvloop")
    own, below = [], []
    with bench.hub() as hub:
        for _ in range(bench.repetitions):
            own.append(attempted(lambda: bench.deliveries(hub, _STREAM)))
            if floor is not None:
                below.append(bench.deliveries(floor, _STREAM))
    what = f"{thousands(TOPICS)} topics × 1 subscriber, {thousands(_STREAM.rate)} events/s"
    arrived = summary_of(own, "arrived").median
    return [
        Result(
            row="topics",
            what=f"{what}: {name}",
            unit=unit,
            figure=summary_of(own, figure),
            target=target,
            references={"bare uvloop": summary_of(below, figure)} if below else {},
            against="bare uvloop",
            void=void_of(own),
            note=f"{arrived:.1%} of what was due arrived in the time measured",
        )
        for name, figure, unit, target in (
            ("p99", "p99", "ms", Target(text="≤ 20 ms", at_most=20.0)),
            ("server's share of its core", "server", "cores", Target(text="one core", at_most=1.0)),
        )
    ]
