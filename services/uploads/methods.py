"""The methods of uploads, by name. Each checks its params and hands them to whoever does it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from hub.api import Caller, CallerMethod, ErrorCode, Handle, Hub, HubError, Method, OrgId, Principal
from services.uploads.access import Access
from services.uploads.asked import Create, ListUploads, OneUpload, ShareUpload, asked
from services.uploads.desk import Desk, Wanted
from services.uploads.intake import UploadIntake
from services.uploads.records import Records
from services.uploads.scopes import require
from services.uploads.shapes import State, Upload, shape
from services.uploads.writers import Writers

_CHUNK_HEAD_BYTES: Final = 256  # around its bytes in a message: 12, or a map of msgpack

_log = structlog.get_logger(__name__)


class Intakes:
    """All uploads that come over this node's sockets: opened here, kept alive by one clock."""

    def __init__(self, hub: Hub, writers: Writers) -> None:
        self._settings = hub.settings
        self._writers = writers
        self._intakes: set[UploadIntake] = set()
        """Bounded by the writers."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to repeat credits. ``close`` must follow."""
        self._clock = asyncio.create_task(self._tick(), name="upload-credit")

    async def close(self) -> None:
        """The writers have been closed before."""
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def check_room(self, org: OrgId) -> None:
        """Raises as ``Writers.check_room``, before anything is begun."""
        self._writers.check_room(org)

    @contextlib.contextmanager
    def reserved(self, caller: Caller) -> Iterator[tuple[UploadIntake, Handle]]:
        """A handle for what is looked for within the block: who has too many takes nothing from anybody.

        Given back when the block raises. Raises as ``Caller.open_handle``.
        """
        intake = UploadIntake(self._settings, self._spawn, self._intakes.discard)
        handle = caller.open_handle(intake)
        try:
            yield intake, handle
        except BaseException:
            handle.close()
            raise

    async def open(self, caller: Caller, reserved: tuple[UploadIntake, Handle], upload_id: str) -> dict[str, Any]:
        """Chunks of the handle belong to this upload now; what the client is answered. Raises as ``Writers.open``."""
        intake, handle = reserved
        writer = await self._writers.open(
            caller.principal.org, upload_id, on_ack=intake.acknowledged, on_end=intake.ended
        )
        intake.begin(writer, handle)
        self._intakes.add(intake)
        offset, window = intake.grant()
        return {
            "upload": upload_id,
            "topic": f"upload:{upload_id}",
            "handle": handle.number,
            "offset": offset,
            "size": writer.size,
            "chunk_bytes": min(
                self._settings.uploads_chunk_bytes, self._settings.max_message_bytes - _CHUNK_HEAD_BYTES
            ),
            "window": window,
            "expires_in_ms": max(0, (writer.upload.expires_at or 0) - int(time.time() * 1000)),
        }

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work, name="upload-intake")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.uploads_credit_s)
            for intake in list(self._intakes):
                try:
                    intake.tick(loop.time())
                except Exception:
                    _log.exception("upload_credit_failed")


class UploadMethods:
    """See the module."""

    def __init__(self, desk: Desk, records: Records, access: Access, intakes: Intakes) -> None:
        self._desk = desk
        self._records = records
        self._access = access
        self._intakes = intakes

    @property
    def callers(self) -> Mapping[str, CallerMethod]:
        """Those that open a handle."""
        return {"upload.create": self._create, "upload.resume": self._resume}

    @property
    def methods(self) -> Mapping[str, Method]:
        """The others."""
        return {
            "upload.begin": self._begin,
            "upload.pause": self._pause,
            "upload.cancel": self._cancel,
            "upload.status": self._status,
            "upload.list": self._list,
            "upload.share": self._share,
            "upload.unshare": self._unshare,
        }

    async def _begin(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        """For who has no socket: its bytes come by tus."""
        require(principal, "upload.create")
        wanted = _wanted(asked(Create, params, "upload.begin"))
        self._intakes.check_room(principal.org)
        upload, there = await self._desk.begin(principal, wanted)
        _check_begun(upload, there)
        return shape(upload, principal.user)

    async def _create(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        wanted = _wanted(asked(Create, params, "upload.create"))
        self._intakes.check_room(caller.principal.org)
        with self._intakes.reserved(caller) as reserved:
            upload, there = await self._desk.begin(caller.principal, wanted)
            _check_begun(upload, there)
            try:
                return await self._intakes.open(caller, reserved, upload.id)
            except HubError as error:
                # It is there; whoever does not know its name could not go on with it.
                error.details = (error.details or {}) | {"upload": upload.id}
                raise

    async def _resume(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        principal = caller.principal
        await self._pay(principal)
        with self._intakes.reserved(caller) as reserved:
            upload = await self._access.own(principal, asked(OneUpload, params, "upload.resume").upload)
            upload.check_receiving()
            return await self._intakes.open(caller, reserved, upload.id)

    async def _pause(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        await self._pay(principal)
        upload = await self._desk.pause(principal, asked(OneUpload, params, "upload.pause").upload)
        return shape(upload, principal.user)

    async def _cancel(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        await self._pay(principal)
        upload = await self._desk.cancel(principal, asked(OneUpload, params, "upload.cancel").upload)
        return shape(upload, principal.user)

    async def _status(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        await self._pay(principal)
        upload = await self._access.seen(principal, asked(OneUpload, params, "upload.status").upload)
        return shape(upload, principal.user)

    async def _list(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        it = asked(ListUploads, params, "upload.list")
        await self._pay(principal)
        uploads = await self._records.of_owner(principal.org, principal.user, it.limit + 1, it.state, it.after)
        page: list[Upload] = list(uploads[: it.limit])
        return {
            "uploads": [shape(upload, principal.user) for upload in page],
            "next": page[-1].id if len(uploads) > it.limit else None,
        }

    async def _share(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        it = asked(ShareUpload, params, "upload.share")
        await self._pay(principal)
        return shape(await self._desk.share(principal, it.upload, it.topics), principal.user)

    async def _unshare(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        it = asked(ShareUpload, params, "upload.unshare")
        await self._pay(principal)
        return shape(await self._desk.unshare(principal, it.upload, it.topics), principal.user)

    async def _pay(self, principal: Principal) -> None:
        await self._desk.reads.spend(principal.org, principal.user)


def _wanted(it: Create) -> Wanted:
    return Wanted(it.filename, it.size, it.document_type, it.metadata, it.sha256, it.key, it.shares)


def _check_begun(upload: Upload, there: bool) -> None:
    """The answer to an earlier one may have been lost: says what became of it. Raises ``conflict``."""
    if there and upload.state is not State.RECEIVING:
        details = {"state": upload.state.value, "upload": upload.id}
        raise HubError(ErrorCode.CONFLICT, f"the upload of this key is {upload.state}", details=details)
