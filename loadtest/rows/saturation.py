"""One topic, many subscribers, as fast as it goes: the highest rate held, and latency at 400 events a second."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.measure import (
    LOAD_CORE_LIMIT,
    Result,
    Sample,
    Target,
    attempted,
    highest,
    summary,
    summary_of,
    thousands,
    void_of,
)
from loadtest.rows.fan_out import SUBSCRIBERS
from loadtest.servers import Server
from loadtest.session import Bench, Stream

_LOW, _HIGH = 200.0, 8000.0
_LOWEST = {"litestar channels": 40.0, "mosquitto": 80.0, "nchan": 100.0, "NATS": 100.0}
_STEPS_BACK, _STEP_BACK = 6, 0.9
_PEERS = ("nchan", "NATS")
_SLOW_SEARCHES = ("litestar channels", "mosquitto")  # left to full runs
_HELD_S = 30.0
_COMPLETE = 0.95  # the worst client has this share of what was sent when the measurement ends
_P99_MS = 1000.0  # a queue that grows is no rate that is held
_BUSY = 400.0


def run(bench: Bench) -> list[Result]:
    """The search for each server, then a longer run at what was found."""
    with bench.hub() as hub:
        busy = [attempted(lambda: bench.deliveries(hub, _stream(bench, _BUSY))) for _ in range(bench.repetitions)]
        floor = bench.reference("bare uvloop")
        below = [bench.deliveries(floor, _stream(bench, _BUSY)) for _ in range(bench.repetitions)] if floor else []
        own = _saturated(bench, hub)
        if own is None:
            raise RuntimeError(f"the hub does not hold {_LOW:.0f} events/s")
        others = [server for server in bench.references if bench.full or server.name not in _SLOW_SEARCHES]
        found = {server.name: other for server in others if (other := _saturated(bench, server)) is not None}
    return [
        Result(
            row="saturation",
            what=f"the same at saturation, {own.rate:.0f} events/s held",
            unit="/core-s",
            figure=summary([own.sample["per_core_s"]]),
            target=Target(text="≥ 500 000", at_least=500_000),
            references={name: summary([other.sample["per_core_s"]]) for name, other in found.items()},
            against="bare uvloop",
            void=own.sample.void,
            note=f"{own.sample['server']:.0%} of its core, p99 {own.sample['p99']:.0f} ms; beyond: {own.end}",
        ),
        *(_against(name, own, found[name]) for name in _PEERS if name in found),
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


def _against(name: str, own: _Found, other: _Found) -> Result:
    """Each at the highest rate that it holds."""
    return Result(
        row="saturation-ratio",
        what=f"the same, against {name} at the {thousands(other.rate)} events/s that it holds",
        unit="×",
        figure=summary([own.sample["per_core_s"] / other.sample["per_core_s"]]),
        target=Target(text="≥ 1 ×", at_least=1.0),
        void=own.sample.void or other.sample.void,
        note=f"{other.sample['server']:.0%} of its core, p99 {other.sample['p99']:.0f} ms; beyond: {other.end}",
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The highest rate that held, the measurement at it, and why the next higher one did not."""

    rate: float
    sample: Sample
    end: str


def _saturated(bench: Bench, server: Server) -> _Found | None:
    """None: not even the lowest rate holds. Where the load's core ends the search, the rate is a lower bound."""
    refused: dict[float, str] = {}

    def holds(rate: float) -> bool:
        probe = Stream(rate=rate, connections=SUBSCRIBERS, seconds=4.0 if bench.full else 1.5)
        sample = attempted(lambda: bench.deliveries(server, probe), 2)
        if reason := _refusal(sample):
            refused[rate] = reason
        return not reason

    rate = highest(holds, _LOWEST.get(server.name, _LOW), _HIGH, 0.05 if bench.full else 0.15)
    if not rate:
        bench.say(f"{server.name}: {refused}")
        return None
    for _ in range(_STEPS_BACK):
        # What held for a moment need not hold for long.
        stream = Stream(rate=rate, connections=SUBSCRIBERS, seconds=_HELD_S)
        sample = bench.deliveries(server, stream)
        if not (reason := _refusal(sample)):
            break
        refused[rate] = reason
        rate *= _STEP_BACK
    else:
        bench.say(f"{server.name}: {refused}")
        return None
    beyond = [above for above in refused if above > rate]
    return _Found(rate, sample, f"{min(beyond):.0f}/s: {refused[min(beyond)]}" if beyond else "not searched further")


def _refusal(sample: Sample) -> str:
    """Why a rate is not held; "" when it is."""
    if sample["left"]:
        return f"{sample['left']:.0f} left the live set"
    if sample["load_core"] > LOAD_CORE_LIMIT:
        return f"the load's core was {sample['load_core']:.0%} busy"
    if sample["p99"] > _P99_MS or sample["complete"] < _COMPLETE:
        return f"p99 {sample['p99']:.0f} ms, the worst client got {sample['complete']:.0%}"
    return ""


def _stream(bench: Bench, rate: float) -> Stream:
    return Stream(rate=rate, connections=SUBSCRIBERS, seconds=bench.seconds)
