"""The pipeline for those who may not hold the event loop: what takes long in one go is done in a thread."""

from __future__ import annotations

import asyncio
import re
from collections import deque

from services.content.pipeline import Complexity, ContentType, Document, Pipeline, Prepared, Unit, content_type

# A longer source takes longer than a thread costs, unless it comes piece by piece.
_AT_ONCE_CHARS = 2048
_PIECE_CHARS = 8192
_LONG_PIECE_CHARS = 24_576
_PIECE_END = re.compile(r"</(?:p|h[1-6]|li|div|section|article|main|ul|ol|blockquote|pre)>", re.IGNORECASE)
_TABLE = re.compile("<(/?)table", re.IGNORECASE)


class Preparer:
    """One for a node."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        # One thread wants the interpreter, not many: the loop gets its turn within a switch interval, 5 ms.
        self._one = asyncio.Semaphore()

    async def prepare(self, source: str, declared: str | None, unit: Unit) -> Prepared:
        """As ``Pipeline.document``. Raises ``empty_content`` here or when the document is read."""
        if not isinstance(source, str) or len(source) <= _AT_ONCE_CHARS:
            return self.pipeline.document(source, declared, unit)
        kind = content_type(source, declared)
        if kind is ContentType.HTML and _comes_in_pieces(source):
            return self.pipeline.document(source, kind, unit)
        async with self._one:
            return await asyncio.to_thread(self._make, source, kind, unit)

    def restore(self, markup: str, unit: Unit, known: Complexity | None) -> Document:
        """As ``Pipeline.restore``."""
        return self.pipeline.restore(markup, unit, known)

    def _make(self, source: str, kind: ContentType, unit: Unit) -> Prepared:
        prepared = self.pipeline.document(source, kind, unit)
        deque(prepared.document.segments(), 0)
        return prepared


def _comes_in_pieces(source: str) -> bool:
    """Whether a document is probably made piece by piece: no long table, and the ends of blocks never far apart."""
    if _has_long_table(source):
        return False
    at = 0
    while len(source) - at > _LONG_PIECE_CHARS:
        end = _PIECE_END.search(source, at + _PIECE_CHARS, at + _LONG_PIECE_CHARS)
        if end is None:
            return False
        at = end.end()
    return True


def _has_long_table(source: str) -> bool:
    """A table is made in one piece, with all that is in it."""
    depth = begin = 0
    for tag in _TABLE.finditer(source):
        if not tag[1]:
            begin = begin if depth else tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0 and tag.start() - begin > _PIECE_CHARS:
                return True
    return depth > 0 and len(source) - begin > _PIECE_CHARS
