"""Between received and available: joins the parts, has the bytes looked at, and settles what they are.

Whatever fails here leaves the upload in the table, with a time when somebody has to look at it again: so a check that
was begun on a node that dies is done by another one, and nothing is served before one came to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, BinaryIO, Final, NamedTuple, cast

import msgspec
import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId
from services.uploads.checking import DocumentTypes, Facts, Rejected, Scanner, inspect
from services.uploads.endings import Endings, Verdict
from services.uploads.metrics import UploadMetrics
from services.uploads.names import new_id
from services.uploads.records import Records
from services.uploads.shapes import State, Upload
from services.uploads.store import BytesMissing, Store

_RENEWALS: Final = 3  # per lease: one may be lost
_MOST_DOUBLED: Final = 5

_log = structlog.get_logger(__name__)


class Tools(NamedTuple):
    """What a check is done with."""

    records: Records
    endings: Endings
    store: Store
    types: DocumentTypes
    scanner: Scanner | None
    metrics: UploadMetrics


class Checker:
    """``uploads_checks`` at a time; ``uploads_checks_waiting`` wait, in a line of each organisation.

    Organisations take turns, and the longest line gives way to a shorter one when there is no room.
    """

    def __init__(self, hub: Hub, tools: Tools) -> None:
        self._settings = hub.settings
        self._tools = tools
        self._lines: dict[OrgId, deque[str]] = {}
        """Whose turn is next stands first; none is empty."""
        self._waiting = 0
        self._known: set[tuple[OrgId, str]] = set()
        """Those in the line, and those that are being checked."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(hub.settings.uploads_checks, thread_name_prefix="uploads-check")
        self._closed = False

    async def close(self) -> None:
        """Those that are being checked are left to other nodes, at once."""
        self._closed = True
        self._lines.clear()
        self._waiting = 0
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        # Whoever reads is told to stop; what has no reader any more ends soon.
        await asyncio.to_thread(self._threads.shutdown)

    def room(self) -> int:
        """How many more find a place in the line."""
        return max(0, self._settings.uploads_checks_waiting - self._waiting)

    def begin(self, org: OrgId, upload: str) -> None:
        """Checks an upload soon. What finds no room stays in the table, and the janitor brings it again."""
        key = (org, upload)
        if self._closed or key in self._known or not (self.room() or self._give_way(org)):
            return
        self._known.add(key)
        self._lines.setdefault(org, deque()).append(upload)
        self._waiting += 1
        self._go_on()

    def _give_way(self, org: OrgId) -> bool:
        """The last of the longest line makes room for one of ``org``, unless that has as many."""
        longest = max(self._lines, key=lambda each: len(self._lines[each]))
        if len(self._lines[longest]) <= len(self._lines.get(org, ())) + 1:
            return False
        self._known.discard((longest, self._lines[longest].pop()))
        self._waiting -= 1
        return True

    def _next(self) -> tuple[OrgId, str]:
        org = next(iter(self._lines))
        line = self._lines.pop(org)
        upload = line.popleft()
        if line:
            self._lines[org] = line  # behind the others
        self._waiting -= 1
        return org, upload

    def _go_on(self) -> None:
        while self._waiting and len(self._tasks) < self._settings.uploads_checks:
            key = self._next()
            task = asyncio.create_task(self._take(*key), name="upload-check")
            self._tasks.add(task)
            task.add_done_callback(lambda done, key=key: self._done(done, key))  # type: ignore[misc]

    def _done(self, task: asyncio.Task[None], key: tuple[OrgId, str]) -> None:
        self._tasks.discard(task)
        self._known.discard(key)
        if not task.cancelled() and task.exception() is not None:
            _log.error("upload_check_failed", exc_info=task.exception())
        self._go_on()

    async def _take(self, org: OrgId, upload_id: str) -> None:
        token = new_id()
        try:
            upload = await self._tools.endings.claim(org, upload_id, token)
        except HubError as error:
            _log.info("upload_checked_later", reason=error.message)
            return
        if upload is not None:
            await _Check(upload, token, self._settings, self._tools, self._threads).run()


class _PartMissing(Exception):
    """What was acknowledged is gone from a store that is there. Waiting does not bring it back."""


