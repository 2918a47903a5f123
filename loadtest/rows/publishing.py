"""Publishing with history: from one process that pipelines, and through HTTP."""

from __future__ import annotations

import json

from loadtest.generators import Publication, publish
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, summary_of, thousands
from loadtest.references import LitestarServer
from loadtest.servers import Server, on_server_core, python
from loadtest.session import Bench

_WINDOW = 200
_HTTP_LINKS = 16
_LIST = 100


def run(bench: Bench) -> list[Result]:
    """Interleaved: our publisher, the generator in C with the same script, HTTP, a bare Litestar route."""
    pipelined, floor, http, lists, route = [], [], [], [], []
    litestar = bench.reference("litestar channels")
    with bench.hub(http_events_per_second=1_000_000, http_events_burst=1_000_000) as hub:
        (token,) = hub.tokens(1)
        for _ in range(bench.repetitions):
            pipelined.append(_from_python(bench, hub))
            raw = publish(bench.programs, hub.publication(), rate=0, window=_WINDOW, duration=bench.seconds)
            with raw:
                floor.append(Sample({"per_s": raw.phase()["answered_per_s"]}))
            http.append(_by_http(bench, hub, token, 1))
            lists.append(_by_http(bench, hub, token, _LIST))
            if isinstance(litestar, LitestarServer):
                route.append(_asked(bench, litestar, litestar.http_publication()))
    return [
        Result(
            row="publish",
            what="publish with history from one process, batches of 200",
            unit="/s",
            figure=summary_of(pipelined, "batched"),
            target=Target(text="≥ 30 000", at_least=30_000),
            references={"the same script from C": summary_of(floor, "per_s")},
            against="the same script from C",
            note=f"one `hub.publish` at a time in 200 tasks: {thousands(summary_of(pipelined, 'single').median)}/s",
        ),
        Result(
            row="publish-http",
            what=f"POST /v1/publish, one event each, {_HTTP_LINKS} connections",
            unit="/s",
            figure=summary_of(http, "per_s"),
            target=Target(text="≥ 5 000", at_least=5000),
            references={"bare Litestar route": summary_of(route, "per_s")} if route else {},
            against="bare Litestar route",
            note=f"in lists of {_LIST}: {thousands(summary_of(lists, 'per_s').median)} events/s",
        ),
    ]


def _from_python(bench: Bench, hub: HubServer) -> Sample:
    """``loadtest.publisher`` on the server's core."""
    figures: dict[str, float] = json.loads(
        on_server_core(python("loadtest.publisher", str(bench.seconds), str(_WINDOW)), hub.environment())
    )
    return Sample(figures)


def _by_http(bench: Bench, hub: HubServer, token: str, events: int) -> Sample:
    sample = _asked(bench, hub, hub.http_publication(token, events))
    return Sample({**sample.figures, "per_s": sample["per_s"] * events})


def _asked(bench: Bench, server: Server, publication: Publication) -> Sample:
    watch = Watch(server.pids)
    with publish(
        bench.programs, publication, rate=0, connections=_HTTP_LINKS, window=1, duration=bench.seconds
    ) as source:
        answered = source.phase()["answered_per_s"]
    return Sample({"per_s": answered, "server": watch.end().server})
