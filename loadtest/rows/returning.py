"""Ten thousand clients return at once and want what they missed, while a hundred others listen to live events."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.generators import connect
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, summary_of, thousands
from loadtest.service import KIND
from loadtest.session import Bench, Stream

CLIENTS = 10_000
TOPICS_EACH = 5
SHARED_TOPICS = 50
MISSED = 20
_LIVE = "live"
_LIVE_CLIENTS = 100
_LIVE_RATE = 20.0
_LIMIT_S = 90.0


def run(bench: Bench) -> list[Result]:
    """With shared topics, then with topics of their own (fewer clients unless the run is a full one)."""
    shared = [_returned(bench, CLIENTS, SHARED_TOPICS) for _ in range(bench.repetitions if bench.full else 1)]
    alone = CLIENTS if bench.full else CLIENTS // 5
    own = [_returned(bench, alone, alone * TOPICS_EACH)]
    return [
        Result(
            row="return",
            what=f"{thousands(CLIENTS)} clients return at once, {TOPICS_EACH} of {SHARED_TOPICS} shared topics, "
            f"{MISSED} events missed on each: all caught up",
            unit="s",
            figure=summary_of(shared, "all_s"),
            target=Target(text="≤ 8 s", at_most=8.0),
            note=_remark(shared[0]),
        ),
        Result(
            row="return-live",
            what="live delivery to 100 others meanwhile, p99",
            unit="ms",
            figure=summary_of(shared, "live_p99"),
            target=Target(text="≤ 100 ms", at_most=100.0),
            note=f"the slowest {summary_of(shared, 'live_max').most:.0f} ms",
        ),
        Result(
            row="return-own",
            what=f"{thousands(alone)} clients return at once, {TOPICS_EACH} topics of their own each",
            unit="s",
            figure=summary_of(own, "all_s"),
            note=f"live p99 {own[0]['live_p99']:.0f} ms; " + _remark(own[0]),
        ),
    ]


def _returned(bench: Bench, clients: int, topics: int) -> Sample:
    with bench.hub() as hub:
        seen = hub.publish_many(topics, 1)
        hub.publish_many(topics, MISSED)
        live = hub.saying([hub.hello([{"topic": f"{KIND}:{_LIVE}"}])], _LIVE_CLIENTS)
        crowd = hub.saying(_hellos(seen, clients, topics), clients)
        stream = Stream(rate=_LIVE_RATE, connections=_LIVE_CLIENTS, publication=hub.publication_of(_LIVE))
        with connect(bench.programs, live, connections=_LIVE_CLIENTS, duration=_LIMIT_S * 2) as listeners:
            listeners.phase()
            listeners.phase()
            with bench.publishing(hub, stream, _LIMIT_S * 2):
                watch = Watch(hub.pids)
                options = {"kth": MISSED * TOPICS_EACH, "until_kth": True, "at_once": 0, "open_limit": _LIMIT_S}
                with connect(bench.programs, crowd, connections=clients, duration=_LIMIT_S, **options) as load:
                    opened, _, done = load.phase(), load.phase(), load.phase()
                used = watch.end()
                heard = listeners.finish()
    if done["caught_up"] < clients:
        raise RuntimeError(f"{done['caught_up']} of {clients} clients caught up in {done['seconds']:.0f} s: {opened}")
    return Sample(
        {
            "all_s": done["seconds"],
            "median_s": done["catch_up_ms"]["p50"] / 1000,
            "live_p99": heard["latency_ms"]["p99"],
            "live_max": heard["latency_ms"]["max"],
            "server": used.server,
        }
    )


def _hellos(seen: Mapping[str, tuple[str, int]], clients: int, topics: int) -> list[str]:
    """Each client's topics, with the position it knows."""
    hellos = []
    for client in range(clients):
        keys = [f"{(client * TOPICS_EACH + place) % topics:05d}" for place in range(TOPICS_EACH)]
        items = [
            {"topic": f"{KIND}:{key}", "since": {"epoch": epoch, "seq": seq}}
            for key in keys
            for epoch, seq in (seen[key],)
        ]
        hellos.append(HubServer.hello(items))
    return hellos


def _remark(sample: Sample) -> str:
    return f"half of them after {sample['median_s']:.1f} s, the hub took {sample['server']:.0%} of its core"
