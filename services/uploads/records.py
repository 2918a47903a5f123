"""Uploads in PostgreSQL: every statement about them, each a step of its own from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hub.api import ErrorCode, Hub, HubError, OrgId, Transaction
from services.uploads.names import CANCELLED, COMPLETED, CREATED, DOCUMENT, DOCUMENT_TOPIC, FAILED, upload_topic
from services.uploads.shapes import State, Upload, shape
from services.uploads.store import Part

_COLUMNS = """
u.id, u.org, u.owner, u.owner_name, u.state, u.filename, u.document_type, u.size, u.received, u.paused, u.partial,
  u.writer, u.metadata, u.shares, u.sha256_wanted, u.sha256, u.media_type, u.facts, u.error_code, u.error_message,
  u.attempts, (extract(epoch FROM u.created_at) * 1000)::bigint AS created_ms,
  (extract(epoch FROM u.touched_at) * 1000)::bigint AS touched_ms,
  (extract(epoch FROM u.finished_at) * 1000)::bigint AS finished_ms
"""
# Two creates of one user, one after the other: they are counted.
_LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended($1 || '/upload/' || $2, 0))"
_SAME = f"SELECT {_COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.owner = $2 AND u.key = $3"  # noqa: S608
_COUNT = "SELECT count(*) FROM hub.uploads WHERE org = $1 AND owner = $2 AND state = 'receiving'"
_SPEND_DAY = """
INSERT INTO hub.upload_days AS d (org, day, bytes)
SELECT $1, (now() AT TIME ZONE 'UTC')::date, $2::bigint WHERE $2::bigint <= $3::bigint
ON CONFLICT (org, day) DO UPDATE SET bytes = d.bytes + excluded.bytes WHERE d.bytes + excluded.bytes <= $3::bigint
RETURNING bytes
"""
_GIVE_BACK = """
UPDATE hub.upload_days SET bytes = greatest(0, bytes - $3)
WHERE org = $1 AND day = (to_timestamp($2::float8 / 1000) AT TIME ZONE 'UTC')::date
"""
_CREATE = f"""
INSERT INTO hub.uploads AS u
  (org, id, owner, owner_name, key, filename, document_type, size, partial, metadata, shares, sha256_wanted, due_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + $13 * interval '1 second')
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants
_GET = f"SELECT {_COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.id = $2"  # noqa: S608
_LOCK = _GET + " FOR UPDATE"
_LIST = f"""
SELECT {_COLUMNS} FROM hub.uploads AS u
WHERE u.org = $1 AND u.owner = $2 AND ($4::text IS NULL OR u.state = $4)
  AND ($5::text IS NULL OR (u.created_at, u.id) < (
    SELECT created_at, id FROM hub.uploads WHERE org = $1 AND owner = $2 AND id = $5))
ORDER BY u.created_at DESC, u.id DESC LIMIT $3
"""  # noqa: S608
_PARTS = "SELECT object, size, first FROM hub.upload_parts WHERE org = $1 AND upload = $2 ORDER BY first"
_COUNT_PARTS = "SELECT count(*) FROM hub.upload_parts WHERE org = $1 AND upload = $2"
_SEIZE = f"""
UPDATE hub.uploads AS u SET writer = $3, paused = false, touched_at = now(),
  due_at = now() + $4 * interval '1 second'
WHERE u.org = $1 AND u.id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608
# What a writer has stored counts only if it is still the writer that counts, and nobody else has got further.
_RECORD = """
WITH moved AS (
  UPDATE hub.uploads SET received = $5, touched_at = now(),
    state = CASE WHEN $5 = size THEN 'received' ELSE state END,
    writer = CASE WHEN $5 = size THEN NULL ELSE writer END,
    sha256 = CASE WHEN $5 = size THEN $9 END,
    due_at = CASE WHEN $5 = size AND NOT partial THEN now() + $10 * interval '1 second' ELSE due_at END
  WHERE org = $1 AND id = $2 AND writer = $3 AND received = $4 AND state = 'receiving' AND $5 <= size
  RETURNING id
)
INSERT INTO hub.upload_parts (org, upload, first, size, object)
SELECT $1, moved.id, p.first, p.size, p.object
FROM moved, unnest($6::bigint[], $7::bigint[], $8::text[]) AS p (first, size, object)
ON CONFLICT (org, upload, first) DO UPDATE SET size = excluded.size
"""
_RELEASE = "UPDATE hub.uploads SET writer = NULL WHERE org = $1 AND id = $2 AND writer = $3"
_WRITER = "SELECT writer FROM hub.uploads WHERE org = $1 AND id = $2"
_PAUSE = f"""
UPDATE hub.uploads AS u SET paused = true, writer = NULL WHERE u.org = $1 AND u.id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608
_SHARE = f"UPDATE hub.uploads AS u SET shares = $3 WHERE u.org = $1 AND u.id = $2 RETURNING {_COLUMNS}"  # noqa: S608
_CLAIM = f"""
UPDATE hub.uploads AS u SET state = 'checking', checker = $3, attempts = attempts + 1,
  due_at = now() + $4 * interval '1 second'
WHERE u.org = $1 AND u.id = $2 AND NOT u.partial AND (
  (u.state = 'received') OR (u.state = 'checking' AND u.due_at < now()))
RETURNING {_COLUMNS}
"""  # noqa: S608
_RENEW = """
UPDATE hub.uploads SET due_at = now() + $4 * interval '1 second'
WHERE org = $1 AND id = $2 AND checker = $3 AND state = 'checking'
"""
_SETTLE = f"""
UPDATE hub.uploads AS u SET state = $4, checker = NULL, finished_at = clock_timestamp(), sha256 = $5, media_type = $6,
  facts = $7, error_code = $8, error_message = $9, due_at = now() + $10 * interval '1 second', cleared = false
WHERE u.org = $1 AND u.id = $2 AND u.checker = $3 AND u.state = 'checking' RETURNING {_COLUMNS}
"""  # noqa: S608
_END = f"""
UPDATE hub.uploads AS u SET state = $3, writer = NULL, paused = false, finished_at = clock_timestamp(),
  due_at = now() + $4 * interval '1 second', cleared = false
WHERE u.org = $1 AND u.id = $2 RETURNING {_COLUMNS}
"""  # noqa: S608
_EXPIRED = """
SELECT touched_at < now() - $3 * interval '1 second' FROM hub.uploads WHERE org = $1 AND id = $2
"""
_LATER = "UPDATE hub.uploads SET due_at = touched_at + $3 * interval '1 second' WHERE org = $1 AND id = $2"
_TAKE_PARTS = """
INSERT INTO hub.upload_parts (org, upload, first, size, object)
SELECT org, $2, first + $4, size, object FROM hub.upload_parts WHERE org = $1 AND upload = $3
"""
_ALL_THERE = """
UPDATE hub.uploads SET state = 'received', received = size, due_at = now() + $3 * interval '1 second'
WHERE org = $1 AND id = $2
"""
_NEEDED = "SELECT EXISTS (SELECT FROM hub.upload_parts WHERE org = $1 AND starts_with(object, $2))"
_FORGET_PARTS = "DELETE FROM hub.upload_parts WHERE org = $1 AND upload = $2"
_CLEARED = """
UPDATE hub.uploads SET cleared = true, due_at = CASE WHEN $3::float8 > 0 THEN finished_at + $3 * interval '1 second' END
WHERE org = $1 AND id = $2 AND NOT cleared AND state = $4
"""
_FORGET = "DELETE FROM hub.uploads WHERE org = $1 AND id = $2 AND cleared AND due_at < now()"
_DUE = "SELECT org, id, state FROM hub.due_uploads($1)"


