"""What an upload reads: a file by its path, an open file, or bytes. In pieces, in a thread, never all at once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from msgspec import Struct

Readable = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview

_DIGEST_BYTES = 1_048_576
_FILE_FIRST = "it cannot be read again after a lost connection; write it to a file first"
_METHODS = ("readinto", "seek", "tell", "seekable", "read")


class SourceProblem(Exception):
    """The file cannot be read as it was when the upload began. The text says what happened."""


class Source(Protocol):
    """Bytes that stay as they are, or else whoever reads is told."""

    size: int
    name: str | None
    """Its own name, without folders."""

    async def read(self, at: int, into: memoryview) -> None:
        """Fills ``into`` with what begins at ``at``. Lets others have their turn. Raises ``SourceProblem``."""

    async def check(self) -> None:
        """Raises ``SourceProblem`` if it is not what it was when it was opened."""

    async def close(self) -> None:
        """Waits for a read that is still under way. Closes what was opened here."""


def check_readable(given: object) -> None:
    """Raises ``TypeError`` for what ``open_source`` can never read. Touches no file."""
    if isinstance(given, bytes | bytearray | memoryview):
        if not memoryview(given).c_contiguous:
            raise TypeError("the memory to be uploaded must be in one piece")
    elif isinstance(given, io.TextIOBase):
        raise TypeError("the file to be uploaded was opened as text; open it with mode 'rb'")
    elif not isinstance(given, str | os.PathLike) and not all(hasattr(given, name) for name in _METHODS):
        raise TypeError(f"a path, an open binary file or bytes can be uploaded, not {type(given).__name__}")


async def open_source(given: Readable) -> Source:
    """A path is opened and closed here. An open file is read from where it stands to its end, must be seekable, is not
    closed, and belongs to the upload until that is over. Raises ``SourceProblem``.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return _Bytes(memoryview(given).cast("B"))
    opening = asyncio.ensure_future(asyncio.to_thread(_opened, given))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    except Exception as problem:  # an open file may be anybody's class
        name = os.fspath(given) if isinstance(given, str | os.PathLike) else "the file"
        raise SourceProblem(f"{name!s} cannot be read: {problem}") from problem


async def sha256_of(source: Source, on_progress: Callable[[int], None]) -> str:
    """Of all its bytes. Raises ``SourceProblem``."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_DIGEST_BYTES, source.size)))
    at = 0
    while at < source.size:
        piece = buffer[: source.size - at]
        await source.read(at, piece)
        await asyncio.to_thread(digest.update, piece)
        at += len(piece)
        on_progress(at)
    return digest.hexdigest()


class _Bytes:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.size = len(data)
        self.name: str | None = None

    async def read(self, at: int, into: memoryview) -> None:
        into[:] = self._data[at : at + len(into)]
        await asyncio.sleep(0)

    async def check(self) -> None:
        pass

    async def close(self) -> None:
        pass


class _Look(Struct, frozen=True):
    """What a file can be told by. What is no file of the system (``io.BytesIO``, for example) has no time."""

    size: int
    changed_ns: int | None


class _File:
    """All that touches the file happens in a thread, one thing at a time."""

    def __init__(self, file: Any, name: str | None, *, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self._base = file.tell()
        self._lock = threading.Lock()
        self._first = self._look()
        self.size = self._first.size
        self.name = name

    async def read(self, at: int, into: memoryview) -> None:
        await self._in_thread(self._read, at, into)

    async def check(self) -> None:
        await self._in_thread(self._check)

    async def close(self) -> None:
        # Also when whoever waits for it is cancelled.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.close_now))

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
        except SourceProblem:
            raise
        except Exception as problem:  # somebody has closed the file, or its class fails in a way of its own
            raise SourceProblem(f"{self.name or 'the file'} cannot be read: {problem}") from problem

    def _read(self, at: int, into: memoryview) -> None:
        with self._lock:
            self._file.seek(self._base + at)
            filled = 0
            while filled < len(into):
                count = self._file.readinto(into[filled:])
                if not count:
                    raise SourceProblem(f"{self.name or 'the file'} has become smaller while it was read")
                filled += count

    def _check(self) -> None:
        with self._lock:
            now = self._look()
        if now.size != self.size:
            raise SourceProblem(f"{self.name or 'the file'} had {self.size} bytes, and has {now.size} now")
        if now != self._first:
            raise SourceProblem(f"{self.name or 'the file'} was written to meanwhile")

    def _look(self) -> _Look:
        size = self._file.seek(0, os.SEEK_END) - self._base
        with suppress(OSError, AttributeError):
            return _Look(size, os.stat(self._file.fileno()).st_mtime_ns)
        return _Look(size, None)

    def close_now(self) -> None:
        with self._lock:
            if self._owned:
                self._file.close()


def _close_unwanted(opening: asyncio.Future[_File]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close_now()


def _opened(given: str | os.PathLike[str] | BinaryIO) -> _File:
    if isinstance(given, str | os.PathLike):
        kind = os.stat(given).st_mode  # to open a pipe would be to wait for whoever writes into it
        if not stat.S_ISREG(kind):
            raise ValueError("it is a folder" if stat.S_ISDIR(kind) else f"it is a pipe or a device; {_FILE_FIRST}")
        file = open(given, "rb", buffering=0)  # noqa: SIM115 - closed by _File
        try:
            return _File(file, Path(given).name, owned=True)
        except BaseException:
            file.close()
            raise
    if not given.seekable():
        raise ValueError(_FILE_FIRST)
    if isinstance(given.read(0), str):
        raise ValueError("it was opened as text; open it with mode 'rb'")
    name = getattr(given, "name", None)
    return _File(given, Path(name).name if isinstance(name, str) and name else None, owned=False)
