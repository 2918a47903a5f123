"""The hub's own words for an answer: the events of a content stream, as server-sent events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hub.api import HubError
from services.content.chat.words import Metrics, error_fields
from services.content.pipeline import Chunk


class ServerSentEvents:
    """See ``Words``. The text itself is not told, only its chunks; ``id`` is a chunk's index."""

    headers: Mapping[str, str] = {}

    def start(self, stream: str) -> bytes:
        """``stream_start``."""
        return event("stream_start", {"stream": stream})

    def text(self, text: str, chunks: Sequence[Chunk]) -> bytes:
        """``chunk``, as many as there are."""
        return b"".join(event("chunk", chunk, chunk.index) for chunk in chunks)

    def complete(self, metrics: Metrics) -> bytes:
        """``stream_complete``."""
        return event("stream_complete", metrics)

    def error(self, error: HubError) -> bytes:
        """``stream_error``."""
        return event("stream_error", error_fields(error))


def event(name: str, data: Any, number: int | None = None) -> bytes:
    """One event. JSON has no line breaks of its own, so its data is always one line."""
    identity = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{identity}data: ".encode() + msgspec.json.encode(data) + b"\n\n"
