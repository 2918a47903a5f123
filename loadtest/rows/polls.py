"""Ten thousand clients that poll: what one that waits costs, and how soon it is answered when something happens."""

from __future__ import annotations

import time
from collections.abc import Sequence

import hiredis

from loadtest.generators import HttpClients, Publication, ask, publish
from loadtest.hub_server import HubServer
from loadtest.machine import Watch, resident_bytes
from loadtest.measure import Result, Sample, Target, summary_of, thousands, void_of, why_void
from loadtest.servers import EVENT_BYTES, ServerProcess, payload, python
from loadtest.service import KIND
from loadtest.session import WARMUP_S, Bench, latencies

POLLS = 10_000
RATE = 1000.0
_WARM = 200
_SETTLE_S = 2.0
_LEAD_S = 0.5
_WAIT_S = 30
_PER_S = "answers_per_s"


class PollServer(ServerProcess):
    """``reference_poll``."""

    name = "bare uvloop"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.folder)
        self._redis = str(bench.redis_server.socket_path)

    def command(self) -> Sequence[str]:
        return python("loadtest.reference_poll", str(self.port), self._redis)

    def clients(self) -> HttpClients:
        """The client of number n on channel n."""
        first, then = "/v1/poll?topics=bench:~~~~~", f"/v1/poll?cursor=CURSOR&wait={_WAIT_S}"
        return HttpClients(way="poll", port=self.port, first=first, next=then)

    def publication(self) -> Publication:
        """A message on the channel of a number."""
        words = (b"PUBLISH", b"bench:~~~~~", payload(EVENT_BYTES))
        return Publication(to=self._redis, message=hiredis.pack_command(words), answer=":")  # type: ignore[arg-type]


def polling(hub: HubServer, count: int = POLLS) -> HttpClients:
    """Clients of the hub, each with a user and a topic of its own."""
    first = f"/v1/poll?topics={KIND}:~~~~~"
    then = f"/v1/poll?cursor=CURSOR&wait={_WAIT_S}"
    return HttpClients(way="poll", port=hub.port, first=first, next=then, headers=hub.tokens(count))


def run(bench: Bench) -> list[Result]:
    """Each repetition on fresh processes: memory is compared with that of a server which has seen a few clients."""
    own, below = [], []
    for _ in range(bench.repetitions if bench.full else 1):
        with bench.hub(poll_wait_s=float(_WAIT_S)) as hub:
            own.append(_measured(bench, hub, polling(hub), hub.publication()))
        with PollServer(bench) as floor:
            below.append(_measured(bench, floor, floor.clients(), floor.publication()))
    polls = f"{thousands(POLLS)} waiting polls"
    loads = [load for sample, load in own]
    return [
        Result(
            row="poll-memory",
            what=f"memory per waiting poll ({polls}, a topic of its own each)",
            unit="KB",
            figure=summary_of([sample for sample, _ in own], "kilobytes"),
            target=Target(text="≤ 16 KB", at_most=16.0),
            references={"bare uvloop": summary_of([sample for sample, _ in below], "kilobytes")},
            against="bare uvloop",
            note=f"{summary_of([sample for sample, _ in own], 'per_core_s').median:.0f} opened in a core-second",
        ),
        Result(
            row="poll-latency",
            what=f"event → answer of a poll, {thousands(RATE)} answers/s among {polls}: p99",
            unit="ms",
            figure=summary_of(loads, "p99"),
            target=Target(text="≤ 50 ms", at_most=50.0),
            references={"bare uvloop": summary_of([load for _, load in below], "p99")},
            against="bare uvloop",
            void=void_of(loads),
            note=f"p50 {summary_of(loads, 'p50').median:.1f} ms, {summary_of(loads, _PER_S).median:.0f} answers/s, "
            f"server {summary_of(loads, 'server').median:.0%} of its core",
        ),
    ]


def _measured(
    bench: Bench, server: ServerProcess, clients: HttpClients, publication: Publication
) -> tuple[Sample, Sample]:
    """All of them come and wait; then things happen."""
    with ask(bench.programs, clients, connections=_WARM, duration=0.5) as few:
        few.phase()
        few.phase()
        few.phase()
    pids = server.pids
    before = resident_bytes(pids)
    watch = Watch(pids)
    seconds = bench.seconds + _SETTLE_S
    with ask(
        bench.programs, clients, connections=POLLS, at_once=128, warmup=WARMUP_S + _SETTLE_S, duration=600
    ) as load:
        opened = load.phase()
        used = watch.end()
        if opened["open"] < POLLS:
            raise RuntimeError(f"{server.name}: {opened['open']} of {POLLS} polls were answered")
        time.sleep(_SETTLE_S)
        grown = resident_bytes(pids) - before
        waiting = Sample(
            {"kilobytes": grown / POLLS / 1024, "per_core_s": POLLS / watch.cpu_s, "per_s": POLLS / opened["seconds"]},
            why_void(used),
        )
        load.phase()
        lasting = seconds + _LEAD_S
        with publish(bench.programs, publication, rate=RATE, duration=lasting, topics=POLLS) as source:
            watch = Watch(pids)
            time.sleep(seconds)
            used = watch.end()
            figures = load.finish()
            late_ms = source.phase()["late_ms"]["p99"]
    answered = {
        **latencies(figures),
        "server": used.server,
        _PER_S: figures["latency_ms"]["count"] / seconds,
        "gone": figures["gone"],
        "late_ms": late_ms,
    }
    if figures["gone"] or figures["events"] < RATE * bench.seconds:
        raise RuntimeError(f"{server.name}: {figures}")
    return waiting, Sample(answered, why_void(used, late_ms))
