"""The writers of this node: at most one of an upload, and how one takes over from another, here or on another node."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId, not_found, unavailable
from services.uploads.metrics import UploadMetrics
from services.uploads.names import PROGRESS, upload_topic
from services.uploads.records import Records
from services.uploads.rows import tags_of
from services.uploads.shapes import State, Upload
from services.uploads.store import Store
from services.uploads.writer import OnAck, OnEnd, Writer

_PURPOSE: Final = "uploads"
_LEAST_WINDOW_CHUNKS: Final = 2
_LOOK_S: Final = 0.05
_TOKEN_BYTES: Final = 9

Key = tuple[OrgId, str]

_log = structlog.get_logger(__name__)


class Writers:
    """See the module. ``on_received``: what is told when an upload's last byte is there."""

    def __init__(self, hub: Hub, records: Records, store: Store, metrics: UploadMetrics) -> None:
        self._hub = hub
        self._settings = hub.settings
        self._records = records
        self._store = store
        self._metrics = metrics
        self._writers: dict[Key, Writer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_at: dict[Key, float] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}
        """Of each upload one waits for its writer on another node, however many want to go on with it."""
        self._opening = 0
        self._last: dict[Key, asyncio.Event] = {}
        """Of each upload, who came last to write it; set when that one does, or has given up. As many as open."""
        self._closing = False
        self.held = 0
        """Bytes that all writers may hold: what was granted and is not acknowledged."""
        self.on_received: Callable[[OrgId, str], None] = lambda _org, _upload: None
        hub.broadcasts.on(_PURPOSE, self._receive)

    def window(self, held: int) -> int:
        """Bytes that a writer may hold now that holds ``held``: its share, as far as others have left it.

        Two chunks at least, or nobody could send anything.
        """
        settings = self._settings
        fair = settings.uploads_memory_bytes // max(1, len(self._writers))
        left = settings.uploads_memory_bytes - self.held + held
        least = _LEAST_WINDOW_CHUNKS * settings.uploads_chunk_bytes
        return max(least, min(fair, left, settings.uploads_window_bytes))

    def check_room(self, org: OrgId) -> None:
        """Raises ``unavailable`` when this node takes bytes of as many uploads as it may, or is leaving."""
        settings = self._settings
        of_org = sum(1 for key in self._writers if key[0] == org)
        if (
            self._closing
            or len(self._writers) + self._opening >= settings.uploads_writers
            or of_org >= settings.uploads_writers_per_org
        ):
            raise unavailable("a node for this upload")

    async def open(self, org: OrgId, upload_id: str, *, on_ack: OnAck, on_end: OnEnd, hold: bool = False) -> Writer:
        """A writer that counts from now on. The one before is asked to finish, and given ``uploads_release_s`` for it.

        ``on_ack``: called with the new offset each time some more is acknowledged; ``on_end``: once, with what ended
        it (None: its own ``finish``, or all bytes are there). Raises ``not_found``, ``conflict`` in another state than
        receiving, ``quota_exceeded`` for an upload in too many parts, ``unavailable``.

        On this node they take over in the order in which they come: of two requests the older one may be dead, since
        browsers repeat what was on a connection that broke.
        """
        self.check_room(org)
        key = (org, upload_id)
        before, mine = self._last.get(key), asyncio.Event()
        self._last[key] = mine
        self._opening += 1
        try:
            if before is not None:
                await before.wait()
            return await self._seized(key, on_ack, on_end, hold=hold)
        finally:
            self._opening -= 1
            mine.set()
            if self._last.get(key) is mine:
                del self._last[key]

    async def _seized(self, key: Key, on_ack: OnAck, on_end: OnEnd, *, hold: bool) -> Writer:
        await self._ask_to_finish(*key, taken_over())
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        seized = await self._records.seize(*key, token)
        if seized is None:
            raise not_found("upload")
        if self._closing:
            await self._records.release(*key, token)
            raise unavailable("a node for this upload")
        upload, parts = seized
        if (other := self._writers.get(key)) is not None:
            other.stop(taken_over())  # it came while this one did, and does not count any more
        tools = (self._records, self._store, self._settings, self)
        writer = Writer(upload, token, tools, (self._acknowledged(upload, on_ack), on_end), parts=parts, hold=hold)
        self._writers[key] = writer
        self._metrics.writers.inc()
        self._spawn(self._run(key, writer))
        return writer

    async def finish(self, org: OrgId, upload_id: str, farewell: HubError) -> None:
        """Whoever writes this upload, on whichever node, is asked to finish; returns when it has, or after a while."""
        await self._ask_to_finish(org, upload_id, farewell)

    async def stop(self, org: OrgId, upload_id: str, error: HubError) -> None:
        """The upload has ended: whoever still writes it, on whichever node, stops at once."""
        own = self._writers.get((org, upload_id))
        if own is not None:
            own.stop(error)
            await own.ended.wait()
        else:
            await self._tell_others(org, upload_id, None, error)

    async def close(self) -> None:
        """All finish: what has come is acknowledged, and other nodes may go on."""
        self._closing = True
        leaving = unavailable("this node, which is leaving,")
        for writer in list(self._writers.values()):
            self._spawn(_finished(writer, leaving))
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, key: Key, writer: Writer) -> None:
        try:
            await writer.run()
        finally:
            self._metrics.writers.dec()
            if self._writers.get(key) is writer:
                del self._writers[key]
                self._told_at.pop(key, None)
        if writer.acknowledged == writer.size and not writer.upload.partial:
            self.on_received(*key)

    async def _ask_to_finish(self, org: OrgId, upload_id: str, farewell: HubError) -> None:
        key = (org, upload_id)
        own = self._writers.get(key)
        if own is not None:
            self._spawn(_finished(own, farewell))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.uploads_release_s):
                    await own.ended.wait()
            return
        token = await self._records.writer(org, upload_id)
        if token is None:
            return
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = self._spawn(self._wait_for_other(key, token, farewell))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        await asyncio.wait([asking])

    async def _wait_for_other(self, key: Key, token: str, farewell: HubError) -> None:
        """Until the writer of this token has finished. One that does not is dead, or hangs: it counts no more."""
        try:
            await self._tell_others(*key, token, farewell)
            for _ in range(math.ceil(self._settings.uploads_release_s / _LOOK_S)):
                if await self._records.writer(*key) != token:
                    return
                await asyncio.sleep(_LOOK_S)
            await self._records.release(*key, token)
        except HubError as error:
            _log.info("upload_writer_not_asked", reason=error.message)

    async def _tell_others(self, org: OrgId, upload_id: str, token: str | None, error: HubError) -> None:
        """``token``: of the writer that is meant; None: whoever it is."""
        told = {"token": token, "code": error.code.value, "message": error.message, "details": error.details}
        try:
            await self._hub.broadcasts.send(_PURPOSE, org, upload_id, told)
        except HubError as failure:
            _log.info("upload_writer_not_told", reason=failure.message)

    def _receive(self, org: OrgId, upload_id: str, told: dict[str, Any]) -> None:
        """Another node wants to go on with an upload, or its owner wants something else."""
        writer = self._writers.get((org, upload_id))
        if writer is None:
            return
        error = HubError(ErrorCode(told["code"]), told["message"], details=told.get("details"))
        if told["token"] is None:
            writer.stop(error)
        elif told["token"] == writer.token:  # not one that has just taken over from it
            self._spawn(_finished(writer, error))

    def _acknowledged(self, upload: Upload, on_ack: OnAck) -> OnAck:
        key = (upload.org, upload.id)
        before = upload.offset

        def acknowledged(offset: int) -> None:
            nonlocal before
            self._metrics.stored(offset - before)
            before = offset
            on_ack(offset)
            now = time.monotonic()
            if now - self._told_at.get(key, 0.0) >= self._settings.uploads_progress_s and offset < upload.size:
                self._told_at[key] = now
                self._spawn(self._tell_progress(upload, offset))

        return acknowledged

    async def tell_paused(self, upload: Upload) -> None:
        """Whoever watches learns that its owner has paused it."""
        await self._tell_progress(upload, upload.offset, paused=True)

    async def _tell_progress(self, upload: Upload, offset: int, *, paused: bool = False) -> None:
        data = {"offset": offset, "size": upload.size, "state": State.RECEIVING.value, "paused": paused}
        topic = upload_topic(upload.id)
        try:
            await self._hub.publish(
                upload.org, topic, PROGRESS, data, tags=tags_of(upload.metadata), ephemeral=True, by=upload.owner
            )
        except HubError as error:
            _log.debug("upload_progress_not_told", reason=error.message)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="upload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _finished(writer: Writer, farewell: HubError) -> None:
    try:
        await writer.finish(farewell)
    except HubError as error:
        _log.debug("upload_writer_ended", code=error.code)


def taken_over() -> HubError:
    """Why a writer ends when another one goes on."""
    return HubError(ErrorCode.CONFLICT, "another connection has gone on with this upload")
