"""The same events to as many subscribers, by server-sent events and by WebSocket: deliveries per core-second."""

from __future__ import annotations

from loadtest.generators import HttpClients, ask
from loadtest.hub_server import SHARED, HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, attempted, summary, summary_of, void_of, why_void
from loadtest.service import KIND
from loadtest.session import WARMUP_S, Bench, Stream, latencies

SUBSCRIBERS = 1000
STREAM = Stream(rate=100.0, connections=SUBSCRIBERS)
_LEAD_S = 0.5


def run(bench: Bench) -> list[Result]:
    """Interleaved, against the same node."""
    with bench.hub() as hub:
        streams, sockets = [], []
        for _ in range(bench.repetitions):
            streams.append(attempted(lambda: _deliveries(bench, hub)))
            hub.wait_until_empty()
            sockets.append(attempted(lambda: bench.deliveries(hub, STREAM)))
            hub.wait_until_empty()
    own, other = summary_of(streams, "per_core_s"), summary_of(sockets, "per_core_s")
    return [
        Result(
            row="sse",
            what=f"deliveries per core-second by server-sent events, {SUBSCRIBERS} × {STREAM.rate:.0f} events/s",
            unit="/core-s",
            figure=own,
            references={"WebSocket": other},
            against="WebSocket",
            void=void_of(streams),
            note=f"p99 {summary_of(streams, 'p99').median:.1f} ms, "
            f"{summary_of(sockets, 'p99').median:.1f} ms by WebSocket",
        ),
        Result(
            row="sse-ratio",
            what="the same, against WebSockets",
            unit="×",
            figure=summary([own.median / other.median]),
            void=void_of(streams) or void_of(sockets),
        ),
    ]


def _deliveries(bench: Bench, hub: HubServer) -> Sample:
    """As ``Bench.deliveries`` does it with WebSockets."""
    first = f"/v1/sse?topics={KIND}:{SHARED}"
    clients = HttpClients(way="sse", port=hub.port, first=first, headers=hub.tokens(SUBSCRIBERS))
    seconds = bench.seconds
    options = {"connections": SUBSCRIBERS, "warmup": WARMUP_S, "duration": seconds, "at_once": 64}
    with ask(bench.programs, clients, **options) as load:
        opened = load.phase()
        if opened["open"] < SUBSCRIBERS:
            raise RuntimeError(f"{opened['open']} of {SUBSCRIBERS} streams were opened")
        with bench.publishing(hub, STREAM, seconds + WARMUP_S + _LEAD_S) as source:
            load.phase()
            watch = Watch(hub.pids)
            figures = load.phase()
            used = watch.end()
            late_ms = source.phase()["late_ms"]["p99"]
    due = STREAM.rate * figures["seconds"]
    if figures["fewest"] < 0.9 * due:
        raise RuntimeError(f"the worst stream got {figures['fewest']} of {due:.0f} events")
    return Sample(
        {"per_core_s": figures["events"] / max(watch.cpu_s, 1e-9), **latencies(figures)}, why_void(used, late_ms)
    )
