"""A document that is being written, as chunks: blocks that are complete are final, the last one grows.

Only the last block is parsed again as it grows, and the less often the longer it is, so that the whole costs time and
bytes linear in its length. At the end it is what ``Sanitiser`` makes of the converted whole, but for blocks that are so
long that they are ended and begun anew: no step takes more than some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import regex

from hub.api import ErrorCode, HubError
from hub.api import markup as safe
from services.content.pipeline.chunks import Chunk, Op
from services.content.pipeline.cutting import Cutter, Piece, place_of_end
from services.content.pipeline.heal import begins_anew, in_code, last_line, preview, settled, whole_words
from services.content.pipeline.units import Unit

SHARE = 16
"""The last block is looked at again when this part of it is new. More: smoother, and as many times the work."""

MAX_BLOCK_CHARS = 8192
"""A last block that is longer is ended; code has ``_CODE_CHARS``, because it is shown as it is."""
_CODE_CHARS = 32_768
_MAX_BLOCK_WORK = 6_000
"""And so is one that takes the parser more work."""
_WORK_A_CHAR = 20
"""The parser's work, paid by as many new characters before the last block is looked at again."""
_STEP_CHARS = 512
"""More at once is taken in steps."""

# What may belong together with what comes next: a carriage return, half of a surrogate pair.
_HALF = regex.compile(r"[\r\ud800-\udbff]\Z")


class Dialect(Protocol):
    """How a kind of source is read before its end is there."""

    def settled(self, tail: str) -> str:
        """As much of ``tail`` as cannot become another kind of block."""

    def begins(self, text: str) -> list[int]:
        """Where in ``text`` each top-level block begins. All but the last are complete."""

    def preview(self, tail: str, unit: Unit) -> str:
        """What can be shown of the last block, as source; may be empty."""

    def is_code(self, tail: str) -> bool:
        """Whether the last block is code that goes on."""

    def part(self, tail: str) -> tuple[str, str]:
        """A long last block as two: what is a block now, never empty, and the source of the next one so far."""

    def convert(self, source: str, found: safe.Findings, work: safe.Work | None = None) -> str:
        """HTML, not yet sanitised; adds what it cannot convert to ``found`` and what it did to ``work``."""

    def look(self, source: str, found: safe.Findings) -> None:
        """Counts what looks like an attack; it will be shown as it is."""


class MarkdownDialect:
    """Markdown without definitions of links: one that came late would change what was shown."""

    def __init__(self, markdown: safe.Markdown) -> None:
        self._markdown = markdown

    def settled(self, tail: str) -> str:
        return settled(tail)

    def begins(self, text: str) -> list[int]:
        lines = self._markdown.block_lines(text)
        begins, at, number = [], 0, 0
        for line in lines:
            while number < line:
                at = text.index("\n", at) + 1
                number += 1
            begins.append(at)
        return begins

    def preview(self, tail: str, unit: Unit) -> str:
        return preview(tail, unit)

    def is_code(self, tail: str) -> bool:
        return tail.startswith(("```", "~~~")) and in_code(tail)

    def part(self, tail: str) -> tuple[str, str]:
        at = last_line(tail) or len(whole_words(tail)) or len(tail)
        return tail[:at], begins_anew(tail[:at]) + tail[at:]

    def convert(self, source: str, found: safe.Findings, work: safe.Work | None = None) -> str:
        return self._markdown.convert(source, found, work)

    def look(self, source: str, found: safe.Findings) -> None:
        safe.count_markup(source, found)
        safe.in_markdown(source, found)


class TextDialect:
    """Paragraphs of text."""

    def settled(self, tail: str) -> str:
        return tail

    def begins(self, text: str) -> list[int]:
        return [0, *(found.end() for found in safe.PARAGRAPH_BREAK.finditer(text))]

    def preview(self, tail: str, unit: Unit) -> str:
        return "" if unit is Unit.PARAGRAPH else whole_words(tail)

    def is_code(self, tail: str) -> bool:
        return False

    def part(self, tail: str) -> tuple[str, str]:
        at = len(whole_words(tail)) or len(tail)
        return tail[:at], tail[at:]

    def convert(self, source: str, found: safe.Findings, work: safe.Work | None = None) -> str:
        return safe.text_to_html(source)

    def look(self, source: str, found: safe.Findings) -> None:
        safe.count_markup(source, found)


_NOTHING = Piece("", "", 0, 1.0)
_END = Piece("", "\n", 0, 1.0)


class _Step(NamedTuple):
    op: Op
    block: int
    piece: Piece


