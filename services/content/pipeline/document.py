"""A source that is known whole, as chunks. Works piece by piece: the first chunk is there long before the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hub.api import ErrorCode, HubError
from hub.api import markup as safe
from services.content.pipeline.chunks import Chunk, Op
from services.content.pipeline.cutting import Cutter
from services.content.pipeline.pace import Complexity
from services.content.pipeline.units import Unit

_WORDS_UP_TO = 4_000
_SENTENCES_UP_TO = 40_000


class _Part(NamedTuple):
    """A top-level block, or what comes next of one."""

    markup: str
    since: float
    """The progress before it."""
    until: float
    """The progress after it."""
    last: bool
    """Whether the block ends with it."""


class Document:
    """Made by ``Pipeline.document`` or ``Pipeline.restore``. The same source gives the same chunks on every node."""

    def __init__(
        self, segments: Iterator[safe.Segment], unit: Unit, complexity: Complexity, max_chunk_chars: int
    ) -> None:
        self.unit = unit
        """What chunks are made of; not AUTO."""
        self.complexity = complexity
        self._coming = segments
        self._segments: list[safe.Segment] = []
        self._max_chunk_chars = max_chunk_chars

    @property
    def html(self) -> str:
        """The whole sanitised document: what a client has after the last chunk. Makes what is not made yet."""
        return "".join(block for segment in self.segments() for block in segment.blocks)

    def segments(self) -> Iterator[safe.Segment]:
        """The blocks, in pieces that take about a millisecond each to make; a second time they are there already.

        Raises ``empty_content`` when nothing of the source may be shown.
        """
        number = 0
        while number < len(self._segments) or self._make():
            yield self._segments[number]
            number += 1
        if not any(segment.blocks for segment in self._segments):
            raise HubError(ErrorCode.EMPTY_CONTENT, "nothing of the content may be shown; send text or allowed HTML")

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order, made one by one; each call begins anew. The last one's progress is 1."""
        index = number = 0
        cutter = Cutter(self.unit, self._max_chunk_chars)
        for markup, since, until, last in self._parts():
            for piece in cutter.cut(markup, last=last):
                progress = _rounded(since + (until - since) * piece.done)
                op: Op = "append" if piece.depth else "open"
                yield Chunk(index, op, number, piece.html, piece.text, progress, piece.depth)
                index += 1
            if last:
                yield Chunk(index, "close", number, "", "\n", until)
                index += 1
                number += 1
                cutter = Cutter(self.unit, self._max_chunk_chars)

    def _make(self) -> bool:
        made = next(self._coming, None)
        if made is not None:
            self._segments.append(made)
        return made is not None

    def _parts(self) -> Iterator[_Part]:
        """The document in the parts in which it is made. What follows the last block shows nothing, so that it ends at
        1; and so the end of a block is given only when there is another part or no more.
        """
        since = 0.0
        waiting: _Part | None = None
        for segment in self.segments():
            chars = sum(map(len, segment.blocks))
            begin, done = since, 0
            open_one = len(segment.blocks) if segment.open else 0
            for number, markup in enumerate(segment.blocks, 1):
                if waiting is not None:
                    yield waiting
                done += len(markup)
                until = begin + (segment.until - begin) * done / chars
                waiting = _Part(markup, since, _rounded(until), number != open_one)
                since = until
            if waiting is not None and not waiting.last:
                yield waiting
                waiting = None
            since = segment.until
        if waiting is not None:
            yield waiting._replace(until=1.0)


def _rounded(progress: float) -> float:
    """To four places, down. A third of what ``round`` takes."""
    return int(progress * 10_000) / 10_000


def automatic(unit: Unit, chars: int) -> Unit:
    """``unit``; for AUTO, what a source of so many characters is cut into, so that nobody waits for minutes."""
    if unit is not Unit.AUTO:
        return unit
    if chars <= _WORDS_UP_TO:
        return Unit.WORD
    return Unit.SENTENCE if chars <= _SENTENCES_UP_TO else Unit.PARAGRAPH
