"""Ten thousand connections with three subscriptions each: what one costs to open, and to keep."""

from __future__ import annotations

import time
from collections.abc import Sequence

from loadtest.generators import Clients, connect
from loadtest.hub_server import HubServer
from loadtest.machine import Watch, resident_bytes
from loadtest.measure import Result, Sample, Target, summary_of, thousands, void_of, why_void
from loadtest.references import UvloopServer
from loadtest.servers import Server
from loadtest.service import KIND
from loadtest.session import Bench

CONNECTIONS = 10_000
SHARED = [{"topic": f"{KIND}:shared-{name}"} for name in "ab"]
_WARM = 200
_SETTLE_S = 2.0


def run(bench: Bench) -> list[Result]:
    """Each repetition on fresh processes: memory is compared with that of a server which has seen a few clients."""
    own, below = [], []
    for _ in range(bench.repetitions if bench.full else 1):
        with bench.hub() as hub:
            own.append(_measured(bench, hub, hub.saying(_hellos(), CONNECTIONS)))
        with UvloopServer(bench.folder, str(bench.redis_server.socket_path)) as floor:
            below.append(_measured(bench, floor, floor.saying(_hellos())))
    clients = f"{thousands(CONNECTIONS)} connections"
    return [
        Result(
            row="memory",
            what=f"memory per idle connection, three subscriptions ({clients})",
            unit="KB",
            figure=summary_of(own, "kilobytes"),
            target=Target(text="≤ 6 KB", at_most=6.0),
            references={"bare uvloop": summary_of(below, "kilobytes")},
            against="bare uvloop",
            note=_composition(bench, summary_of(own, "kilobytes").median),
        ),
        Result(
            row="handshakes",
            what="handshakes with token, hello, three subscriptions",
            unit="/core-s",
            figure=summary_of(own, "per_core_s"),
            target=Target(text="≥ 2 000 (stretch 3 300)", at_least=2000.0),
            references={"bare uvloop": summary_of(below, "per_core_s")},
            against="bare uvloop",
            void=void_of(own),
            note=f"{summary_of(own, 'per_s').median:.0f} in a second of the clock, {clients} in a row",
        ),
    ]


def _hellos() -> list[str]:
    """Two shared topics and one of its own."""
    return [HubServer.hello([*SHARED, {"topic": f"{KIND}:{number:05d}"}]) for number in range(CONNECTIONS)]


def _composition(bench: Bench, whole: float) -> str:
    """What ``whole`` is made of, by what a connection has subscribed; ``loadtest.composition`` goes further."""
    kilobytes = []
    for topics in ([], SHARED):
        with bench.hub() as hub:
            hellos = [HubServer.hello(topics)]
            kilobytes.append(_measured(bench, hub, hub.saying(hellos, CONNECTIONS))["kilobytes"])
    bare, shared = kilobytes
    each = (shared - bare) / len(SHARED)
    return f"connection {bare:.1f}, each shared topic {each:.2f}, a topic of its own {whole - shared:.1f} KB"


def _measured(bench: Bench, server: Server, clients: Clients) -> Sample:
    _visit(bench, clients)
    if isinstance(server, HubServer):
        server.wait_until_empty()
    pids = server.pids
    before = resident_bytes(pids)
    watch = Watch(pids)
    with connect(bench.programs, clients, connections=CONNECTIONS, at_once=128, duration=60) as load:
        opened = load.phase()
        used = watch.end()
        if opened["open"] < CONNECTIONS:
            raise RuntimeError(f"{server.name}: {opened['open']} of {CONNECTIONS} clients got in")
        time.sleep(_SETTLE_S)
        grown = resident_bytes(pids) - before
    figures = {
        "kilobytes": grown / CONNECTIONS / 1024,
        "per_core_s": CONNECTIONS / watch.cpu_s,
        "per_s": CONNECTIONS / opened["seconds"],
    }
    return Sample(figures, why_void(used))


def _visit(bench: Bench, clients: Clients) -> None:
    """A few clients come and go, so that what is loaded once is loaded."""
    hellos: Sequence[str] = clients.hellos[:_WARM]
    few = Clients(port=clients.port, headers=clients.headers[:_WARM], hellos=hellos)
    with connect(bench.programs, few, connections=_WARM, duration=0) as load:
        load.phase()
