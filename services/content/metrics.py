"""What operators see of content streams, as Prometheus metrics. Labels are bounded: kinds, outcomes, findings."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.content.pipeline import Findings
from services.content.states import State

_PROCESSING_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_CHUNKS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_CHARS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_LATE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class ContentMetrics:
    """Declared once for a node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "hub_content_streams",
            "Streams that this process drives.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._ended = Counter(
            "hub_content_streams_ended", "Parts of streams that ended.", ["kind", "state"], registry=registry
        )
        self._adopted = Counter(
            "hub_content_streams_adopted", "Streams taken over from another node.", registry=registry
        )
        self._cache = Counter(
            "hub_content_cache", "Requests by whether the cache had it.", ["outcome"], registry=registry
        )
        self._findings = Counter(
            "hub_content_findings", "What looked like an attack in content, by kind.", ["finding"], registry=registry
        )
        self._processing = Histogram(
            "hub_content_processing_seconds",
            "Time to convert, sanitise and cut the content of a request.",
            ["content_type"],
            registry=registry,
            buckets=_PROCESSING_S,
        )
        self._chunks = Histogram(
            "hub_content_chunks", "Chunks of a part.", ["complexity"], registry=registry, buckets=_CHUNKS
        )
        self._chunk_chars = Histogram(
            "hub_content_chunk_chars", "Average HTML of a part's chunks.", registry=registry, buckets=_CHARS
        )
        self._late = Histogram(
            "hub_content_chunk_late_seconds",
            "How much later than its pace demands a chunk was handed to Redis.",
            registry=registry,
            buckets=_LATE_S,
        )
        self._slowed = Counter(
            "hub_content_slowed", "Times a stream was slowed down for a watcher who lags.", registry=registry
        )

    def cache(self, hit: bool) -> None:
        """A request was looked up."""
        self._cache.labels("hit" if hit else "miss").inc()

    def processed(self, content_type: str, seconds: float) -> None:
        """A request's content went through the pipeline."""
        self._processing.labels(content_type).observe(seconds)

    def late(self, seconds: float) -> None:
        """Chunks were published, so much after they were due."""
        self._late.observe(seconds)

    def slowed(self) -> None:
        """A stream waits longer because of a watcher."""
        self._slowed.inc()

    def adopted(self) -> None:
        """A stream of another node goes on here."""
        self._adopted.inc()

    def found(self, findings: Findings) -> None:
        """What the whole of a part had."""
        for finding, count in findings.items():
            self._findings.labels(str(finding)).inc(count)

    def ended(self, kind: str, state: State, complexity: str, chunks: int, chunk_chars: float) -> None:
        """A part came to its end."""
        self._ended.labels(kind, str(state)).inc()
        self._chunks.labels(complexity).observe(chunks)
        self._chunk_chars.observe(chunk_chars)
