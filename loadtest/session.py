"""What a run of the bench has at hand: the programs, a Redis, the servers; and the measurement that most rows share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from hub.embedded import RedisServer
from loadtest.generators import Figures, Generator, Programs, Publication, connect, publish
from loadtest.hub_server import HubServer
from loadtest.machine import Watch
from loadtest.measure import Sample, why_void
from loadtest.servers import Server

WARMUP_S = 1.0
_LEAD_S = 0.5  # the publisher goes on while the last figures are taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What is published to whom. ``own_topics``: every client has its own, and ``rate`` is that of all together."""

    rate: float
    connections: int
    seconds: float | None = None
    """None: as long as the run's measurements last."""
    own_topics: bool = False
    publication: Publication | None = None
    """None: the server's usual one."""
    tick_us: int | None = None
    """The publisher writes what is due this often, together; None: each event when it is due."""

    @property
    def topics(self) -> int:
        """How many topics there are."""
        return self.connections if self.own_topics else 1


@dataclass(slots=True)
class Bench:
    """One run. ``full``: longer measurements, more repetitions."""

    programs: Programs
    folder: Path
    redis_server: RedisServer
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

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def hub(self, **settings: Any) -> Iterator[HubServer]:
        """A fresh hub over an empty Redis."""
        self.empty()
        with HubServer(self.folder, self.redis_url, **settings) as hub:
            yield hub

    @property
    def redis_url(self) -> str:
        """The unix socket of the Redis of this run."""
        return self.redis_server.unix_url

    def empty(self) -> None:
        """Forgets everything in Redis but scripts."""
        with redis.Redis.from_url(self.redis_url) as link:
            link.flushall()

    def reference(self, name: str) -> Server | None:
        """A reference by its name, if it runs here."""
        return next((server for server in self.references if server.name == name), None)

    def deliveries(self, server: Server, stream: Stream) -> Sample:
        """Publishes while everybody listens.

        Figures: ``per_core_s`` (deliveries per second of the server's processor time), ``server`` (its share of a
        core), ``p50``/``p99``/``max`` in ms from the write to Redis or the server until the client has it, ``arrived``
        and ``complete`` (the share of what was due that came in the time measured: of all, and of the worst client's),
        ``left`` (subscriptions that left the live set).
        """
        clients = server.clients(stream.connections, own_topics=stream.own_topics)
        seconds = stream.seconds or self.seconds
        left = slow_consumers(server)
        options = {"connections": stream.connections, "warmup": WARMUP_S, "duration": seconds, "at_once": 64}
        with connect(self.programs, clients, **options) as load:
            opened = load.phase()
            if opened["open"] < stream.connections:
                raise RuntimeError(f"{server.name}: {opened['open']} of {stream.connections} clients got in")
            with self.publishing(server, stream, seconds + WARMUP_S + _LEAD_S) as source:
                load.phase()
                watch = Watch(server.pids)
                figures = load.phase()
                used = watch.end()
                late_ms = source.phase()["late_ms"]["p99"]
        if not figures["events"]:
            raise RuntimeError(f"{server.name} delivered nothing")
        due = stream.rate * figures["seconds"] / stream.topics
        return Sample(
            {
                "per_core_s": figures["events"] / max(watch.cpu_s, 1e-9),
                "per_s": figures["events_per_s"],
                "server": used.server,
                "load_core": used.load_core,
                "arrived": figures["events"] / stream.connections / due,
                "complete": figures["fewest"] / due,
                "left": slow_consumers(server) - left,
                "late_ms": late_ms,
                **latencies(figures),
            },
            why_void(used, late_ms),
        )

    def publishing(self, server: Server, stream: Stream, seconds: float) -> Generator:
        """Starts the publisher of a stream."""
        publication = stream.publication or server.publication()
        options = {"rate": stream.rate, "duration": seconds, "topics": stream.topics, "tick_us": stream.tick_us}
        return publish(self.programs, publication, **options)


def latencies(figures: Figures, name: str = "latency_ms") -> dict[str, float]:
    """p50, p99 and max in ms."""
    return {key: figures[name][key] for key in ("p50", "p99", "max")}


def slow_consumers(server: Server) -> float:
    """How many subscriptions have left the live set since the start; nobody ever does elsewhere."""
    return server.metric("hub_slow_consumers_total") if isinstance(server, HubServer) else 0.0
