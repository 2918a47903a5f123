"""One topic, many subscribers: deliveries per core-second at 100 events a second, against every reference."""

from __future__ import annotations

from loadtest.measure import Result, Sample, Target, attempted, summary, summary_of, void_of
from loadtest.servers import Server
from loadtest.session import Bench, Stream

SUBSCRIBERS = 1000
_PEERS = {"litestar channels": 2.0, "nchan": 1.0, "NATS": 1.0}
STREAM = Stream(rate=100.0, connections=SUBSCRIBERS)


def run(bench: Bench) -> list[Result]:
    """Interleaved: hub, reference, reference, hub, …"""
    with bench.hub() as hub:
        servers: list[Server] = [hub, *bench.references]
        samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
        for _ in range(bench.repetitions):
            for server in servers:
                samples[server.name].append(attempted(lambda: bench.deliveries(server, STREAM)))  # noqa: B023 - called at once
    own = samples.pop("hub")
    figure = summary_of(own, "per_core_s")
    references = {name: summary_of(runs, "per_core_s") for name, runs in samples.items()}
    return [
        Result(
            row="fan-out",
            what=f"deliveries per core-second, {SUBSCRIBERS} subscribers × {STREAM.rate:.0f} events/s",
            unit="/core-s",
            figure=figure,
            target=Target(text="≥ 200 000", at_least=200_000),
            references=references,
            against="bare uvloop",
            void=void_of(own),
            note=f"p99 {summary_of(own, 'p99').median:.1f} ms",
        ),
        *(
            Result(
                row="fan-out-ratio",
                what=f"the same, against {name}",
                unit="×",
                figure=summary([figure.median / references[name].median]),
                target=Target(text=f"≥ {least:.0f} ×", at_least=least),
                void=void_of(own) or void_of(samples[name]),
            )
            for name, least in _PEERS.items()
            if name in references
        ),
    ]
