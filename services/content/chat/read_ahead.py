"""Reads a text as fast as it is written, whatever the pace of the client for whom it is written.

The writer's time-outs run while its reader is busy; so nobody who reads slowly may hold it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import structlog

from hub.api import ErrorCode, HubError
from services.content.assistant import Outcome
from services.content.chat.words import own_fault

_log = structlog.get_logger(__name__)


class Taken(NamedTuple):
    """All that was written since the last time; ``end`` when nothing will follow."""

    text: str
    end: Outcome | HubError | None


class ReadAhead:
    """Needs a running event loop, and to be closed. Who lets more than ``most_bytes`` lie has ended the text."""

    def __init__(self, pieces: AsyncGenerator[str | Outcome, None], most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._waiting: list[str] = []
        self._size = 0
        self._end: Outcome | HubError | None = None
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._run(pieces), name="read-ahead")

    async def take(self) -> Taken:
        """Waits until there is something, and takes all of it. May be cancelled without losing anything."""
        await self._news.wait()
        self._news.clear()
        text, self._size = "".join(self._waiting), 0
        self._waiting.clear()
        return Taken(text, self._end)

    def end(self, error: HubError) -> None:
        """Ends the text with ``error``, unless it has ended; what lies there can still be taken."""
        if self._end is None:
            self._end = error
            self._reading.cancel()
            self._news.set()

    async def close(self) -> None:
        """Ends the text, if it is still being written: the provider's call is over when this returns."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _run(self, pieces: AsyncGenerator[str | Outcome, None]) -> None:
        try:
            async with aclosing(pieces):
                self._end = await self._read(pieces)
        except Exception:
            _log.exception("writer failed")
            self._end = own_fault()
        finally:
            self._news.set()

    async def _read(self, pieces: AsyncGenerator[str | Outcome, None]) -> Outcome | HubError:
        async for piece in pieces:
            if isinstance(piece, Outcome):
                return piece
            # What lies there alone was just written, however long it is: nobody has had the time to take it.
            size = self._size + len(piece.encode())
            if self._size and size > self._most_bytes:
                return _too_slow(self._most_bytes)
            self._size = size
            self._waiting.append(piece)
            self._news.set()
        raise RuntimeError("the writer said nothing of how the text ended")


def _too_slow(most_bytes: int) -> HubError:
    return HubError(
        ErrorCode.TIMEOUT,
        f"more than {most_bytes} bytes of text waited to be read; read faster, or ask for less",
        details={"unread_bytes": most_bytes},
    )
