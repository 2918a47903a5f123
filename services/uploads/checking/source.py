"""A file under examination: random access by blocks, within a time, and so that the event loop's thread gets its turns.

Whoever reads a file of a stranger reads it through this. What the store's reader raises is told apart from what a
decoder raises over bad bytes: ``fault``.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from hub.api import ErrorCode
from services.uploads.checking.facts import Rejected, too_large

BLOCK = 262_144
_MAX_READS = 262_144  # of headers
# Examination is Python that holds the interpreter's lock: after so much of it the event loop gets a turn.
_TURN_S = 0.001
_PAUSE_S = 0.0001


class Budget:
    """The time that one examination may take, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        now = time.monotonic()
        self._ends = now + seconds
        self._turn = now + _TURN_S

    def tick(self) -> None:
        """Called in every loop over a file. Raises ``Rejected`` when the time is over."""
        now = time.monotonic()
        if now >= self._ends:
            raise Rejected(
                ErrorCode.TIMEOUT,
                f"looking into the file takes longer than {self._seconds:g} s; split it, or make it simpler",
            )
        if now >= self._turn:
            time.sleep(_PAUSE_S)
            self._turn = time.monotonic() + _TURN_S

    def share(self, part: float) -> Budget:
        """A part of what is left, for work that may end early."""
        return Budget(max(0.0, self._ends - time.monotonic()) * part)


class Source(io.RawIOBase):
    """``size`` bytes of ``file``, which nobody else reads meanwhile."""

    def __init__(self, file: BinaryIO, size: int, budget: Budget) -> None:
        super().__init__()
        self.size = size
        self.budget = budget
        self.fault: BaseException | None = None
        self._file = file
        self._position = 0
        self._at = 0  # where the block at hand begins
        self._block = b""

    def at(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset``, fewer at the end. Costs a read of the store only once per block."""
        offset = max(0, offset)
        end = min(self.size, offset + count)
        if offset >= end:
            return b""
        if not (self._at <= offset and end <= self._at + len(self._block)):
            self._at = offset
            self._block = self._fetch(offset, max(end - offset, min(BLOCK, self.size - offset)))
        start = offset - self._at
        return self._block[start : start + end - offset]

    def around(self, offset: int) -> tuple[bytes, int]:
        """The block at hand, or another, and where in it ``offset`` lies, which is before the end. For searches that
        begin at many places: nothing is read twice, or copied."""
        if not self._at <= offset < self._at + len(self._block):
            self.at(offset, 1)
        return self._block, offset - self._at

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes in order, in pieces of ``BLOCK``."""
        stop = self.size if end is None else min(end, self.size)
        while start < stop:
            piece = self.at(start, min(BLOCK, stop - start))
            if not piece:
                return
            start += len(piece)
            yield piece

    def _fetch(self, offset: int, count: int) -> bytes:
        self.budget.tick()
        pieces = []
        try:
            self._file.seek(offset)
            while count > 0:
                piece = self._file.read(count)
                if not piece:
                    raise OSError(f"the store has {count} bytes less of the file than its record says")
                pieces.append(bytes(piece))
                count -= len(piece)
        except BaseException as error:
            self.fault = error
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._position, self.size)[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.at(self._position, min(len(view), BLOCK))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class Headers(Source):
    """For decoders that should look at headers only: they get ``limit`` bytes in all, and so many times some. More
    raises ``Rejected``."""

    def __init__(self, source: Source, limit: int) -> None:
        super().__init__(source._file, source.size, source.budget)
        self._left = limit
        self._reads_left = _MAX_READS

    def read(self, count: int = -1) -> bytes:
        wanted = min(self.size - self._position if count < 0 else count, max(0, self.size - self._position))
        self.budget.tick()
        self._left -= wanted
        self._reads_left -= 1
        if self._left < 0 or self._reads_left < 0:
            raise too_large("the headers of the file are too large to look at; save it without its metadata")
        data = self.at(self._position, wanted)
        self._position += len(data)
        return data
