"""Five hundred content streams at 20 chunks a second, each with somebody who watches; and how many it may be."""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass

from loadtest.content import WORDS_A_PARAGRAPH, content_hub, script, start_streams
from loadtest.generators import Generator, connect
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import (
    ATTEMPTS,
    Result,
    Sample,
    Target,
    attempted,
    summary,
    summary_of,
    thousands,
    void_of,
    why_void,
)
from loadtest.session import WARMUP_S, Bench, Stream, latencies

STREAMS = 500
_CHUNKS_PER_S = 20.0  # at `fast`
# The end of a paragraph goes out with its last word and is an event of its own.
_EVENTS_PER_CHUNK = (WORDS_A_PARAGRAPH + 1) / WORDS_A_PARAGRAPH
_HELD = 0.9
_STEP, _MOST = 125, 2000
_STEP_S = 6.0
_WATCHERS_S = 600.0
_LATE = "hub_content_chunk_late_seconds"
_TICK_US = 5000  # the hub's own publishes by a grid of 5 ms too


def run(bench: Bench) -> list[Result]:
    """The same events from C first, which the hub only delivers; then streams, then more streams until it is enough."""
    seconds = 20.0 if bench.full else 8.0
    stream = Stream(
        rate=STREAMS * _CHUNKS_PER_S, connections=STREAMS, own_topics=True, seconds=seconds, tick_us=_TICK_US
    )
    with bench.hub() as hub:
        floor = [bench.deliveries(hub, stream) for _ in range(bench.repetitions)]
    with content_hub(bench) as hub:
        words = int(_CHUNKS_PER_S * (bench.repetitions * (seconds + 5) + 10))
        _start(bench, hub, 0, STREAMS, words)
        own = [_watched(bench, hub, seconds) for _ in range(bench.repetitions)]
    with content_hub(bench) as hub:
        held = _most(bench, hub)
    return [*_results(own, floor), held]


def _results(own: list[Sample], floor: list[Sample]) -> list[Result]:
    what, void = f"{STREAMS} content streams at `fast`, each watched", void_of(own)

    def middle(name: str) -> float:
        return summary_of(own, name).median

    return [
        Result(
            row="content-500",
            what=f"{what}: chunks delivered, of what the pace demands",
            unit="%",
            figure=summary_of(own, "pace"),
            target=Target(text="≥ 90 %", at_least=90.0),
            void=void,
            note=f"{thousands(middle('chunks_per_s'))} chunks/s in {thousands(middle('events_per_s'))} events/s",
        ),
        Result(
            row="content-500-slowest",
            what=f"{what}: the slowest stream's share of its pace",
            unit="%",
            figure=summary_of(own, "slowest"),
            target=Target(text="≥ 90 %", at_least=90.0),
            void=void,
        ),
        Result(
            row="content-500-late",
            what=f"{what}: a chunk goes to Redis after it is due, p99",
            unit="ms",
            figure=summary_of(own, "late_p99"),
            void=void,
            note=f"p50 {middle('late_p50'):.1f} ms; then to the watcher p50 {middle('p50'):.1f}, "
            f"p99 {middle('p99'):.1f} ms (Redis says when, in whole ms)",
        ),
        Result(
            row="content-500-core",
            what=f"{what}: the hub's share of its core",
            unit="cores",
            figure=summary_of(own, "server"),
            target=Target(text="≤ 0.6", at_most=0.6),
            references={"events/s from C, which it only delivers": summary_of(floor, "server")},
            against="events/s from C, which it only delivers",
            void=void,
            note=f"{thousands(middle('per_core_s'))} chunks a core-second; "
            f"core of Redis and load {middle('load_core'):.0%}",
        ),
    ]


def _start(bench: Bench, hub: HubServer, first: int, count: int, words: int) -> None:
    began = time.monotonic()
    names = [_name(number) for number in range(first, first + count)]
    start_streams(hub, names, content=script(words), content_type="html", chunk_by="word", speed="fast")
    bench.say(f"{count} streams of {words} words started in {time.monotonic() - began:.1f} s")


def _name(number: int) -> str:
    return f"bench-{number:05d}"


