"""Where uploads are begun, shared, paused and ended: what the socket's methods and tus have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId, Principal, bad_request
from services.uploads.access import Access
from services.uploads.asked import check_sha256, check_size, metadata
from services.uploads.checking import DocumentType, DocumentTypes, Rejected, check_filename
from services.uploads.metrics import UploadMetrics
from services.uploads.names import is_upload_topic, new_id, upload_topic
from services.uploads.records import NewUpload, Records
from services.uploads.shapes import State, Upload, wrong_state
from services.uploads.store import Store
from services.uploads.writer import paused
from services.uploads.writers import Writers

_LONGEST_NAME = 128

_log = structlog.get_logger(__name__)


class Wanted(NamedTuple):
    """An upload that somebody wants to begin."""

    filename: str
    size: int
    document_type: str
    metadata: Mapping[str, Any]
    sha256: str | None = None
    key: str | None = None
    shares: Sequence[str] = ()
    partial: bool = False


class Desk:
    """Every way to begin or change an upload ends here."""

    def __init__(
        self, hub: Hub, records: Records, access: Access, writers: Writers, store: Store, metrics: UploadMetrics
    ) -> None:
        settings = hub.settings
        self._hub = hub
        self._records = records
        self._access = access
        self._writers = writers
        self._store = store
        self._metrics = metrics
        self.types = DocumentTypes.load(settings)
        self._begins = hub.limits.bucket(
            "uploads",
            per_second=settings.uploads_creates_per_minute / 60,
            burst=settings.uploads_creates_burst,
            what="uploads",
        )
        self.reads = hub.limits.bucket(
            "upload-reads",
            per_second=settings.uploads_reads_per_second,
            burst=settings.uploads_reads_burst,
            what="questions about uploads",
        )
        self._chores: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Waits for what is being removed."""
        while self._chores:
            await asyncio.wait(self._chores)

    async def begin(self, principal: Principal, wanted: Wanted) -> tuple[Upload, bool]:
        """A new upload, or the one of this key: (upload, whether it was there).

        Raises ``bad_request``, ``empty_content``, ``too_large``, ``quota_exceeded``, ``rate_limited``; ``conflict``
        when the one of this key is to be another file.
        """
        await self._begins.spend(principal.org, principal.user)
        new = await self._new(principal, wanted)
        upload, there = await self._records.create(principal.org, new)
        if there:
            _check_same(upload, new)
        return upload, there

    async def concatenate(self, principal: Principal, wanted: Wanted, partials: Sequence[str]) -> Upload:
        """A new upload of the bytes of partial ones. Raises as ``begin``, ``not_found`` and ``conflict``."""
        await self._begins.spend(principal.org, principal.user)
        uploads = await self._access.all_own(principal, partials)
        size = sum(uploads[name].size for name in partials)
        # No key: what is joined once is gone, so a repetition is refused anyway.
        new = await self._new(principal, wanted._replace(size=size, key=None))
        upload = await self._records.concatenate(principal.org, new, partials)
        self._writers.on_received(principal.org, upload.id)
        return upload

    async def share(self, principal: Principal, upload_id: str, topics: Sequence[str]) -> Upload:
        """Whoever may subscribe to one of these topics may see it. One has to be allowed that oneself."""
        upload = await self._access.own(principal, upload_id)
        return await self._records.share(principal.org, upload.id, await self._shares(principal, topics))

    async def unshare(self, principal: Principal, upload_id: str, topics: Sequence[str]) -> Upload:
        """Takes that back. Who watches is out, but for its owner; whoever may see it for another reason comes back.

        Raises ``unavailable`` also when nobody could be told; to say it again is safe.
        """
        upload = await self._access.own(principal, upload_id)
        upload = await self._records.unshare(principal.org, upload.id, topics)
        await self._hub.end_subscriptions(
            principal.org,
            upload_topic(upload.id),
            None,
            ErrorCode.NOT_FOUND,
            "the upload is shared with fewer now; subscribe again if you may still see it",
            but=upload.owner,
        )
        return upload

    async def pause(self, principal: Principal, upload_id: str) -> Upload:
        """What has come is kept; whoever sends is told."""
        upload = await self._access.own(principal, upload_id)
        upload.check_receiving()
        await self._writers.finish(principal.org, upload.id, paused())
        now_paused = await self._records.pause(principal.org, upload.id)
        await self._writers.tell_paused(now_paused)
        return now_paused

    async def cancel(self, principal: Principal, upload_id: str, *, finished: bool = False) -> Upload:
        """Nothing of it is kept. ``finished``: also a document that is there."""
        upload = await self._access.own(principal, upload_id)
        ended, now = await self._records.cancel(principal.org, upload.id, finished=finished)
        if now:
            self._metrics.ended(State.CANCELLED)
            self._spawn(self._clear(principal.org, upload.id))
        return ended

    async def _clear(self, org: OrgId, upload_id: str) -> None:
        """At once, as far as it goes; the janitor does it again later."""
        try:
            await self._writers.stop(org, upload_id, wrong_state(State.CANCELLED))
            if not await self._records.needed(org, upload_id):
                await self._store.remove(org, upload_id)
        except HubError as error:
            _log.info("upload_removed_later", reason=error.message)
        except Exception:
            _log.exception("upload_not_removed")

    async def _new(self, principal: Principal, wanted: Wanted) -> NewUpload:
        kind = self.types.get(wanted.document_type)
        filename = check_filename(wanted.filename)
        if not wanted.partial:
            _check_extension(kind, filename)
        most = min(kind.max_bytes, self._hub.settings.uploads_max_bytes)
        name = "".join(char for char in principal.name if char.isprintable())[:_LONGEST_NAME].strip()
        return NewUpload(
            id=new_id(),
            owner=principal.user,
            owner_name=name,
            key=wanted.key,
            filename=filename,
            document_type=kind.name,
            size=check_size(wanted.size, most),
            partial=wanted.partial,
            metadata=metadata(wanted.metadata),
            shares=await self._shares(principal, wanted.shares),
            sha256=check_sha256(wanted.sha256),
        )

    async def _shares(self, principal: Principal, topics: Sequence[str]) -> Sequence[str]:
        most = self._hub.settings.uploads_max_shares
        if len(topics) > most:
            raise HubError(
                ErrorCode.QUOTA_EXCEEDED,
                f"an upload may be shared with {most} topics",
                retry="never",
                details={"limit": most},
            )
        for topic in topics:
            # An inbox is somebody's own; and `user:me` would be another's for each who asks. What is shared with an
            # upload would be with that one's topics, and so on.
            if (
                topic.startswith("user:")
                or is_upload_topic(topic)
                or not await self._hub.may_subscribe(principal, topic)
            ):
                hint = "; a room has to be there, and you in it" if topic.startswith("chat:") else ""
                raise bad_request(f"'shares' names a topic that you may not subscribe to: {topic[:200]!r}{hint}")
        return tuple(dict.fromkeys(topics))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work, name="upload-clear")
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _check_same(upload: Upload, new: NewUpload) -> None:
    """A key is one file's: the bytes of another would be mixed with its own."""
    said = (upload.size, upload.filename, upload.document_type, upload.partial)
    other_bytes = None not in (upload.sha256_wanted, new.sha256) and upload.sha256_wanted != new.sha256
    if other_bytes or said != (new.size, new.filename, new.document_type, new.partial):
        text = "the upload of this key is of another size, filename, type or sha256; take another key for another file"
        raise HubError(ErrorCode.CONFLICT, text, details={"upload": upload.id})


def _check_extension(kind: DocumentType, filename: str) -> None:
    """What is refused by its name alone need not be sent first."""
    try:
        kind.check_extension(filename)
    except Rejected as rejected:
        raise HubError(rejected.code, rejected.message) from None
