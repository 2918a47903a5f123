"""What the assistant counts: texts and how they ended, calls that failed, and how long people waited."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

if TYPE_CHECKING:
    from services.content.assistant.writer import Outcome

_FIRST_TEXT_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TEXT_BUCKETS_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_COMPLETE = "complete"
_CANCELLED = "cancelled"


class AssistantMetrics:
    """Belongs to one ``Writer``. Labels are bounded: providers of the settings, faults, error codes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._texts = Counter(
            "hub_assistant_texts",
            "Texts by the provider that had the last word and how they ended: complete, cancelled, or an error's code.",
            ["provider", "outcome"],
            registry=registry,
        )
        self._failures = Counter(
            "hub_assistant_failures", "Calls to providers that failed.", ["provider", "fault"], registry=registry
        )
        self._first_text = Histogram(
            "hub_assistant_first_text_seconds",
            "From the request to the first text, failed calls and pauses included.",
            ["provider"],
            registry=registry,
            buckets=_FIRST_TEXT_BUCKETS_S,
        )
        self._seconds = Histogram(
            "hub_assistant_seconds",
            "From the request to the end of the text.",
            ["provider"],
            registry=registry,
            buckets=_TEXT_BUCKETS_S,
        )

    async def measured(
        self, items: AsyncGenerator[str | Outcome, None], writing: Callable[[], str]
    ) -> AsyncGenerator[str | Outcome, None]:
        """``items`` of one text as they come; ``writing`` says whose turn it is. Closed early, it was cancelled."""
        began, silent, outcome = time.perf_counter(), True, None
        try:
            async with aclosing(items):
                async for item in items:
                    if not isinstance(item, str):
                        outcome = item
                    elif silent:
                        silent = False
                        self._first_text.labels(writing()).observe(time.perf_counter() - began)
                    yield item
        finally:
            provider, ended = writing(), _CANCELLED
            if outcome is not None:
                ended = _COMPLETE if outcome.error is None else str(outcome.error.code)
                for failed, fault in outcome.failures:
                    self._failures.labels(failed, fault).inc()
            self._texts.labels(provider, ended).inc()
            self._seconds.labels(provider).observe(time.perf_counter() - began)
