"""Events to a client that uploads at full speed, against those to one that does nothing, at the same time."""

from __future__ import annotations

from loadtest.generators import connect
from loadtest.hub_server import SHARED
from loadtest.machine import Watch
from loadtest.measure import Result, Sample, Target, summary_of, void_of
from loadtest.service import KIND
from loadtest.session import Bench, Stream, latencies
from loadtest.uploads import UploadHub, upload_hub, why_disturbed

_RATE = 500.0
_LONG_S = 600.0


def run(bench: Bench) -> list[Result]:
    """Both listen to the same topic of a hub on one core."""
    with upload_hub(bench) as hub:
        alone = [bench.deliveries(hub.server, Stream(rate=_RATE, connections=1)) for _ in range(bench.repetitions)]
        samples = [_beside(hub, seed) for seed in range(bench.repetitions)]
    idle, busy = summary_of(samples, "idle_p99"), summary_of(samples, "p99")
    return [
        Result(
            row="upload-events",
            what=f"p99 of {_RATE:.0f} events/s to a client that uploads at full speed, against an idle one's",
            unit="×",
            figure=summary_of(samples, "ratio"),
            target=Target(text="≤ 3 ×", at_most=3.0),
            void=void_of(samples),
            note=f"{busy.median:.1f} ms against {idle.median:.1f} ms "
            f"({summary_of(alone, 'p99').median:.1f} ms while nobody uploads), "
            f"at {summary_of(samples, 'mb_per_s').median:.0f} MB/s",
        )
    ]


def _beside(hub: UploadHub, seed: int) -> Sample:
    bench, server = hub.bench, hub.server
    idle = server.clients(1)
    stream = Stream(rate=_RATE, connections=1)
    with (
        connect(bench.programs, idle, connections=1, duration=_LONG_S) as listener,
        bench.publishing(server, stream, _LONG_S) as source,
    ):
        listener.phase()
        listener.phase()
        watch = Watch(server.pids)
        with hub.upload("socket", seed, subscribe=[f"{KIND}:{SHARED}"]) as generator:
            uploaded = generator.phase()
        waited = latencies(listener.finish())
        late_ms = source.finish()["late_ms"]["p99"]
    hub.settle(uploaded, seed)
    busy = latencies(uploaded)
    figures = {
        "p99": busy["p99"],
        "idle_p99": waited["p99"],
        "ratio": busy["p99"] / max(waited["p99"], 0.001),
        "mb_per_s": uploaded["mb_per_s"],
        "events": float(uploaded["latency_ms"]["count"]),
        "late_ms": late_ms,
    }
    return Sample(figures, why_disturbed(watch.end(), late_ms))
