"""A document that a language model is writing, as a source of chunks.

The model's text is read ahead, written down in the journal, and only then made into chunks: exactly the pieces of the
journal are fed to the pipeline, so every node makes the same chunks of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import structlog

from hub.api import ErrorCode, HubError
from services.content.assistant import Outcome, Prompt, Writer
from services.content.journal import END, TEXT, Entry, Journal
from services.content.pipeline import Chunk, Complexity, Findings, LiveDocument, Pipeline, Unit
from services.content.sources import Group, Shelf, TakenOver, Turn

log = structlog.get_logger(__name__)

# What a model says within this time is one entry of the journal.
_GATHER_S = 0.03
_MOST_PIECE_CHARS = 1024


class Dictation:
    """See ``services.content.sources.Source``. The journal must have been read when another node wrote it before."""

    complexity = Complexity.LOW

    def __init__(
        self, journal: Journal, writer: Writer, prompt: Prompt, provider: str | None, pipeline: Pipeline, unit: Unit
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._prompt = prompt
        self._provider = provider
        self._pipeline = pipeline
        self._unit = unit
        self._live: LiveDocument = pipeline.live(unit=unit)
        self._fed = 0
        """Entries of the journal that became chunks."""
        self._finished = False
        self._shelf = Shelf()
        self._wanted = 0
        """Chunks before this one are not wanted any more."""
        self._spoken: list[str] = []
        """Not in the journal yet; bounded by what a text may have."""
        self._outcome: Outcome | None = None
        self._error: HubError | None = None
        self._doubtful = False
        """Redis may have lost some of the journal."""
        self._heard = asyncio.Event()
        """There is something to write down."""
        self._stir: Callable[[], None] = _nothing
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: Exception | None = None

    # --- what a driver asks

    @property
    def waiting(self) -> int:
        return len(self._shelf.ready)

    @property
    def html(self) -> str:
        self._read_all()
        return self._live.html

    @property
    def average(self) -> float:
        return self._shelf.average

    @property
    def error(self) -> HubError | None:
        return self._error

    @property
    def findings(self) -> Findings:
        return self._live.findings

    @property
    def facts(self) -> dict[str, Any]:
        end = self._end()
        return {} if end is None else {"provider": end["provider"], "bytes": end["bytes"]}

    def start(self, stir: Callable[[], None]) -> None:
        self._stir = stir
        self._tasks = [asyncio.create_task(self._write_down(), name="dictation-write")]
        if self._end() is None:
            self._tasks.append(asyncio.create_task(self._listen(), name="dictation-listen"))

    def next(self) -> Group | None:
        while not self._ready():
            if self._read_one():
                continue
            if self._failure is not None:
                raise self._failure
            return () if self._finished else None
        return self._shelf.group()

    async def seek(self, index: int) -> None:
        self._wanted = index
        if index < self._shelf.at:
            # When the chunks are lost, the journal may be too.
            self._doubtful = True
            self._heard.set()
        if self._shelf.put_back(index):
            return
        if index < self._shelf.at:
            self._live = self._pipeline.live(unit=self._unit)
            self._fed, self._finished = 0, False
            self._shelf = Shelf()
        turn = Turn()
        while not self._ready() and self._read_one():
            await turn.over()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # --- journal to chunks

    def _ready(self) -> bool:
        """Whether there is a chunk that is wanted; passes over those that are not."""
        shelf = self._shelf
        while shelf.ready and shelf.at < self._wanted:
            shelf.take()
        return bool(shelf.ready)

    def _read_one(self) -> bool:
        """Makes chunks of the next entry. False: there is none."""
        if self._finished or self._fed == len(self._journal.entries):
            return False
        name, data = self._journal.entries[self._fed]
        self._fed += 1
        chunks: list[Chunk] = []
        try:
            chunks = self._live.feed(data["text"]) if name == TEXT else self._live.finish()
        except HubError as error:
            # Too long, or nothing that may be shown: what there is stays.
            self._error = error
        if name == END:
            self._finished = True
            self._error = _error_of(data["error"]) or self._error
        self._shelf.ready.extend(chunks)
        return True

    def _read_all(self) -> None:
        while self._read_one():
            pass

    def _end(self) -> dict[str, Any] | None:
        """How the text ended, if the journal says so."""
        last = self._journal.entries[-1:]
        return last[0][1] if last and last[0][0] == END else None

    # --- model to journal

    async def _listen(self) -> None:
        written = "".join(data["text"] for name, data in self._journal.entries if name == TEXT)
        try:
            async with aclosing(self._writer.write(self._prompt, self._provider, written)) as text:
                async for piece in text:
                    if isinstance(piece, Outcome):
                        self._outcome = piece
                    else:
                        self._spoken.append(piece)
                    self._heard.set()
        except Exception:
            log.exception("the writer failed")
            self._fail(HubError(ErrorCode.INTERNAL, "the assistant failed; it is in the hub's log"))

    async def _write_down(self) -> None:
        try:
            while True:
                await self._heard.wait()
                self._heard.clear()
                if self._doubtful:
                    self._doubtful = False
                    await self._journal.repair()
                await self._journal.write(self._entries())
                if self._outcome is not None and not self._spoken and self._end() is None:
                    await self._journal.write([(END, _end_entry(self._outcome))])
                self._stir()
                await asyncio.sleep(_GATHER_S)
        except TakenOver as taken:
            self._fail(taken)
        except Exception:
            log.exception("dictation not written down")
            self._fail(HubError(ErrorCode.INTERNAL, "the text could not be kept; it is in the hub's log"))

    def _entries(self) -> list[Entry]:
        text = "".join(self._spoken)
        self._spoken.clear()
        return [(TEXT, {"text": text[at : at + _MOST_PIECE_CHARS]}) for at in range(0, len(text), _MOST_PIECE_CHARS)]

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._stir()


def _end_entry(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "provider": outcome.provider,
        "bytes": outcome.bytes,
        "error": None
        if error is None
        else {
            "code": str(error.code),
            "message": error.message,
            "retry": error.retry,
            "retry_after_ms": error.retry_after_ms,
            "details": error.details,
        },
    }


def _error_of(data: dict[str, Any] | None) -> HubError | None:
    if data is None:
        return None
    return HubError(
        ErrorCode(data["code"]),
        data["message"],
        retry=data["retry"],
        retry_after_ms=data["retry_after_ms"],
        details=data["details"],
    )


def _nothing() -> None:
    """Nobody waits yet."""