class NewUpload(NamedTuple):
    """What its owner said of it."""

    id: str
    owner: str
    owner_name: str
    key: str | None
    filename: str
    document_type: str
    size: int
    partial: bool
    metadata: Mapping[str, Any]
    shares: Sequence[str]
    sha256: str | None


class Stored(NamedTuple):
    """A part to be recorded: its bytes begin at ``first``."""

    first: int
    part: Part


class Verdict(NamedTuple):
    """What a check came to. With an error it is rejected."""

    sha256: str | None
    media_type: str | None = None
    facts: Any = None
    error: HubError | None = None


class Records:
    """Raises ``unavailable`` when the database is away, beside what is said."""

    def __init__(self, hub: Hub) -> None:
        self._database = hub.database
        self._settings = hub.settings

    async def create(self, org: OrgId, new: NewUpload) -> tuple[Upload, bool]:
        """Writes a new upload, or finds the one of the same owner with the same key: (upload, whether it was there).

        Raises ``quota_exceeded``.
        """
        async with self._database.transaction(org) as tx:
            await tx.fetch_row(_LOCK_OWNER, org, new.owner)
            if new.key is not None and (row := await tx.fetch_row(_SAME, org, new.owner, new.key)) is not None:
                return self._upload(row), True
            await self._check_quotas(tx, org, new)
            upload = await self._insert(tx, org, new)
        return upload, False

    async def _check_quotas(self, tx: Transaction, org: OrgId, new: NewUpload) -> None:
        most = self._settings.uploads_open_per_user
        if await tx.fetch_value(_COUNT, org, new.owner) >= most:
            text = f"you have {most} unfinished uploads, which is the most; finish or cancel one first"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, details={"limit": most})
        per_day = self._settings.uploads_org_bytes_per_day
        if await tx.fetch_value(_SPEND_DAY, org, new.size, per_day) is None:
            text = "the organisation has uploaded as much as it may today (UTC); go on tomorrow"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, details={"limit": per_day})

    async def _insert(self, tx: Transaction, org: OrgId, new: NewUpload) -> Upload:
        row = await tx.fetch_row(
            _CREATE,
            *(org, new.id, new.owner, new.owner_name, new.key, new.filename, new.document_type, new.size, new.partial),
            *(dict(new.metadata), list(new.shares), new.sha256, self._settings.uploads_expire_s),
        )
        upload = self._upload(row)
        await self._tell(tx, upload, CREATED)
        return upload

    async def get(self, org: OrgId, upload_id: str) -> Upload | None:
        """An upload, or None."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_GET, org, upload_id)
        return None if row is None else self._upload(row)

    async def of_owner(
        self, org: OrgId, owner: str, limit: int, state: str | None, after: str | None
    ) -> Sequence[Upload]:
        """Uploads of one user, the newest first."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_LIST, org, owner, limit, state, after)
        return [self._upload(row) for row in rows]

    async def parts(self, org: OrgId, upload_id: str) -> list[Part]:
        """Its parts, in order."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_PARTS, org, upload_id)
        return [Part(row["object"], row["size"]) for row in rows]

    async def writer(self, org: OrgId, upload_id: str) -> str | None:
        """The token of the writer that counts."""
        async with self._database.transaction(org) as tx:
            token: str | None = await tx.fetch_value(_WRITER, org, upload_id)
        return token

    async def seize(self, org: OrgId, upload_id: str, token: str) -> tuple[Upload, int] | None:
        """From now on ``token`` is the writer that counts: (upload, number of its parts).

        Raises ``conflict`` in another state than receiving. None: there is no such upload.
        """
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_LOCK, org, upload_id)
            if row is None:
                return None
            self._upload(row).check_receiving()
            row = await tx.fetch_row(_SEIZE, org, upload_id, token, self._settings.uploads_expire_s)
            parts: int = await tx.fetch_value(_COUNT_PARTS, org, upload_id)
        return self._upload(row), parts

    async def record(
        self, upload: Upload, token: str, span: tuple[int, int], parts: Sequence[Stored], sha256: str | None
    ) -> bool:
        """Acknowledges the bytes of ``span`` (from, to). False: this writer does not count any more.

        With the last byte the upload is received; ``sha256``: of all of it, if the writer knows.
        """
        rows = ([s.first for s in parts], [s.part.size for s in parts], [s.part.object for s in parts])
        grace_s = self._settings.uploads_check_lease_s
        async with self._database.transaction(upload.org) as tx:
            tag = await tx.execute(_RECORD, upload.org, upload.id, token, *span, *rows, sha256, grace_s)
        return tag != "INSERT 0 0"

    async def release(self, org: OrgId, upload_id: str, token: str) -> None:
        """This writer writes no more; another's token stays."""
        async with self._database.transaction(org) as tx:
            await tx.execute(_RELEASE, org, upload_id, token)

    async def pause(self, org: OrgId, upload_id: str) -> Upload:
        """No writer, until the upload is resumed. Raises ``conflict`` and ``not_found`` as ``seize`` does."""
        async with self._database.transaction(org) as tx:
            (await self._locked(tx, upload_id)).check_receiving()
            return self._upload(await tx.fetch_row(_PAUSE, org, upload_id))

    async def share(self, org: OrgId, upload_id: str, topics: Sequence[str]) -> Upload:
        """Whoever may subscribe to one of ``topics`` may see it too. Raises ``quota_exceeded``."""
        most = self._settings.uploads_max_shares
        async with self._database.transaction(org) as tx:
            upload = await self._locked(tx, upload_id)
            shares = list(dict.fromkeys((*upload.shares, *topics)))
            if len(shares) > most:
                text = f"an upload may be shared with {most} topics"
                raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": most})
            return self._upload(await tx.fetch_row(_SHARE, org, upload_id, shares))

    async def cancel(self, org: OrgId, upload_id: str, *, finished: bool = False) -> tuple[Upload, bool]:
        """Ends an upload for good: (upload, whether it was this call). ``finished``: also one that is available.

        Raises ``conflict`` while it is being checked, and afterwards.
        """
        async with self._database.transaction(org) as tx:
            upload = await self._locked(tx, upload_id)
            if upload.state is State.CANCELLED:
                return upload, False
            if not (
                upload.state is State.RECEIVING or upload.partial or (finished and upload.state is State.AVAILABLE)
            ):
                upload.check_receiving()
            return await self._end(tx, upload, State.CANCELLED, "owner"), True

    async def expire(self, org: OrgId, upload_id: str) -> Upload | None:
        """Gives up an upload that no byte has come for in a long time. None: it is not so, and looked at later."""
        expire_s = self._settings.uploads_expire_s
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_LOCK, org, upload_id)
            if row is None:
                return None
            upload = self._upload(row)
            if upload.state is not State.RECEIVING and not (upload.partial and upload.state is State.RECEIVED):
                return None
            if not await tx.fetch_value(_EXPIRED, org, upload_id, expire_s):
                await tx.execute(_LATER, org, upload_id, expire_s)
                return None
            return await self._end(tx, upload, State.EXPIRED, "expired")

    async def remove_old(self, org: OrgId, upload_id: str) -> Upload | None:
        """Ends a document that has been kept for as long as it is to be. None: it is none."""
        keep_s = self._settings.uploads_keep_s
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_LOCK, org, upload_id)
            if row is None or row["state"] != State.AVAILABLE or not keep_s:
                return None
            upload = self._upload(row)
            return await self._end(tx, upload, State.EXPIRED, "kept_long_enough")

    async def concatenate(self, org: OrgId, new: NewUpload, partials: Sequence[str]) -> Upload:
        """A new upload of the bytes of partial ones, in this order; those are joined then.

        Raises ``not_found`` for what is no partial upload of the same owner, ``conflict`` for one that is not complete.
        """
        async with self._database.transaction(org) as tx:
            await tx.fetch_row(_LOCK_OWNER, org, new.owner)
            found: dict[str, Upload] = {}
            for name in sorted(set(partials)):
                found[name] = self._check_partial(await self._locked(tx, name), new.owner)
            size = sum(found[name].size for name in partials)
            upload = await self._insert(tx, org, new._replace(size=size))
            first = 0
            for name in partials:
                await tx.execute(_TAKE_PARTS, org, upload.id, name, first)
                first += found[name].size
            for name in found:
                await tx.execute(_FORGET_PARTS, org, name)
                await tx.fetch_row(_END, org, name, State.JOINED, self._settings.uploads_clear_s)
            await tx.execute(_ALL_THERE, org, upload.id, self._settings.uploads_check_lease_s)
            return await self._locked(tx, upload.id)

    def _check_partial(self, upload: Upload, owner: str) -> Upload:
        if upload.owner != owner or not upload.partial:
            raise not_found_upload()
        if upload.state is not State.RECEIVED:
            text = "a partial upload is not complete" if upload.state is State.RECEIVING else "it is joined, or gone"
            raise HubError(ErrorCode.CONFLICT, text, details={"state": upload.state.value})
        return upload

    async def claim(self, org: OrgId, upload_id: str, token: str) -> Upload | None:
        """Begins a check, if it is to be done and nobody does it; ``attempts`` counts this one."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_CLAIM, org, upload_id, token, self._settings.uploads_check_lease_s)
        return None if row is None else self._upload(row)

    async def renew(self, org: OrgId, upload_id: str, token: str) -> bool:
        """The check goes on. False: it is somebody else's now."""
        async with self._database.transaction(org) as tx:
            tag = await tx.execute(_RENEW, org, upload_id, token, self._settings.uploads_check_lease_s)
        return tag == "UPDATE 1"

    async def settle(self, upload: Upload, token: str, verdict: Verdict) -> Upload | None:
        """Ends a check; everybody is told. None: it is somebody else's now."""
        error = verdict.error
        state = State.AVAILABLE if error is None else State.REJECTED
        async with self._database.transaction(upload.org) as tx:
            row = await tx.fetch_row(
                _SETTLE,
                *(upload.org, upload.id, token, state, verdict.sha256, verdict.media_type, verdict.facts),
                *(None if error is None else error.code.value, None if error is None else error.message),
                self._settings.uploads_clear_s,
            )
            if row is None:
                return None
            settled = self._upload(row)
            await tx.execute(_FORGET_PARTS, upload.org, upload.id)
            if error is not None:
                await self._tell(tx, settled, FAILED)
            else:
                await self._tell_document(tx, settled)
                await self._tell(tx, settled, COMPLETED)
        return settled

    async def due(self, most: int) -> Sequence[tuple[OrgId, str, State]]:
        """What somebody has to look at, of all organisations."""
        rows = await self._database.maintain_rows(_DUE, most)
        return [(org, row["id"], State(row["state"])) for org, row in rows]

    async def cleared(self, org: OrgId, upload_id: str, state: State) -> bool:
        """What does not belong to its state was removed from the store; it is looked at again when it may go.

        False: that had been noted before.
        """
        settings = self._settings
        again_s = settings.uploads_keep_s if state is State.AVAILABLE else settings.uploads_keep_records_s
        async with self._database.transaction(org) as tx:
            tag = await tx.execute(_CLEARED, org, upload_id, float(again_s), state)
        return tag == "UPDATE 1"

    async def needed(self, org: OrgId, upload_id: str) -> bool:
        """Whether parts in its folder belong to another upload that is not joined yet."""
        async with self._database.transaction(org) as tx:
            return bool(await tx.fetch_value(_NEEDED, org, f"{org}/{upload_id}/"))

    async def forget(self, org: OrgId, upload_id: str) -> None:
        """Deletes the record of what is long gone."""
        async with self._database.transaction(org) as tx:
            await tx.execute(_FORGET, org, upload_id)

    async def _end(self, tx: Transaction, upload: Upload, state: State, reason: str) -> Upload:
        row = await tx.fetch_row(_END, upload.org, upload.id, state, self._settings.uploads_clear_s)
        await tx.execute(_FORGET_PARTS, upload.org, upload.id)
        await tx.execute(_GIVE_BACK, upload.org, upload.created_at, upload.size - upload.offset)
        ended = self._upload(row)
        await self._tell(tx, ended, CANCELLED, reason=reason)
        return ended

    async def _locked(self, tx: Transaction, upload_id: str) -> Upload:
        row = await tx.fetch_row(_LOCK, tx.org, upload_id)
        if row is None:
            raise not_found_upload()
        return self._upload(row)

    async def _tell(self, tx: Transaction, upload: Upload, event: str, **more: Any) -> None:
        await tx.publish(
            upload_topic(upload.id), event, shape(upload) | more, tags=tags_of(upload.metadata), by=upload.owner
        )

    async def _tell_document(self, tx: Transaction, upload: Upload) -> None:
        told = shape(upload)
        names = ("upload", "document_type", "filename", "size", "sha256", "media_type", "metadata", "owner")
        await tx.publish(
            DOCUMENT_TOPIC,
            DOCUMENT,
            {name: told[name] for name in names},
            key=f"upload-{upload.id}",
            tags=tags_of(upload.metadata),
            by=upload.owner,
        )

    def _upload(self, row: Any) -> Upload:
        state = State(row["state"])
        expires = row["touched_ms"] + self._settings.uploads_expire_s * 1000
        return Upload(
            id=row["id"],
            org=OrgId.from_row(row["org"]),
            owner=row["owner"],
            owner_name=row["owner_name"],
            state=state,
            filename=row["filename"],
            document_type=row["document_type"],
            size=row["size"],
            offset=row["received"],
            paused=row["paused"],
            partial=row["partial"],
            writer=row["writer"],
            metadata=row["metadata"],
            shares=tuple(row["shares"]),
            sha256_wanted=row["sha256_wanted"],
            sha256=row["sha256"],
            media_type=row["media_type"],
            facts=row["facts"],
            error_code=row["error_code"],
            error_message=row["error_message"],
            attempts=row["attempts"],
            created_at=row["created_ms"],
            expires_at=expires if state is State.RECEIVING or (row["partial"] and state is State.RECEIVED) else None,
            finished_at=row["finished_ms"],
        )


def not_found_upload() -> HubError:
    """There is none, or it may not be seen."""
    return HubError(ErrorCode.NOT_FOUND, "no such upload")


def tags_of(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What subscriptions can filter by."""
    return dict(metadata) or None
