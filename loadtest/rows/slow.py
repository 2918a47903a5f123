"""A thousand clients that read a kilobyte a second beside a thousand that keep up: the fast ones must not notice."""

from __future__ import annotations

import time

from loadtest.generators import connect
from loadtest.hub_server import HubServer
from loadtest.machine import resident_bytes
from loadtest.measure import Result, Sample, Target, attempted, summary_of
from loadtest.session import Bench, Stream, slow_consumers

SLOW = 1000
FAST = 1000
_BYTES_PER_S = 1024
_EVENT_BYTES = 2000
_RATE = 50.0


def run(bench: Bench) -> list[Result]:
    """The fast ones alone, then beside slow ones that have had time to fall behind."""
    seconds = 20.0 if bench.full else 5.0
    with bench.hub() as hub:
        publication = hub.publication_of("00000", size=_EVENT_BYTES)
        stream = Stream(rate=_RATE, connections=FAST, seconds=seconds, publication=publication)
        alone = attempted(lambda: bench.deliveries(hub, stream))
        hub.wait_until_empty()
        slow = hub.clients(SLOW)
        paused = slow_consumers(hub)
        with connect(bench.programs, slow, connections=SLOW, duration=600, read_rate=_BYTES_PER_S) as load:
            load.phase()
            before = resident_bytes(hub.pids)
            _fall_behind(bench, hub, stream, paused)
            behind = resident_bytes(hub.pids)
            beside = attempted(lambda: bench.deliveries(hub, stream))
            after = resident_bytes(hub.pids)
            left = slow_consumers(hub) - paused
    fast = Sample({**beside.figures, "growth": (after - behind) / 2**20}, beside.void)
    limit = max(2 * alone["p99"], alone["p99"] + 10.0)
    return [
        Result(
            row="slow",
            what=f"{FAST} fast clients' p99 beside {SLOW} that read 1 KB/s",
            unit="ms",
            figure=summary_of([fast], "p99"),
            target=Target(text=f"flat (≤ {limit:.0f} ms)", at_most=limit),
            references={"without them": summary_of([alone], "p99")},
            against="without them",
            void=fast.void,
            note=f"{left:.0f} pauses; server {fast['server']:.0%} of its core, {alone['server']:.0%} without them",
        ),
        Result(
            row="slow-memory",
            what=f"the hub's memory meanwhile: growth in {seconds:.0f} s",
            unit="MB",
            figure=summary_of([fast], "growth"),
            target=Target(text="flat (≤ 16 MB)", at_most=16.0),
            note=f"falling behind cost {(behind - before) / SLOW / 1024:.0f} KB for each slow client, once",
        ),
    ]


def _fall_behind(bench: Bench, hub: HubServer, stream: Stream, paused: float) -> None:
    """Publishes until all slow clients have left the live set; the kernel's buffers come first."""
    limit_s = 60.0
    with bench.publishing(hub, Stream(rate=200.0, connections=1, publication=stream.publication), limit_s):
        deadline = time.monotonic() + limit_s
        while slow_consumers(hub) - paused < SLOW and time.monotonic() < deadline:
            time.sleep(0.2)
