"""One topic, many subscribers, as fast as it goes: the highest rate held, and latency at 400 events a second."""

from __future__ import annotations

from loadtest.measure import LOAD_CORE_LIMIT, Result, Sample, Target, attempted, highest, summary, summary_of, void_of
from loadtest.rows.fan_out import SUBSCRIBERS
from loadtest.servers import Server
from loadtest.session import Bench, Stream

_LOW, _HIGH = 200.0, 1500.0
_COMPLETE = 0.95  # the worst client has this share of what was sent when the measurement ends
_P99_MS = 1000.0  # a queue that grows is no rate that is held
_BUSY = 400.0


def run(bench: Bench) -> list[Result]:
    """The search for each server, then a longer run at what was found."""
    with bench.hub() as hub:
        busy = [attempted(lambda: bench.deliveries(hub, _stream(bench, _BUSY))) for _ in range(bench.repetitions)]
        floor = bench.reference("bare uvloop")
        below = [bench.deliveries(floor, _stream(bench, _BUSY)) for _ in range(bench.repetitions)] if floor else []
        found = {server.name: _saturated(bench, server) for server in (hub, *bench.references)}
    own = found.pop("hub")
    return [
        Result(
            row="saturation",
            what=f"the same at saturation, {own['rate']:.0f} events/s held",
            unit="/core-s",
            figure=summary([own["per_core_s"]]),
            target=Target(text="≥ 500 000", at_least=500_000),
            references={name: summary([sample["per_core_s"]]) for name, sample in found.items()},
            against="bare uvloop",
            void=own.void,
            note=f"p99 {own['p99']:.0f} ms; rates held by others: "
            + ", ".join(f"{name} {sample['rate']:.0f}" for name, sample in found.items()),
        ),
        Result(
            row="latency-busy",
            what=f"p99 at {_BUSY * SUBSCRIBERS / 1000:.0f} k deliveries/s",
            unit="ms",
            figure=summary_of(busy, "p99"),
            target=Target(text="≤ 25 ms", at_most=25.0),
            references={"bare uvloop": summary_of(below, "p99")} if below else {},
            against="bare uvloop",
            void=void_of(busy),
            note=f"server {summary_of(busy, 'server').median:.0%} of its core",
        ),
    ]


def _saturated(bench: Bench, server: Server) -> Sample:
    """The measurement at the highest rate that holds; ``rate`` is among its figures."""
    limited = False

    def holds(rate: float) -> bool:
        nonlocal limited
        sample = bench.deliveries(
            server, Stream(rate=rate, connections=SUBSCRIBERS, seconds=4.0 if bench.full else 1.5)
        )
        held = _held(sample)
        limited = held and sample["load_core"] > LOAD_CORE_LIMIT
        return held and not limited

    rate = highest(holds, _LOW / 2 if server.name == "litestar channels" else _LOW, _HIGH, 0.05 if bench.full else 0.15)
    for _ in range(4):
        # What held for a moment need not hold for long.
        sample = bench.deliveries(
            server, Stream(rate=rate, connections=SUBSCRIBERS, seconds=30.0 if bench.full else 4.0)
        )
        if _held(sample):
            break
        rate *= 0.93
    return Sample({**sample.figures, "rate": rate}, sample.void)


def _stream(bench: Bench, rate: float) -> Stream:
    return Stream(rate=rate, connections=SUBSCRIBERS, seconds=bench.seconds)


def _held(sample: Sample) -> bool:
    return sample["left"] == 0 and sample["complete"] >= _COMPLETE and sample["p99"] < _P99_MS
