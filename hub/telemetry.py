"""Being seen: structured logs and Prometheus metrics. Names and labels are here and nowhere else.

Labels are bounded: topic kind, reason, outcome; never a user, an organisation or a topic's key. Logs never hold message
contents or tokens. ``Metrics`` belongs to one node; with several workers prometheus_client's multiprocess mode adds up
what each wrote (``PROMETHEUS_MULTIPROC_DIR``, set by ``hub serve``).
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter as Tally
from collections import deque
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_SAMPLES = 4096  # kept for avg and p99 in /v1/stats


class _OfKind(NamedTuple):
    """The metrics of one kind that the hot path touches: finding them by label costs more than counting."""

    received: Counter
    delivered: Counter
    publish_to_write: Histogram
    publish_to_ack: Histogram


class Metrics:
    """All metrics of one node."""

    def __init__(self) -> None:
        # Values live in files in multiprocess mode; this registry is then only where they are declared.
        self.registry = registry = CollectorRegistry()
        self.connections = Gauge(
            "hub_connections", "Open connections.", ["transport"], registry=registry, multiprocess_mode="livesum"
        )
        self.subscriptions = Gauge(
            "hub_subscriptions", "Subscriptions.", ["kind"], registry=registry, multiprocess_mode="livesum"
        )
        self.ready = Gauge(
            "hub_ready", "1 while the node's own probe comes back.", registry=registry, multiprocess_mode="livemin"
        )
        self.unchecked = Gauge(
            "hub_limits_unchecked",
            "Let through because Redis did not answer, since the start.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.newcomers = Gauge(
            "hub_newcomers_waiting",
            "Steps of clients that come in (handshake, hello, catching up) that wait for their turn.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._published = Counter(
            "hub_events_published", "Events published by way.", ["kind", "way"], registry=registry
        )
        self._received = Counter("hub_events_received", "Events that came from Redis.", ["kind"], registry=registry)
        self._delivered = Counter("hub_events_delivered", "Events written to clients.", ["kind"], registry=registry)
        self._gaps = Counter("hub_gaps", "Gaps announced to clients.", ["kind", "reason"], registry=registry)
        self._heals = Counter("hub_heals", "Topics whose hole was closed from history.", ["kind"], registry=registry)
        self._slow = Counter(
            "hub_slow_consumers", "Subscriptions paused for a slow client.", ["kind"], registry=registry
        )
        self._link_losses = Counter("hub_redis_reconnects", "Pub/sub links to Redis that were lost.", registry=registry)
        self._closes = Counter("hub_connections_closed", "Connections closed, by code.", ["code"], registry=registry)
        self._errors = Counter("hub_errors", "Errors answered, by code.", ["code"], registry=registry)
        self._publish_to_write = Histogram(
            "hub_publish_to_write_seconds",
            "From Redis' time stamp to the write to the clients' sockets.",
            ["kind"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._publish_to_ack = Histogram(
            "hub_publish_to_ack_seconds",
            "From Redis' time stamp to the client's acknowledgement of that event.",
            ["kind"],
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self._kinds: dict[str, _OfKind] = {}
        self._published_by: dict[tuple[str, str], Counter] = {}
        self._delivered_total = 0
        self._by_service: Tally[str] = Tally()
        self._latencies_ms: deque[float] = deque(maxlen=LATENCY_SAMPLES)

    # --- events

    def published(self, kind: str, way: str, count: int = 1) -> None:
        """Events accepted for publication; ``way`` is frame, http, service or outbox."""
        found = self._published_by.get((kind, way))
        if found is None:
            found = self._published_by[kind, way] = self._published.labels(kind, way)
        found.inc(count)

    def received(self, kind: str, key: str, count: int, latency_ms: float) -> None:
        """Events of one topic that came from Redis in one turn, and how old the newest was when it was written.

        ``key`` is counted for the kind ``events`` only: its keys are the services of the deployment and so bounded.
        """
        of_kind = self._of(kind)
        of_kind.received.inc(count)
        if kind == "events":
            self._by_service[key] += count
        latency_ms = max(latency_ms, 0.0)
        self._latencies_ms.append(latency_ms)
        of_kind.publish_to_write.observe(latency_ms / 1000)

    def delivered(self, kind: str, count: int) -> None:
        """Events written to clients' sockets."""
        if count:
            self._delivered_total += count
            self._of(kind).delivered.inc(count)

    def acknowledged(self, kind: str, latency_ms: float) -> None:
        """An acknowledgement came for the newest event of a topic."""
        self._of(kind).publish_to_ack.observe(max(latency_ms, 0.0) / 1000)

    def gap(self, kind: str, reason: str, count: int = 1) -> None:
        """Gap frames sent."""
        self._gaps.labels(kind, reason).inc(count)

    def healed(self, kind: str) -> None:
        """A topic has no hole any more."""
        self._heals.labels(kind).inc()

    def slow_consumer(self, kind: str) -> None:
        """A subscription was paused because its client does not read fast enough."""
        self._slow.labels(kind).inc()

    def error(self, code: str) -> None:
        """An error was answered."""
        self._errors.labels(code).inc()

    def _of(self, kind: str) -> _OfKind:
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = _OfKind(
                received=self._received.labels(kind),
                delivered=self._delivered.labels(kind),
                publish_to_write=self._publish_to_write.labels(kind),
                publish_to_ack=self._publish_to_ack.labels(kind),
            )
        return found

    # --- connections

    def link(self, ready: bool) -> None:
        """The links to Redis are all up, or not any more."""
        self.ready.set(ready)
        if not ready:
            self._link_losses.inc()

    def closed(self, code: int) -> None:
        """A connection was closed by the hub or by its client."""
        self._closes.labels(str(code)).inc()

    # --- out

    def prometheus(self) -> bytes:
        """The text exposition format, over all workers."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not folder:
            return generate_latest(self.registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
        return generate_latest(merged)

    def stats(self) -> dict[str, Any]:
        """A summary of this node since its start; latencies over the last few thousand turns."""
        samples = sorted(self._latencies_ms)
        average = sum(samples) / len(samples) if samples else 0.0
        p99 = samples[min(len(samples) - 1, int(len(samples) * 0.99))] if samples else 0.0
        return {
            "eventsDelivered": self._delivered_total,
            "eventsByService": dict(sorted(self._by_service.items())),
            "avgLatencyMs": round(average, 3),
            "p99LatencyMs": round(p99, 3),
        }


class DutyMetrics:
    """The metrics of duties (``hub.nodes.duties``), by purpose."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._held = Gauge(
            "hub_duties", "Duties of the node.", ["purpose"], registry=registry, multiprocess_mode="livesum"
        )
        self._adopted = Counter(
            "hub_duties_adopted", "Duties of other nodes that were taken over.", ["purpose"], registry=registry
        )
        self._lost = Counter(
            "hub_duties_lost", "Duties that another node took while this one lived.", ["purpose"], registry=registry
        )

    def held(self, purpose: str, count: int) -> None:
        """The node has so many duties now."""
        self._held.labels(purpose).set(count)

    def adopted(self, purpose: str) -> None:
        """A duty of another node was taken over."""
        self._adopted.labels(purpose).inc()

    def lost(self, purpose: str) -> None:
        """Another node has a duty that this one thought it had."""
        self._lost.labels(purpose).inc()


