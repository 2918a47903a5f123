"""What operators see of chat, as Prometheus metrics. No room and no user is a label."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

Change = Literal["sent", "repeated", "edited", "deleted", "outdated", "reacted"]


class ChatMetrics:
    """Declared once for a node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._messages = Counter(
            "hub_chat_messages", "What was done to messages; `repeated`: sent again.", ["change"], registry=registry
        )
        self._erased = Counter(
            "hub_chat_erased_events", "Events in Redis from which a text was taken back.", registry=registry
        )

    def changed(self, change: Change, count: int = 1) -> None:
        """So many messages were."""
        self._messages.labels(change).inc(count)

    def erased(self, events: int) -> None:
        """So many events say no text any more."""
        self._erased.inc(events)
