"""What a run of the bench has at hand: the programs, a Redis, the servers; and the measurement that most rows share."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.embedded import RedisServer
from loadtest.generators import Figures, Programs, connect, publish
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Sample, why_void
from loadtest.servers import Server

_LEAD_S = 0.5  # the publisher begins before the warm-up ends and stops after the measurement


@dataclass(slots=True)
class Bench:
    """One run. ``full``: longer measurements, more repetitions."""

    programs: Programs
    folder: Path
    redis: RedisServer
    full: bool
    references: list[Server] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long one measurement lasts."""
        return 10.0 if self.full else 3.0

    @property
    def repetitions(self) -> int:
        """How often, interleaved with the references."""
        return 5 if self.full else 3

    @property
    def many(self) -> int:
        """Connections of the rows about many connections."""
        return 10_000

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def hub(self, **settings: Any) -> Iterator[HubServer]:
        """A fresh hub over an empty Redis."""
        self.empty()
        with HubServer(self.folder, self.redis.unix_url, **settings) as hub:
            yield hub

    def empty(self) -> None:
        """Forgets everything in Redis but scripts."""
        import redis

        with redis.Redis.from_url(self.redis.unix_url) as link:
            link.flushall()

    def reference(self, name: str) -> Server | None:
        """A reference by its name, if it runs here."""
        return next((server for server in self.references if server.name == name), None)

    def deliveries(
        self, server: Server, rate: float, connections: int, seconds: float, *, own_topics: bool = False
    ) -> Sample:
        """Publishes at ``rate`` while everybody listens.

        Figures: ``per_core_s`` (deliveries per second of the server's processor time), ``server`` (its share of a
        core), ``p50``/``p99``/``max`` in ms from the write to Redis or the server until the client has it, ``complete``
        (the share of what was due that the worst client got), ``left`` (subscriptions that left the live set).
        """
        clients = server.clients(connections, own_topics=own_topics)
        left = _slow_consumers(server)
        with connect(self.programs, clients, connections=connections, warmup=1.0, duration=seconds, at_once=64) as load:
            opened = load.phase()
            if opened["open"] < connections:
                raise RuntimeError(f"{server.name}: {opened['open']} of {connections} clients got in")
            lasting = seconds + 1.0 + _LEAD_S
            topics = connections if own_topics else 1
            with publish(self.programs, server.publication(), rate=rate, duration=lasting, topics=topics) as source:
                load.phase()
                watch = Watch(server.pids)
                figures = load.phase()
                used = watch.end()
                sent = source.phase()
        time.sleep(0.2)
        due = rate * figures["seconds"] / topics
        return Sample(
            {
                "per_core_s": figures["events"] / max(watch.cpu_s, 1e-9),
                "per_s": figures["events_per_s"],
                "server": used.server,
                "load_core": used.load_core,
                "complete": figures["fewest"] / due,
                "left": _slow_consumers(server) - left,
                "gone": figures["gone"],
                "late_ms": sent["latest_ms"],
                **latencies(figures),
            },
            why_void(used),
        )


def latencies(figures: Figures, name: str = "latency_ms") -> dict[str, float]:
    """p50, p99 and max in ms."""
    return {key: figures[name][key] for key in ("p50", "p99", "max")}


def _slow_consumers(server: Server) -> float:
    return server.metric("hub_slow_consumers_total") if isinstance(server, HubServer) else 0.0