class PresenceMetrics:
    """The metrics of presence (``hub.nodes.presence``), by topic kind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._members = Gauge(
            "hub_presence_members",
            "Users in topics, as far as they are present by connections of the node.",
            ["kind"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._snapshots = Counter(
            "hub_presence_snapshots", "Snapshots of who is present sent to clients.", ["kind"], registry=registry
        )
        self._fetches = Counter(
            "hub_presence_reads", "Snapshots of who is present read from Redis.", ["kind"], registry=registry
        )
        self._resyncs = Counter(
            "hub_presence_resyncs", "Topics of which Redis was told anew who is here.", ["kind"], registry=registry
        )

    def members(self, kind: str, change: int) -> None:
        """So many more users are present by this node."""
        self._members.labels(kind).inc(change)

    def sent(self, kind: str, count: int = 1) -> None:
        """Snapshots were sent."""
        self._snapshots.labels(kind).inc(count)

    def read(self, kind: str) -> None:
        """A snapshot was read."""
        self._fetches.labels(kind).inc()

    def resynced(self, kind: str) -> None:
        """Redis was told everybody who is here."""
        self._resyncs.labels(kind).inc()


class FlagMetrics:
    """The metrics of flags (``hub.nodes.flags``). Flags and variants are those of the file."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._evaluations = Counter(
            "hub_flag_evaluations",
            "Flags decided for somebody, by outcome.",
            ["flag", "variant", "reason"],
            registry=registry,
        )
        self._flips = Counter("hub_flag_flips", "Changes of a flag, for whomever.", ["flag"], registry=registry)
        self._cohort = Gauge(
            "hub_flag_cohort",
            "Open connections by what a flag is for them.",
            ["flag", "variant"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._trips = Counter(
            "hub_flag_guard_trips", "Schedules stopped by a guard.", ["flag", "guard"], registry=registry
        )
        self._stage = Gauge(
            "hub_flag_stage",
            "The percentage that the schedule of a flag has reached.",
            ["flag"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._file_errors = Counter("hub_flag_file_errors", "Files of flags that were refused.", registry=registry)

    def evaluated(self, flag: str, variant: str, reason: str, count: int = 1) -> None:
        """A flag was decided; ``reason`` is OpenFeature's."""
        self._evaluations.labels(flag, variant, reason).inc(count)

    def flipped(self, flag: str) -> None:
        """A flag has another value for somebody."""
        self._flips.labels(flag).inc()

    def moved(self, flag: str, variant: str, change: int) -> None:
        """So many more connections have this variant."""
        self._cohort.labels(flag, variant).inc(change)

    def guard_tripped(self, flag: str, guard: str) -> None:
        """A guard has stopped a schedule."""
        self._trips.labels(flag, guard).inc()

    def stage(self, flag: str, percent: int) -> None:
        """The schedule of a flag stands there (thousandths of a percent)."""
        self._stage.labels(flag).set(percent / 1000)

    def file_refused(self) -> None:
        """The file is invalid, or gone."""
        self._file_errors.inc()


def configure_logging(level: str, node: str) -> None:
    """structlog for the hub and for the libraries' standard logging: lines for a terminal, JSON otherwise."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # The library writes a line per socket; the hub has lines of its own that say who it was.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(node=node)
