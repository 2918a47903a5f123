"""In what words an answer is told. Each vocabulary turns the same four moments into bytes; none does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from hub.api import ErrorCode, HubError
from services.content.pipeline import Chunk, Complexity

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events: every reader skips it."""


class Metrics(Struct, frozen=True):
    """What there is to say of an answer that is complete."""

    stream: str
    provider: str
    bytes: int
    """Of the text that was written, in UTF-8."""
    chunks: int
    avg_chunk_size: float
    """Characters of the document for each chunk."""
    complexity: Complexity
    processing_ms: float
    """Time in the pipeline; the waiting for the provider is not in it."""


class Words(Protocol):
    """One answer is told by one object, in this order: ``start``, ``text`` many times, ``complete`` or ``error``."""

    headers: Mapping[str, str]

    def start(self, stream: str) -> bytes:
        """The answer begins; ``stream`` is its name."""

    def text(self, text: str, chunks: Sequence[Chunk]) -> bytes:
        """What was written next, and the chunks that follow from it. Either may be empty, and so may the bytes."""

    def complete(self, metrics: Metrics) -> bytes:
        """The answer is complete."""

    def error(self, error: HubError) -> bytes:
        """The answer ends here. What was told before stays."""


def error_fields(error: HubError) -> dict[str, Any]:
    """An error as it stands on the wire; fields that say nothing are left out."""
    fields = {
        "code": str(error.code),
        "message": error.message,
        "retry": error.retry,
        "retry_after_ms": error.retry_after_ms,
        "details": error.details,
    }
    return {name: value for name, value in fields.items() if value is not None}


def own_fault() -> HubError:
    """What a client is told of a fault that is the hub's own."""
    return HubError(ErrorCode.INTERNAL, "a fault of the hub; it is in its log, try again later")
