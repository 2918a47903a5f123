"""Where a driver gets its chunks: from a document that is known whole. One that is being written is in ``dictation``.

A source gives the same chunks on every node, so a driver can go to any place in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hub.api import HubError
from services.content.pipeline import Chunk, Complexity, Document, Findings

_TURN_S = 0.001

Group = tuple[Chunk, ...]
"""Chunks that are published together: one, and the ``close`` that follows it."""


class Turn:
    """Long work in turns of a millisecond, so that nobody waits for the whole of it."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _TURN_S

    async def over(self) -> None:
        """Called after every step: lets the others have their turn when this one's is over."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + _TURN_S


class TakenOver(Exception):
    """Another node drives this stream by now; whoever gets this stops without a word."""


class Source(Protocol):
    """What a stream's part is made of. ``index`` and ``block`` of its chunks count from 0 in every part."""

    @property
    def complexity(self) -> Complexity: ...

    @property
    def waiting(self) -> int:
        """Chunks that are ready: how far the reader is behind whoever writes. 0 for a document."""

    def start(self, stir: Callable[[], None]) -> None:
        """Begins to work. ``stir`` is called when there is something after ``next`` had nothing."""

    def next(self) -> Group | None:
        """The next chunks; empty at the end; None: nothing is ready.

        Raises ``HubError`` when there will be none, and ``TakenOver``.
        """

    async def seek(self, index: int) -> None:
        """The next chunk will be number ``index``. What that takes happens between what others do."""

    @property
    def html(self) -> str:
        """The document so far; all of it after the last chunk."""

    @property
    def error(self) -> HubError | None:
        """Set at the end when the document is not what it should have been."""

    @property
    def findings(self) -> Findings:
        """What looked like an attack, so far."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the result says beside the counts."""

    async def close(self) -> None:
        """Ends what is under way."""


class DocumentSource:
    """A document that is known whole."""

    waiting = 0
    error: HubError | None = None

    def __init__(self, document: Document, findings: Findings | None = None) -> None:
        self._document = document
        self.findings = Findings() if findings is None else findings
        self.complexity = document.complexity
        self.facts: dict[str, Any] = {}
        self._coming: Iterator[Chunk] = self._document.chunks()
        self._ahead: Chunk | None = None

    def start(self, stir: Callable[[], None]) -> None:
        """Everything is ready always."""

    def next(self) -> Group | None:
        first = self._ahead or next(self._coming, None)
        if first is None:
            return ()
        self._ahead = next(self._coming, None)
        if self._ahead is None or self._ahead.op != "close":
            return (first,)
        group = (first, self._ahead)
        self._ahead = None
        return group

    async def seek(self, index: int) -> None:
        self._ahead = None
        self._coming = self._document.chunks()
        turn = Turn()
        for _ in range(index):
            next(self._coming, None)
            await turn.over()

    @property
    def html(self) -> str:
        return self._document.html

    async def close(self) -> None:
        """Nothing is under way."""


class BrokenSource:
    """What a stream has that cannot go on: nothing but the reason."""

    waiting = 0
    html = ""
    complexity = Complexity.LOW

    def __init__(self, error: HubError) -> None:
        self.error = error
        self.findings = Findings()
        self.facts: dict[str, Any] = {}

    def start(self, stir: Callable[[], None]) -> None:
        """There is nothing to begin."""

    def next(self) -> Group | None:
        raise self.error

    async def seek(self, index: int) -> None:
        """There is no place to go to."""

    async def close(self) -> None:
        """Nothing is under way."""