def _watchers(bench: Bench, hub: HubServer, first: int, count: int, seconds: float) -> Generator:
    hellos = [hub.hello([{"topic": f"content:{_name(number)}"}]) for number in range(first, first + count)]
    options = {"connections": count, "warmup": WARMUP_S, "duration": seconds, "at_once": 64}
    return connect(bench.programs, hub.saying(hellos, count), marker='"ts":', ms=True, **options)


def _watched(bench: Bench, hub: HubServer, seconds: float) -> Sample:
    with _watchers(bench, hub, 0, STREAMS, seconds) as load:
        load.phase()
        load.phase()
        look = _Look.at(hub)
        figures = load.phase()
        sample = look.since(hub, STREAMS)
    due = _CHUNKS_PER_S * _EVENTS_PER_CHUNK * figures["seconds"]
    delivered = {
        "pace": 100 * figures["events"] / STREAMS / due,
        "slowest": 100 * figures["fewest"] / due,
        "events_per_s": figures["events_per_s"],
        **latencies(figures),
    }
    return Sample(sample.figures | delivered, sample.void)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the hub had published and used at one moment."""

    began: float
    late: dict[float, float]
    watch: Watch

    @classmethod
    def at(cls, hub: HubServer) -> _Look:
        late = hub.buckets(_LATE)
        return cls(time.monotonic(), late, Watch(hub.pids))

    def since(self, hub: HubServer, streams: int) -> Sample:
        """What happened meanwhile."""
        used = self.watch.end()
        seconds = time.monotonic() - self.began
        late = {limit: count - self.late[limit] for limit, count in hub.buckets(_LATE).items()}
        chunks = max(late.values())
        return Sample(
            {
                "chunks_per_s": chunks / seconds,
                "published": chunks / seconds / streams / _CHUNKS_PER_S,
                "late_p50": 1000 * quantile(late, 0.5),
                "late_p99": 1000 * quantile(late, 0.99),
                "server": used.server,
                "load_core": used.load_core,
                "per_core_s": chunks / max(self.watch.cpu_s, 1e-9),
            },
            why_void(used),
        )


def quantile(buckets: dict[float, float], share: float) -> float:
    """Out of a Prometheus histogram: the cumulative counts by upper limit. Even within a bucket."""
    wanted = share * max(buckets.values())
    below, before = 0.0, 0.0
    for limit, count in sorted(buckets.items()):
        if count >= wanted and count > before:
            return below if limit == float("inf") else below + (limit - below) * (wanted - before) / (count - before)
        below, before = limit, count
    return 0.0


def _driven(hub: HubServer, streams: int) -> Sample:
    look = _Look.at(hub)
    time.sleep(_STEP_S)
    return look.since(hub, streams)


def _most(bench: Bench, hub: HubServer) -> Result:
    """More and more streams, until the pace falls by a tenth or the load cannot follow."""
    # Enough for all steps, some of them repeated.
    words = int(_CHUNKS_PER_S * ((_MOST - STREAMS) / _STEP + 2 * ATTEMPTS) * (_STEP_S + 3))
    count, held, end = 0, 0, ""
    last = Sample({"server": 0.0, "published": 0.0})
    with contextlib.ExitStack() as stack:
        while count < _MOST and not end:
            more = _STEP if count else STREAMS
            _start(bench, hub, count, more, words)
            load = stack.enter_context(_watchers(bench, hub, count, more, _WATCHERS_S))
            load.phase()
            load.phase()
            count += more
            sample = attempted(functools.partial(_driven, hub, count))
            if sample.void:
                end = f"{count}: {sample.void}"
            elif sample["published"] < _HELD:
                end = f"{count}: {sample['published']:.0%} of the pace, {sample['server']:.0%} of the core"
            else:
                held, last = count, sample
    return Result(
        row="content-limit",
        what="content streams at `fast`, each watched, that one core holds at 90 % of their pace",
        unit="streams",
        figure=summary([held]),
        target=Target(text="≥ 500 (stretch 1 000)", at_least=500),
        note=f"{last['server']:.0%} of its core; beyond: {end or 'not searched further'}",
    )
