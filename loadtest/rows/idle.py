"""An idle hub: how long one event takes from its publication to one client."""

from __future__ import annotations

from loadtest.measure import Result, Target, summary_of
from loadtest.session import Bench, Stream


def run(bench: Bench) -> list[Result]:
    """By a service's own connection to Redis, and by POST /v1/publish."""
    stream = Stream(rate=100.0, connections=1, seconds=10.0 if bench.full else 4.0)
    floor = bench.reference("bare uvloop")
    with bench.hub() as hub:
        (token,) = hub.tokens(1)
        by_http = Stream(
            rate=stream.rate, connections=1, seconds=stream.seconds, publication=hub.http_publication(token)
        )
        own, below, http = [], [], []
        for _ in range(bench.repetitions):
            own.append(bench.deliveries(hub, stream))
            http.append(bench.deliveries(hub, by_http))
            if floor is not None:
                below.append(bench.deliveries(floor, stream))
    references = {name: {"bare uvloop": summary_of(below, name)} if below else {} for name in ("p50", "p99")}
    limits = {"p50": Target(text="≤ 1 ms", at_most=1.0), "p99": Target(text="≤ 4 ms", at_most=4.0)}
    return [
        Result(
            row="idle",
            what=f"publish → client, idle hub, {name}",
            unit="ms",
            figure=summary_of(own, name),
            target=limits[name],
            references=references[name],
            against="bare uvloop",
            note=f"by POST /v1/publish {summary_of(http, name).median:.2f} ms",
        )
        for name in ("p50", "p99")
    ]