class _Check:
    """One claim of one upload."""

    def __init__(self, upload: Upload, token: str, settings: Any, tools: Tools, threads: ThreadPoolExecutor) -> None:
        self._upload = upload
        self._token = token
        self._settings = settings
        self._tools = tools
        self._threads = threads
        self._sha256 = upload.sha256

    async def run(self) -> None:
        """To its end, or until the claim is lost; then another one has it."""
        try:
            if not await self._while_held(self._check()):
                _log.info("upload_check_lost", upload=self._upload.id)
        except asyncio.CancelledError:
            await self._again(0.0, counts=False)
            raise
        except HubError as error:
            _log.info("upload_checked_again", upload=self._upload.id, code=error.code, reason=error.message)
            await self._later(counts=error.code is not ErrorCode.UNAVAILABLE or isinstance(error, BytesMissing))
        except Exception:
            _log.exception("upload_check_failed", upload=self._upload.id, attempt=self._upload.attempts)
            await self._later(counts=True)

    async def _check(self) -> None:
        verdict = await self._verdict()
        settled = await self._tools.endings.settle(self._upload, self._token, verdict)
        if settled is None:
            return
        self._tools.metrics.ended(settled.state)
        try:
            if settled.state is State.AVAILABLE:
                await self._tools.store.clear(settled.org, settled.id)
            else:
                await self._tools.store.remove(settled.org, settled.id)
        except HubError as error:
            # The janitor does it later.
            _log.info("upload_cleared_later", upload=settled.id, reason=error.message)

    async def _verdict(self) -> Verdict:
        upload = self._upload
        if upload.attempts > self._settings.uploads_check_attempts:
            _log.error("upload_given_up", upload=upload.id, attempts=upload.attempts - 1)
            return self._rejected(ErrorCode.INTERNAL, "the file could not be checked; it is in the hub's log")
        await self._join()
        wanted = upload.sha256_wanted
        if wanted is not None and wanted != self._sha256:
            text = f"the bytes have the sha256 {self._sha256}, and {wanted} was said; upload the file again"
            return self._rejected(ErrorCode.CHECKSUM_MISMATCH, text)
        try:
            facts = await self._inspect()
        except Rejected as rejected:
            return self._rejected(rejected.code, rejected.message)
        if (found := await self._scan()) is not None:
            return found
        told = msgspec.to_builtins(facts)
        return Verdict(self._sha256, told.pop("media_type"), told)

    async def _join(self) -> None:
        upload, store = self._upload, self._tools.store
        digest = hashlib.sha256() if self._sha256 is None else None
        parts = await self._tools.records.parts(upload.org, upload.id)
        try:
            await store.join(upload.org, upload.id, parts, digest)
        except HubError as error:
            if isinstance(error.__cause__, FileNotFoundError) and await self._store_is_there():
                raise _PartMissing(f"a part of upload {upload.id} is not in the store") from error
            raise
        if digest is not None:
            self._sha256 = digest.hexdigest()

    async def _store_is_there(self) -> bool:
        """A folder that is not mounted lacks every part, and that is no fault of any upload."""
        found = cast(AsyncGenerator[tuple[str, str], None], self._tools.store.uploads())
        async with aclosing(found) as uploads:
            return await anext(uploads, None) is not None

    async def _inspect(self) -> Facts:
        file = _Stoppable()
        job = self._threads.submit(self._look, file)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            file.stop()
            raise

    def _look(self, file: _Stoppable) -> Facts:
        upload = self._upload
        try:
            kind = self._tools.types.get(upload.document_type)
        except HubError as error:
            raise Rejected(
                ErrorCode.UNSUPPORTED_MEDIA, f"{upload.document_type} is not a document type any more"
            ) from error
        with self._tools.store.reader(upload.org, upload.id) as content:
            file.content = content
            return inspect(cast(BinaryIO, file), upload.size, kind, upload.filename, self._settings)

    async def _scan(self) -> Verdict | None:
        """What the scanner makes of it, if that is the end of it."""
        scanner, upload = self._tools.scanner, self._upload
        if scanner is None:
            return None
        try:
            found = await scanner.scan(self._tools.store.read(upload.org, upload.id, 0, upload.size))
        except HubError as error:
            if error.code is ErrorCode.TOO_LARGE:
                return self._rejected(error.code, error.message)
            raise
        if found is None:
            return None
        _log.warning("upload_infected", upload=upload.id, found=found)
        return self._rejected(ErrorCode.UNSUPPORTED_MEDIA, f"the virus scanner has found {found} in the file")

    def _rejected(self, code: ErrorCode, message: str) -> Verdict:
        return Verdict(self._sha256, error=HubError(code, message))

    async def _while_held(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does ``work`` while the claim is renewed. False: it was lost, or nobody could be asked for too long."""
        task = asyncio.ensure_future(work)
        lease_s = self._settings.uploads_check_lease_s
        loop = asyncio.get_running_loop()
        until = loop.time() + lease_s
        try:
            while not (await asyncio.wait({task}, timeout=lease_s / _RENEWALS))[0]:
                asked = loop.time()
                held = await self._renew(until - asked)
                if held:
                    until = asked + lease_s
                elif held is False or loop.time() >= until:
                    return False
            task.result()
        finally:
            task.cancel()
            # What it comes to now is nobody's business any more: it may well fail by what has made the claim end.
            await asyncio.gather(task, return_exceptions=True)
        return True

    async def _renew(self, seconds: float) -> bool | None:
        """None: nobody could be asked."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._tools.endings.renew(self._upload.org, self._upload.id, self._token)
        except (HubError, TimeoutError):
            return None

    async def _later(self, *, counts: bool) -> None:
        """After each attempt that counts twice as long: others are checked meanwhile, and what was wrong may end."""
        doubled = min(self._upload.attempts - 1, _MOST_DOUBLED) if counts else 0
        await self._again(self._settings.uploads_check_lease_s * 2**doubled, counts=counts)

    async def _again(self, after_s: float, *, counts: bool) -> None:
        """Another check has to follow. If that cannot be said the claim ends by itself."""
        try:
            await self._tools.endings.postpone(self._upload, self._token, after_s, counts=counts)
        except HubError as error:
            _log.info("upload_check_not_released", upload=self._upload.id, reason=error.message)


class _Stoppable(io.RawIOBase):
    """A content that a thread reads, until it is told to stop."""

    content: BinaryIO

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False

    def stop(self) -> None:
        """The next read raises."""
        self._stopped = True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.content.seek(offset, whence)

    def read(self, count: int = -1) -> bytes:
        if self._stopped:
            raise InterruptedError("nobody waits for this check any more")
        return self.content.read(count)
