"""A store in a folder: plain files. What one writer brings is one file that grows, so an upload without a break is
joined by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from hub.api import ConfigError, HubError, OrgId
from services.uploads.store.failing import Lost, failed
from services.uploads.store.files import SharedFile, Tree, copy, copy_seen, forget, read_behind, write_all, write_behind
from services.uploads.store.names import CONTENT, check_part_path, content_path, is_name, part_path, upload_path
from services.uploads.store.threads import Threads
from services.uploads.store.words import READ_BYTES, Digest, Part, Piece, SpentStretch

T = TypeVar("T")

BLOCK_BYTES: Final = 1_048_576

# What one call does before others get its thread.
_COPY_STEP_BYTES = 16_777_216
_SEEN_STEP_BYTES = 4_194_304
_READER_BYTES = 65_536
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FolderStore:
    """Keeps the promises of ``words.Store``. Several nodes may have the same folder.

    ``durable``: everything is on the disk before it is said to be stored.
    """

    block_bytes = BLOCK_BYTES
    parts_grow = True

    def __init__(self, root: Path, *, durable: bool, threads: int, timeout_s: float) -> None:
        self._tree = Tree(root, durable=durable)
        self._threads = Threads(threads, timeout_s)

    async def start(self) -> None:
        """Makes the folder. Raises ``ConfigError`` when nothing can be written there."""
        try:
            await self._threads.run(self._tree.prepare)
        except OSError as error:
            raise ConfigError(f"HUB_UPLOADS_STORE: uploads cannot be kept in {self._tree.root}: {error}") from error

    async def probe(self) -> None:
        """By a file in the root."""
        try:
            await self._threads.run(self._tree.probe)
        except OSError as error:
            raise _told(error, logged=False) from error

    async def close(self) -> None:
        """Waits for what is under way."""
        await self._threads.close()

    def stretch(self, org: OrgId, upload: str, token: str) -> FolderStretch:
        """One file, named ``token``."""
        return FolderStretch(self._tree, part_path(org, upload, token), self._run)

    async def join(self, org: OrgId, upload: str, parts: Sequence[Part], digest: Digest | None) -> None:
        """A rename, if it is one part of its own that is as long as it should be; else a copy."""
        content = content_path(org, upload)
        for part in parts:
            check_part_path(org, part.object)
        if not await self._run(partial(self._join_at_once, upload_path(org, upload), content, parts)):
            await self._join_copied(
                f"{upload_path(org, upload)}/joining-{secrets.token_hex(8)}", content, parts, digest
            )
        elif digest is not None:
            await self.digest(org, upload, digest)

    def _join_at_once(self, folder: str, content: str, parts: Sequence[Part]) -> bool:
        if self._tree.size(content) == sum(part.size for part in parts):
            return True  # it comes into being in one step, so it is all there
        if len(parts) != 1 or not parts[0].object.startswith(f"{folder}/"):
            return False
        if self._tree.size(parts[0].object) != parts[0].size:
            return False
        self._tree.rename(parts[0].object, content)
        return True

    async def _join_copied(self, joining: str, content: str, parts: Sequence[Part], digest: Digest | None) -> None:
        target = SharedFile(partial(self._tree.create, joining))
        try:
            for part in parts:
                start = 0
                while start < part.size:
                    start += await self._run(partial(self._copy, part, start, target, digest))
            await self._run(partial(self._finish_copy, joining, content, target))
        except BaseException:
            with contextlib.suppress(HubError):  # the first failure is the one to tell; `clear` finds what is left
                await self._run(partial(self._forget_copy, joining, target))
            raise

    def _copy(self, part: Part, start: int, target: SharedFile, digest: Digest | None) -> int:
        """One step. Returns how many bytes it was."""
        end = min(part.size, start + (_COPY_STEP_BYTES if digest is None else _SEEN_STEP_BYTES))
        at = start
        with _opened(self._tree.open(part.object)) as source, target.used() as file:
            before = os.lseek(file, 0, os.SEEK_CUR)
            while at < end:
                if digest is None:
                    copied = copy(source, at, end - at, file)
                else:
                    copied = copy_seen(source, at, min(end - at, READ_BYTES), file, digest)
                if not copied:
                    raise Lost(errno.EIO, "a part is shorter than it was", part.object)
                at += copied
            forget(source, start, end - start)
            write_behind(file, before, before + end - start)
        return end - start

    def _finish_copy(self, joining: str, content: str, target: SharedFile) -> None:
        with target.used() as file:
            if self._tree.durable:
                os.fsync(file)
        target.close()
        self._tree.rename(joining, content)

    def _forget_copy(self, joining: str, target: SharedFile) -> None:
        target.close()
        self._tree.unlink(joining)

    async def digest(self, org: OrgId, upload: str, digest: Digest) -> None:
        """In steps, each in a thread."""
        source = SharedFile(partial(self._tree.open, content_path(org, upload)))
        at = 0
        try:
            while seen := await self._run(partial(_see, source, at, digest), missing="content"):
                at += seen
        finally:
            await self._run(source.close)

    def reader(self, org: OrgId, upload: str) -> BinaryIO:
        """A buffered file."""
        try:
            return os.fdopen(self._tree.open(content_path(org, upload)), "rb", _READER_BYTES)
        except OSError as error:
            raise _told(error, "content") from error

    async def read(self, org: OrgId, upload: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Each piece is read in a thread when it is asked for."""
        source = SharedFile(partial(self._tree.open, content_path(org, upload)))
        try:
            while start < end:
                piece = await self._run(partial(_pread, source, start, min(end - start, READ_BYTES)), missing="content")
                start += len(piece)
                yield piece
        finally:
            source.close()

    async def clear(self, org: OrgId, upload: str) -> None:
        """By what is there."""
        await self._run(partial(self._tree.empty, upload_path(org, upload), frozenset({CONTENT})))

    async def remove(self, org: OrgId, upload: str) -> None:
        """With its folder."""
        await self._run(partial(self._tree.remove, upload_path(org, upload)))

    async def uploads(self) -> AsyncIterator[tuple[str, str]]:
        """In order."""
        for org in filter(is_name, await self._run(partial(self._tree.folders, ""))):
            for upload in filter(is_name, await self._run(partial(self._tree.folders, org))):
                yield org, upload

    async def _run(self, call: Callable[[], T], missing: str | None = None) -> T:
        """In a thread; what goes wrong there comes out as ``HubError``, ``not_found`` when ``missing`` is not there."""
        try:
            return await self._threads.run(call)
        except OSError as error:
            raise _told(error, missing) from error