class LiveDocument:
    """Made by ``Pipeline.live``. ``feed`` what comes, apply the chunks, ``finish``."""

    def __init__(
        self, sanitiser: safe.Sanitiser, dialect: Dialect, unit: Unit, *, max_bytes: int, max_chunk_chars: int
    ) -> None:
        self.findings = safe.Findings()
        """Counts of what looked like an attack, so far."""
        self._sanitiser = sanitiser
        self._dialect = dialect
        self._unit = Unit.WORD if unit is Unit.AUTO else unit
        self._max_bytes = max_bytes
        self._max_chunk_chars = max_chunk_chars
        self._bytes = 0
        self._half = ""
        self._coming: list[str] = []  # not looked at yet
        self._new = 0  # characters of it
        self._patience = 0  # how many there must be before the last block is looked at again
        self._work = 0  # that this took the last time
        self._tail = ""  # source from the beginning of the last block
        self._shown = ""  # the last block as it was sent; empty: not opened
        self._done: list[str] = []
        self._index = 0

    @property
    def html(self) -> str:
        """What a client has now."""
        return "".join(self._done) + self._shown

    def feed(self, text: str) -> list[Chunk]:
        """Takes what was written next, as little or as much as there is; returns the chunks that follow from it.

        Raises ``too_large``; what came before stays, and ``finish`` ends it.
        """
        self._bytes += len(text.encode("utf-8", "surrogatepass"))
        if self._bytes > self._max_bytes:
            raise HubError(
                ErrorCode.TOO_LARGE,
                f"more than {self._max_bytes} bytes were written",
                details={"max_bytes": self._max_bytes},
            )
        text = self._half + text
        half = _HALF.search(text)
        self._half = half[0] if half else ""
        if half:
            text = text[: half.start()]
        chunks: list[Chunk] = []
        for at in range(0, len(text), _STEP_CHARS):
            self._take(text[at : at + _STEP_CHARS])
            if self._new and self._new >= self._patience:
                chunks += [self._chunk(step) for step in self._grow()]
        return chunks

    def finish(self) -> list[Chunk]:
        """The rest. Raises ``empty_content`` when nothing was written that may be shown."""
        self._take(self._half)
        self._half = ""
        chunks = [self._chunk(step) for step in self._end()]
        if not self._done:
            raise HubError(ErrorCode.EMPTY_CONTENT, "nothing was written that may be shown")
        return chunks

    def _take(self, text: str) -> None:
        text = safe.clean_characters(text, self.findings)
        if text:
            self._coming.append(text)
            self._new += len(text)

    def _gather(self) -> str:
        self._tail += "".join(self._coming)
        self._coming.clear()
        self._new = 0
        return self._tail

    def _grow(self) -> Iterator[_Step]:
        tail = self._gather()
        text = self._dialect.settled(tail)
        begins = self._dialect.begins(text)
        for begin, end in pairwise(begins):
            yield from self._complete(text[begin:end])
        if len(begins) > 1:
            self._tail = tail[begins[-1] :]
            text = text[begins[-1] :]
            self._work = 0
        if self._is_long():
            source, self._tail = self._dialect.part(self._tail)
            self._work = self._patience = 0
            yield from self._complete(source)
        else:
            yield from self._look(text)

    def _is_long(self) -> bool:
        if len(self._tail) <= MAX_BLOCK_CHARS:
            return self._work > _MAX_BLOCK_WORK
        return len(self._tail) > _CODE_CHARS or not self._dialect.is_code(self._tail)

    def _look(self, text: str) -> Iterator[_Step]:
        """Shows what can be shown of the last block."""
        work = safe.Work()
        source = self._dialect.preview(text, self._unit)
        blocks = self._sanitiser.blocks(self._dialect.convert(source, safe.Findings(), work)) if source else []
        if len(blocks) == 1:  # a guess that makes more is none
            yield from self._show(blocks[0])
        self._work = work.done
        self._patience = max(len(self._tail) // SHARE, work.done // _WORK_A_CHAR)

    def _end(self) -> Iterator[_Step]:
        text = self._gather()
        self._tail = ""
        for begin, end in pairwise([*self._dialect.begins(text), len(text)]):
            yield from self._complete(text[begin:end])

    def _complete(self, source: str) -> Iterator[_Step]:
        self._dialect.look(source, self.findings)
        blocks = self._sanitiser.blocks(self._dialect.convert(source, self.findings))
        if not blocks and self._shown:
            blocks = [""]  # a preview showed what is not there; an empty block takes it back
        for block in blocks:
            yield from self._show(block)
            yield _Step("close", len(self._done), _END)
            self._done.append(block)
            self._shown = ""

    def _show(self, block: str) -> Iterator[_Step]:
        """Makes the last block this one, by adding to it if that will do."""
        shown, self._shown = self._shown, block
        if shown == block:
            return
        place = place_of_end(shown)
        if block.startswith(shown[: place.at]):
            for piece in Cutter(self._unit, self._max_chunk_chars, place).cut(block):
                yield _Step("append" if piece.depth else "open", len(self._done), piece)
        else:
            for piece in Cutter(None, self._max_chunk_chars).cut(block) if block else [_NOTHING]:
                yield _Step("append" if piece.depth else "replace_tail", len(self._done), piece)

    def _chunk(self, step: _Step) -> Chunk:
        piece = step.piece
        chunk = Chunk(self._index, step.op, step.block, piece.html, piece.text, None, piece.depth)
        self._index += 1
        return chunk
