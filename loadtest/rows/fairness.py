"""One organisation publishes as fast as it can: how much longer do another's events take?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from loadtest.generators import Publication, connect, publish
from loadtest.hub_server import HubServer
from loadtest.measure import Result, Target, summary_of, thousands
from loadtest.service import KIND
from loadtest.session import Bench, Stream

_LOUD = "loud"
_LISTENERS = 10  # of the loud one
_STREAM = Stream(rate=50.0, connections=100)
_BY_HTTP = {"rate": 0, "connections": 8, "window": 1}
_EVENTS_A_REQUEST = 100
_BY_SERVICE = 10_000.0


def run(bench: Bench) -> list[Result]:
    """Alone, then beside a loud one that publishes through HTTP, then beside one with a service of its own."""
    with bench.hub() as hub:
        (token,) = hub.tokens(1, _LOUD)
        # What is over its budget is refused, and the loud one asks again at once.
        by_http = replace(hub.http_publication(token, _EVENTS_A_REQUEST), answer="HTTP/1.1 ")
        by_service = hub.publication_of("00000", _LOUD)
        alone, beside_http, beside_service = [], [], []
        for _ in range(bench.repetitions):
            alone.append(bench.deliveries(hub, _STREAM))
            with _loud(bench, hub, by_http, **_BY_HTTP):
                beside_http.append(bench.deliveries(hub, _STREAM))
            with _loud(bench, hub, by_service, rate=_BY_SERVICE):
                beside_service.append(bench.deliveries(hub, _STREAM))
    base = summary_of(alone, "p99")
    limit = max(2 * base.median, base.median + 10.0)
    return [
        Result(
            row="fairness",
            what=f"others' p99 while one organisation publishes {how}",
            unit="ms",
            figure=summary_of(samples, "p99"),
            target=Target(text=f"≤ {limit:.1f} ms (max of 2×, +10 ms)", at_most=limit),
            references={"alone": base},
            against="alone",
            note=f"server {summary_of(samples, 'server').median:.0%} of its core",
        )
        for how, samples in (
            (f"by HTTP at full speed, lists of {_EVENTS_A_REQUEST}", beside_http),
            (f"{thousands(_BY_SERVICE)} events/s from a service", beside_service),
        )
    ]


@contextlib.contextmanager
def _loud(bench: Bench, hub: HubServer, publication: Publication, **options: float) -> Iterator[None]:
    """The loud organisation, its listeners included."""
    clients = hub.saying([hub.hello([{"topic": f"{KIND}:00000"}])], _LISTENERS, _LOUD)
    with (
        connect(bench.programs, clients, connections=_LISTENERS, duration=60) as listeners,
        publish(bench.programs, publication, duration=60, **options),
    ):
        listeners.phase()
        yield
