"""A source that is known whole, as chunks. Works piece by piece: the first chunk is there long before the last."""

from __future__ import annotations

from collections.abc import Iterator

from hub.api import ErrorCode, HubError
from services.content.pipeline.chunks import Chunk, Op
from services.content.pipeline.cutting import cut
from services.content.pipeline.pace import Complexity
from services.content.pipeline.sanitise import Segment
from services.content.pipeline.units import Unit

_WORDS_UP_TO = 4_000
_SENTENCES_UP_TO = 40_000


class Document:
    """Made by ``Pipeline.document`` or ``Pipeline.restore``. The same source gives the same chunks on every node."""

    def __init__(self, segments: Iterator[Segment], unit: Unit, complexity: Complexity, max_chunk_chars: int) -> None:
        self.unit = unit
        """What chunks are made of; not AUTO."""
        self.complexity = complexity
        self._coming = segments
        self._segments: list[Segment] = []
        self._max_chunk_chars = max_chunk_chars

    @property
    def html(self) -> str:
        """The whole sanitised document: what a client has after the last chunk. Makes what is not made yet."""
        return "".join(block for segment in self.segments() for block in segment.blocks)

    def segments(self) -> Iterator[Segment]:
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
        index = 0
        for number, (block, since, until) in enumerate(self._blocks()):
            progress = since
            for piece in cut(block, self.unit, self._max_chunk_chars):
                progress = round(since + (until - since) * piece.end / len(block), 4)
                op: Op = "append" if piece.depth else "open"
                yield Chunk(index, op, number, piece.html, piece.text, progress, piece.depth)
                index += 1
            yield Chunk(index, "close", number, "", "\n", until)
            index += 1

    def _make(self) -> bool:
        made = next(self._coming, None)
        if made is not None:
            self._segments.append(made)
        return made is not None

    def _blocks(self) -> Iterator[tuple[str, float, float]]:
        """Each block with the progress before and after it. What follows the last one shows nothing, so that it ends
        at 1; and so a block is given only when there is another or no more.
        """
        since = 0.0
        waiting: tuple[str, float, float] | None = None
        for segment in self.segments():
            chars = sum(map(len, segment.blocks))
            begin, done = since, 0
            for block in segment.blocks:
                if waiting is not None:
                    yield waiting
                done += len(block)
                until = begin + (segment.until - begin) * done / chars
                waiting = (block, since, round(until, 4))
                since = until
            since = segment.until
        if waiting is not None:
            yield waiting[0], waiting[1], 1.0


def automatic(unit: Unit, chars: int) -> Unit:
    """``unit``; for AUTO, what a source of so many characters is cut into, so that nobody waits for minutes."""
    if unit is not Unit.AUTO:
        return unit
    if chars <= _WORDS_UP_TO:
        return Unit.WORD
    return Unit.SENTENCE if chars <= _SENTENCES_UP_TO else Unit.PARAGRAPH
