"""One answer: what the writer writes goes through the pipeline and is told, with a sign of life in every silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import structlog

from hub.api import HubError
from services.content.assistant import Outcome
from services.content.chat.read_ahead import ReadAhead
from services.content.chat.words import KEEP_ALIVE, Metrics, Words, own_fault
from services.content.pipeline import Chunk, LiveDocument, complexity

_log = structlog.get_logger(__name__)


class Bounds(NamedTuple):
    """How long an answer may be silent, and how much of it may wait for a client that reads slowly."""

    keepalive_s: float
    unread_bytes: int


async def answer(
    stream: str, pieces: AsyncGenerator[str | Outcome, None], document: LiveDocument, words: Words, bounds: Bounds
) -> AsyncGenerator[bytes, None]:
    """The whole answer in ``words``; what goes wrong is told at its end and not raised.

    Close it to end the text: the provider's call is over when that returns.
    """
    told = _Told(stream, document, words)
    ahead = ReadAhead(pieces, bounds.unread_bytes)
    clock = asyncio.get_running_loop().time
    try:
        yield words.start(stream)
        silent_until = clock() + bounds.keepalive_s
        while not told.ended:
            try:
                async with asyncio.timeout_at(silent_until):
                    text, end = await ahead.take()
                news = told.more(text) + (b"" if end is None else told.end(end))
            except TimeoutError:
                news = KEEP_ALIVE
            except Exception:
                _log.exception("pipeline failed")
                news = told.broken()
            if news:
                yield news
                silent_until = clock() + bounds.keepalive_s
    finally:
        await ahead.close()


class _Told:
    """What was told so far, and what the pipeline made of it."""

    def __init__(self, stream: str, document: LiveDocument, words: Words) -> None:
        self.ended = False
        self._stream = stream
        self._document = document
        self._words = words
        self._chunks = 0
        self._processing_s = 0.0

    def more(self, text: str) -> bytes:
        """What was written next; may be nothing. Ends when it is more than a document may be."""
        if not text:
            return b""
        try:
            chunks = self._processed(lambda: self._document.feed(text))
        except HubError as error:
            return self.end(error)
        return self._words.text(text, chunks)

    def end(self, end: Outcome | HubError) -> bytes:
        """Nothing follows. What was written stays, however it ended."""
        if self.ended:
            return b""
        self.ended = True
        empty = None
        try:
            rest = self._words.text("", self._processed(self._document.finish))
        except HubError as error:
            rest, empty = b"", error
        if isinstance(end, HubError):
            return rest + self._words.error(end)
        failure = end.error or empty
        return rest + (self._words.complete(self._metrics(end)) if failure is None else self._words.error(failure))

    def broken(self) -> bytes:
        """Nothing follows, because of a fault of the hub's own."""
        self.ended = True
        return self._words.error(own_fault())

    def _processed(self, work: Callable[[], list[Chunk]]) -> list[Chunk]:
        began = time.perf_counter()
        try:
            chunks = work()
        finally:
            self._processing_s += time.perf_counter() - began
        self._chunks += len(chunks)
        return chunks

    def _metrics(self, outcome: Outcome) -> Metrics:
        html = self._document.html
        return Metrics(
            stream=self._stream,
            provider=outcome.provider,
            bytes=outcome.bytes,
            chunks=self._chunks,
            avg_chunk_size=round(len(html) / max(self._chunks, 1), 1),
            complexity=complexity(html),
            processing_ms=round(self._processing_s * 1000, 1),
        )
