"""One answer: what the writer writes goes through the pipeline and is told, with a sign of life in every silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import structlog

from hub.api import Ending, HubError
from services.content.assistant import Outcome
from services.content.chat.read_ahead import ReadAhead
from services.content.chat.words import KEEP_ALIVE, Metrics, Words, own_fault
from services.content.pipeline import Chunk, LiveDocument, complexity
from services.content.sources import Turn

_log = structlog.get_logger(__name__)


# What waited for a slow client may be much; one step through the pipeline should not be.
_SLICE_CHARS = 512


class Bounds(NamedTuple):
    """How long an answer may be silent, and how much of it may wait for a client that reads slowly."""

    keepalive_s: float
    unread_bytes: int


async def answer(
    stream: str,
    pieces: AsyncGenerator[str | Outcome, None],
    document: LiveDocument,
    words: Words,
    bounds: Bounds,
    ending: Ending,
) -> AsyncGenerator[bytes, None]:
    """The whole answer in ``words``; what goes wrong is told at its end and not raised.

    It ends early with the error of ``ending``. Close it to end the text: the provider's call is over when that returns.
    """
    told = _Told(stream, document, words)
    ahead = ReadAhead(pieces, bounds.unread_bytes)
    ending.add_done_callback(lambda done: None if done.cancelled() else ahead.end(done.result()))
    clock = asyncio.get_running_loop().time
    try:
        yield words.start(stream)
        silent_until = clock() + bounds.keepalive_s
        while not told.ended:
            try:
                async with asyncio.timeout_at(silent_until):
                    taken = await ahead.take()
            except TimeoutError:
                news = KEEP_ALIVE
            else:
                news = await told.more(*taken)
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

    async def more(self, text: str, end: Outcome | HubError | None) -> bytes:
        """What was written next, and how it ended if it did; may be nothing. Others have their turn meanwhile."""
        turn = Turn()
        news = []
        try:
            for at in range(0, len(text), _SLICE_CHARS):
                news.append(self._slice(text[at : at + _SLICE_CHARS]))
                if self.ended:
                    break
                await turn.over()
            if end is not None:
                news.append(self._finish(end))
        except Exception:
            _log.exception("pipeline failed")
            news.append(self._broken())
        return b"".join(news)

    def _slice(self, text: str) -> bytes:
        """Ends when it is more than a document may be."""
        try:
            chunks = self._processed(lambda: self._document.feed(text))
        except HubError as error:
            return self._finish(error)
        return self._words.text(text, chunks)

    def _finish(self, end: Outcome | HubError) -> bytes:
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

    def _broken(self) -> bytes:
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
