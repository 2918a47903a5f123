"""Where a driver gets its chunks: from a document that is known whole. One that is being written is in ``dictation``.

A source gives the same chunks on every node, so a driver can go to any place in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from hub.api import HubError
from services.content.pipeline import Chunk, Complexity, Document, Findings

_TURN_S = 0.001
# Chunks that were given and may be wanted again: more than are on their way at once.
_GIVEN = 256

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
    def average(self) -> float:
        """Characters of html of a chunk that was given or passed over; 0 when there is none."""

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


class Shelf:
    """Chunks that are ready, and the last ones that were taken: they can be put back."""

    def __init__(self) -> None:
        self.ready: deque[Chunk] = deque()
        self.at = 0
        """Number of the next chunk, of those that are ready or to come."""
        self._taken: deque[Chunk] = deque(maxlen=_GIVEN)
        self._chars = 0

    @property
    def average(self) -> float:
        """Characters of html of those that were taken."""
        return self._chars / self.at if self.at else 0.0

    def take(self) -> Chunk:
        """The next one; there must be one."""
        chunk = self.ready.popleft()
        self._taken.append(chunk)
        self.at += 1
        self._chars += len(chunk.html)
        return chunk

    def group(self) -> Group:
        """The next one, and the ``close`` that follows it if it is there; empty when nothing is ready."""
        group: list[Chunk] = []
        while self.ready and (not group or self.ready[0].op == "close"):
            group.append(self.take())
        return tuple(group)

    def put_back(self, index: int) -> bool:
        """Makes number ``index`` the next one if it was taken not long ago."""
        if not self.at - len(self._taken) <= index <= self.at:
            return False
        while self.at > index:
            chunk = self._taken.pop()
            self.ready.appendleft(chunk)
            self.at -= 1
            self._chars -= len(chunk.html)
        return True


class DocumentSource:
    """A document that is known whole."""

    waiting = 0
    error: HubError | None = None
    _refused: HubError | None = None

    def __init__(self, document: Document, findings: Findings | None = None) -> None:
        self._document = document
        self.findings = Findings() if findings is None else findings
        self.complexity = document.complexity
        self.facts: dict[str, Any] = {}
        self._coming: Iterator[Chunk] = self._document.chunks()
        self._shelf = Shelf()

    def start(self, stir: Callable[[], None]) -> None:
        """Everything is ready always."""

    def next(self) -> Group | None:
        if self._refused is not None:
            raise self._refused
        self._get_ready(2)
        return self._shelf.group()

    async def seek(self, index: int) -> None:
        if self._shelf.put_back(index):
            return
        if index < self._shelf.at:
            self._coming, self._shelf = self._document.chunks(), Shelf()
        turn = Turn()
        while self._shelf.at < index and self._get_ready(1):
            self._shelf.take()
            await turn.over()

    @property
    def average(self) -> float:
        return self._shelf.average

    @property
    def html(self) -> str:
        return self._document.html

    async def close(self) -> None:
        """Nothing is under way."""

    def refuse(self, error: HubError) -> None:
        """Ends the stream with ``error`` when its next chunk is due."""
        self._refused = error

    def _get_ready(self, count: int) -> bool:
        ready = self._shelf.ready
        while len(ready) < count and (chunk := next(self._coming, None)) is not None:
            ready.append(chunk)
        return bool(ready)


class BrokenSource:
    """What a stream has that cannot go on: nothing but the reason."""

    waiting = 0
    html = ""
    average = 0.0
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
