"""An answer in the words of the Vercel AI SDK: its UI message stream (version 1), which ``useChat`` reads.

The text is the Markdown as it was written. It is not HTML, and whoever renders it must do that safely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hub.api import HubError
from services.content.chat.words import Metrics, error_fields
from services.content.pipeline import Chunk, Findings, clean_characters

_TEXT = "text-0"
_DONE = b"data: [DONE]\n\n"


class UiMessageStream:
    """See ``Words``. ``with_chunks``: chunks come too, as parts that belong to no message."""

    headers: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}

    def __init__(self, *, with_chunks: bool = False) -> None:
        self._with_chunks = with_chunks
        self._half = ""
        self._open = False

    def start(self, stream: str) -> bytes:
        """``start`` and ``start-step``; the stream's name is the message's."""
        return part("start", messageId=stream) + part("start-step")

    def text(self, text: str, chunks: Sequence[Chunk]) -> bytes:
        """``text-delta``, after ``text-start`` if it is the first, and ``data-chunk``."""
        told = self._delta(self._cleaned(text))
        if self._with_chunks:
            told += b"".join(part("data-chunk", data=chunk, transient=True) for chunk in chunks)
        return told

    def complete(self, metrics: Metrics) -> bytes:
        """``text-end``, ``finish-step``, ``finish``, and the mark of the end."""
        return self._text_end() + part("finish-step") + part("finish") + _DONE

    def error(self, error: HubError) -> bytes:
        """``text-end``, ``error``, and the mark of the end; before them ``data-error`` says what a program may ask."""
        return (
            self._text_end()
            + part("data-error", data=error_fields(error), transient=True)
            + part("error", errorText=error.message)
            + _DONE
        )

    def _cleaned(self, text: str) -> str:
        """The pipeline's cleaning. A carriage return waits for what comes: it may be half a line break."""
        text = self._half + text
        self._half = "\r" if text.endswith("\r") else ""
        return clean_characters(text.removesuffix("\r"), Findings())

    def _delta(self, text: str) -> bytes:
        if not text:
            return b""
        told = b"" if self._open else part("text-start", id=_TEXT)
        self._open = True
        return told + part("text-delta", id=_TEXT, delta=text)

    def _text_end(self) -> bytes:
        told = self._delta("\n" if self._half else "")
        self._half = ""
        return told + (part("text-end", id=_TEXT) if self._open else b"")


def part(kind: str, **fields: Any) -> bytes:
    """One part of the stream."""
    return b"data: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"
