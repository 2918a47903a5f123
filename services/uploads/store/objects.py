"""A store in a bucket: S3, Google Cloud Storage, Azure, through obstore. Each block of a writer is an object.

Names below the bucket are made here in full: obstore's own prefixes are applied twice by some of its functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, TypeVar, cast

import obstore
from obstore.exceptions import BaseError, NotFoundError

from hub.api import OrgId
from services.uploads.store.failing import Lost, failed
from services.uploads.store.names import PARTS, check_part_path, content_path, is_name, part_path, upload_path
from services.uploads.store.threads import Threads
from services.uploads.store.words import READ_BYTES, Digest, Part, Piece, SpentStretch

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore.store import ObjectStore as Bucket

T = TypeVar("T")

_MIB: Final = 1_048_576
# What is fetched by one request, and how much of it may wait: who joins and checks wants it all soon, who downloads may
# be slow, and there may be many of them.
_JOIN_STEP_BYTES = 4 * _MIB
_JOIN_AHEAD_BYTES = 12 * _MIB
_READ_STEP_BYTES = _MIB
_READ_AHEAD_BYTES = 3 * _MIB
_MOST_REQUESTS = 16
# A content is sent in parts of its own. S3 takes 10 000 of them, of at least 5 MiB.
_SENT_BYTES = 8 * _MIB
_MOST_SENT = 9000
_SENT_AT_ONCE = 2
_PAGE = 1000
_PROBE: Final = b"hub"
_MOST_PAGES = 1000
# What stands in the answers of stores without room: S3 and MinIO, Ceph, plain HTTP.
_FULL_ANSWERS = ("XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507 Insufficient Storage")


class Span(NamedTuple):
    """Some bytes of an object."""

    path: str
    start: int
    end: int


class ObjectStore:
    """Keeps the promises of ``words.Store``. ``prefix``: the path in the bucket below which everything is, or empty."""

    parts_grow = False

    def __init__(self, bucket: Bucket, prefix: str, *, block_bytes: int, threads: int, timeout_s: float) -> None:
        self.block_bytes = block_bytes
        self._bucket = bucket
        self.prefix = prefix
        self._threads = Threads(threads, timeout_s)
        self._timeout_s = timeout_s

    async def start(self) -> None:
        """Asks nothing: a node starts, too, when its bucket does not answer just now."""

    async def close(self) -> None:
        """Waits for threads that hash."""
        await self._threads.close()

    async def probe(self) -> None:
        """By an object below the prefix."""
        path = f".probe-{secrets.token_hex(8)}"
        with _told(logged=False):
            await self._ask(obstore.put_async(self._bucket, self._name(path), _PROBE, use_multipart=False))
            found = await self._fetch(Span(path, 0, len(_PROBE)))
            await self._folders(self.prefix)
            await self._ask(obstore.delete_async(self._bucket, [self._name(path)]))
            if bytes(found) != _PROBE:
                raise OSError("what was written is not what is read")

    def stretch(self, org: OrgId, upload: str, token: str) -> ObjectStretch:
        """Objects named ``<token>-<number>``."""
        return ObjectStretch(self, part_path(org, upload, token))

    async def put(self, path: str, pieces: Sequence[Piece], digest: Digest | None) -> None:
        """Makes one object of ``pieces``. Raises ``HubError``."""
        with _told():
            # Off the event loop: joining four megabytes takes a millisecond.
            data = await self._threads.run(partial(b"".join, pieces))
            await self._ask(obstore.put_async(self._bucket, self._name(path), data, use_multipart=False))
            await self._see(data, digest)

    async def drop(self, paths: Sequence[str]) -> None:
        """Removes objects, if they are there. Raises ``HubError``."""
        with _told():
            for start in range(0, len(paths), _PAGE):
                names = [self._name(path) for path in paths[start : start + _PAGE]]
                with contextlib.suppress(FileNotFoundError, NotFoundError):
                    await self._ask(obstore.delete_async(self._bucket, names))

    async def join(self, org: OrgId, upload: str, parts: Sequence[Part], digest: Digest | None) -> None:
        """A copy within the bucket, if it is one part of its own; else all bytes come here and go back."""
        folder, content = upload_path(org, upload), content_path(org, upload)
        for part in parts:
            check_part_path(org, part.object)
        with _told():
            if not await self._join_at_once(folder, content, parts):
                await self._join_streamed(content, parts, digest)
            elif digest is not None:
                await self._digest(content, digest)

    async def _join_at_once(self, folder: str, content: str, parts: Sequence[Part]) -> bool:
        if await self._size(content) == sum(part.size for part in parts):
            return True  # it comes into being in one step, so it is all there
        if len(parts) != 1 or not parts[0].object.startswith(f"{folder}/"):
            return False
        if await self._size(parts[0].object) != parts[0].size:
            return False
        await self._ask(obstore.copy_async(self._bucket, self._name(parts[0].object), self._name(content)))
        return True

    async def _join_streamed(self, content: str, parts: Sequence[Part], digest: Digest | None) -> None:
        sent = max(_SENT_BYTES, -(-sum(part.size for part in parts) // _MOST_SENT))
        spans = (span for part in parts for span in _spans(part.object, 0, part.size, _JOIN_STEP_BYTES))
        writer = obstore.open_writer_async(
            self._bucket, self._name(content), buffer_size=sent, max_concurrency=_SENT_AT_ONCE
        )
        try:
            async with aclosing(self._fetched(spans, _JOIN_AHEAD_BYTES)) as fetched:
                async for data in fetched:
                    await self._see(data, digest)
                    await self._ask(writer.write(data))
        except BaseException as error:
            # Left by an exception, the writer takes back what it has sent. Else the bucket's rules have to.
            with contextlib.suppress(BaseError, OSError):
                await self._ask(writer.__aexit__(type(error), error, error.__traceback__))
            raise
        await self._ask(writer.close())

    async def digest(self, org: OrgId, upload: str, digest: Digest) -> None:
        """Some requests at a time."""
        content = content_path(org, upload)
        with _told(missing="content"):
            await self._digest(content, digest)

    async def _digest(self, content: str, digest: Digest) -> None:
        meta = await self._ask(obstore.head_async(self._bucket, self._name(content)))
        spans = _spans(content, 0, meta["size"], _JOIN_STEP_BYTES)
        async with aclosing(self._fetched(spans, _JOIN_AHEAD_BYTES)) as fetched:
            async for data in fetched:
                await self._see(data, digest)

    def reader(self, org: OrgId, upload: str) -> BinaryIO:
        """Asks for a megabyte at a time."""
        path = self._name(content_path(org, upload))
        with _told(missing="content"):
            size = obstore.head(self._bucket, path)["size"]
        return cast(BinaryIO, io.BufferedReader(_Content(self._bucket, path, size), _READ_STEP_BYTES))

    async def read(self, org: OrgId, upload: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Some requests at a time."""
        spans = _spans(content_path(org, upload), start, end, _READ_STEP_BYTES)
        with _told(missing="content"):
            async with aclosing(self._fetched(spans, _READ_AHEAD_BYTES)) as fetched:
                async for data in fetched:
                    for at in range(0, len(data), READ_BYTES):
                        yield bytes(data[at : at + READ_BYTES])

    async def clear(self, org: OrgId, upload: str) -> None:
        """By a list of what is there. A join that was killed may have left bytes that only rules of the bucket find."""
        folder = f"{upload_path(org, upload)}/{PARTS}"
        with _told():
            await self._remove_below(folder)

    async def remove(self, org: OrgId, upload: str) -> None:
        """By a list of what is there."""
        folder = upload_path(org, upload)
        with _told():
            await self._remove_below(folder)

    async def uploads(self) -> AsyncIterator[tuple[str, str]]:
        """In order. A bucket that is a file system inside may name removed ones for a while."""
        with _told():
            for org in filter(is_name, await self._folders(self.prefix)):
                for upload in filter(is_name, await self._folders(self._name(org))):
                    yield org, upload

    async def _fetched(self, spans: Iterator[Span], ahead_bytes: int) -> AsyncGenerator[memoryview, None]:
        """The bytes of each span, in order; those of later ones are asked for while earlier ones are used."""
        waiting: deque[asyncio.Task[memoryview]] = deque()
        held = 0
        try:
            for span in spans:
                size = span.end - span.start
                while waiting and (len(waiting) >= _MOST_REQUESTS or held + size > ahead_bytes):
                    data = await waiting[0]
                    waiting.popleft()
                    yield data
                    held -= len(data)
                waiting.append(asyncio.create_task(self._fetch(span)))
                held += size
            while waiting:
                data = await waiting[0]
                waiting.popleft()
                yield data
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _fetch(self, span: Span) -> memoryview:
        request = obstore.get_range_async(self._bucket, self._name(span.path), start=span.start, end=span.end)
        data = memoryview(await self._ask(request))
        if len(data) != span.end - span.start:
            raise Lost(f"{span.path} is shorter than it was")
        return data

    async def _size(self, path: str) -> int | None:
        try:
            return (await self._ask(obstore.head_async(self._bucket, self._name(path))))["size"]
        except FileNotFoundError:
            return None

    async def _remove_below(self, path: str) -> None:
        """A page after the other, until nothing is there."""
        for _ in range(_MOST_PAGES):
            listed = obstore.list(self._bucket, prefix=self._name(path), chunk_size=_PAGE)
            found = await self._ask(anext(aiter(listed), None))
            if not found:
                return
            # Somebody else may remove at the same time; some stores then leave the rest of a page.
            with contextlib.suppress(FileNotFoundError):
                await self._ask(obstore.delete_async(self._bucket, [meta["path"] for meta in found]))
        raise OSError(f"{path} has always more")

    async def _folders(self, name: str) -> list[str]:
        listed = await self._ask(obstore.list_with_delimiter_async(self._bucket, name or None))
        return sorted(folder.rpartition("/")[2] for folder in listed["common_prefixes"])

    async def _see(self, data: Piece, digest: Digest | None) -> None:
        if digest is not None:
            await self._threads.run(partial(digest.update, data))

    async def _ask(self, request: Awaitable[T]) -> T:
        async with asyncio.timeout(self._timeout_s):
            return await request

    def _name(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path


class ObjectStretch:
    """A numbered object for each write."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._count = 0
        self._spent = False

    async def write(self, pieces: Sequence[Piece], digest: Digest | None) -> Part:
        """Raises ``SpentStretch``."""
        if self._spent:
            raise SpentStretch
        self._spent = True
        path = f"{self._prefix}-{self._count}"
        await self._store.put(path, pieces, digest)
        self._count += 1
        self._spent = False
        return Part(path, sum(len(piece) for piece in pieces))

    async def close(self) -> None:
        """Holds nothing."""
        self._spent = True

    async def discard(self) -> None:
        """Also the one that may have failed only for us."""
        await self._store.drop([f"{self._prefix}-{number}" for number in range(self._count + 1)])


class _Content(io.RawIOBase):
    """A content, for threads."""

    def __init__(self, bucket: Bucket, path: str, size: int) -> None:
        self._bucket = bucket
        self._path = path
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("negative position in a content")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        target = memoryview(buffer).cast("B")
        data = self._take(len(target))
        target[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(partial(self._take, _JOIN_STEP_BYTES), b""))

    def _take(self, count: int) -> memoryview:
        end = min(self._at + count, self._size)
        if end <= self._at:
            return memoryview(b"")
        with _told():
            data = memoryview(obstore.get_range(self._bucket, self._path, start=self._at, end=end))
            if len(data) != end - self._at:
                raise Lost(f"{self._path} is shorter than it was")
        self._at = end
        return data


def _spans(path: str, start: int, end: int, step: int) -> Iterator[Span]:
    for at in range(start, end, step):
        yield Span(path, at, min(at + step, end))


@contextmanager
def _told(missing: str | None = None, *, logged: bool = True) -> Iterator[None]:
    """What obstore and the time limits raise comes out as ``HubError``."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        full = any(answer in str(error) for answer in _FULL_ANSWERS)
        raise failed(error, full=full, missing=missing, logged=logged) from error