class FolderStretch:
    """A file that grows; there from the first write."""

    def __init__(self, tree: Tree, path: str, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._tree = tree
        self._durable = tree.durable
        self._path = path
        self._run = run
        self._file = SharedFile(partial(tree.create, path))
        self._size = 0
        self._spent = False

    async def write(self, pieces: Sequence[Piece], digest: Digest | None) -> Part:
        """Raises ``SpentStretch``."""
        if self._spent:
            raise SpentStretch
        self._spent = True
        await self._run(partial(self._write, pieces, digest))
        self._size += sum(len(piece) for piece in pieces)
        self._spent = False
        return Part(self._path, self._size)

    def _write(self, pieces: Sequence[Piece], digest: Digest | None) -> None:
        with self._file.used() as file:
            try:
                write_all(file, pieces)
                write_behind(file, self._size, self._size + sum(len(piece) for piece in pieces))
                if self._durable:
                    os.fsync(file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, self._size)  # room for others, when the store is full
                raise
        if digest is not None:
            for piece in pieces:
                digest.update(piece)

    async def close(self) -> None:
        """In a thread: some file systems write what they have only then."""
        self._spent = True
        await self._run(self._file.close)

    async def discard(self) -> None:
        """The file goes, if there is one."""
        await self._run(partial(self._tree.unlink, self._path))


@contextmanager
def _opened(file: int) -> Iterator[int]:
    try:
        yield file
    finally:
        os.close(file)


def _see(source: SharedFile, start: int, digest: Digest) -> int:
    """A step. Returns how many bytes it was; 0 at the end."""
    buffer = memoryview(bytearray(READ_BYTES))
    at = start
    with source.used() as file:
        while at < start + _SEEN_STEP_BYTES and (count := os.preadv(file, [buffer], at)):
            digest.update(buffer[:count])
            at += count
        read_behind(file, start, at)
    return at - start


def _pread(source: SharedFile, start: int, count: int) -> bytes:
    with source.used() as file:
        piece = os.pread(file, count, start)
    if not piece:
        raise Lost(errno.EIO, "the content is shorter than it was")
    return piece


def _told(error: OSError, missing: str | None = None, *, logged: bool = True) -> HubError:
    return failed(error, full=error.errno in _FULL, missing=missing, logged=logged)
