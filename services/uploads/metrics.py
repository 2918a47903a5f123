"""What operators see of uploads, as Prometheus metrics. No upload and no user is a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class UploadMetrics:
    """Declared once for a node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.writers = Gauge(
            "hub_upload_writers", "Uploads that bytes are taken of.", registry=registry, multiprocess_mode="livesum"
        )
        self._bytes = Counter("hub_upload_bytes", "Bytes that were stored and recorded.", registry=registry)
        self._ends = Counter(
            "hub_uploads", "Uploads that have ended, by what became of them.", ["state"], registry=registry
        )

    def stored(self, count: int) -> None:
        """So many bytes were."""
        self._bytes.inc(count)

    def ended(self, state: str) -> None:
        """One has."""
        self._ends.labels(state).inc()
