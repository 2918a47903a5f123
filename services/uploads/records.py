"""Uploads in PostgreSQL: every statement about them, each a step of its own from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hub.api import ErrorCode, Hub, HubError, OrgId, Transaction, not_found
from services.uploads.names import CREATED
from services.uploads.rows import COLUMNS, Rows
from services.uploads.shapes import State, Upload
from services.uploads.store import Part

# Two creates of one user, one after the other: they are counted.
_LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended($1 || '/upload/' || $2, 0))"
_SAME = f"SELECT {COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.owner = $2 AND u.key = $3"  # noqa: S608
_COUNT = """
SELECT count(*) FROM hub.uploads
WHERE org = $1 AND owner = $2 AND (state = 'receiving' OR (partial AND state = 'received'))
"""
_SPEND_DAY = """
INSERT INTO hub.upload_days AS d (org, day, bytes)
SELECT $1, (now() AT TIME ZONE 'UTC')::date, $2::bigint WHERE $2::bigint <= $3::bigint
ON CONFLICT (org, day) DO UPDATE SET bytes = d.bytes + excluded.bytes WHERE d.bytes + excluded.bytes <= $3::bigint
RETURNING bytes
"""
_FORGET_DAYS = "DELETE FROM hub.upload_days WHERE org = $1 AND day < (now() AT TIME ZONE 'UTC')::date - 7"
_CREATE = f"""
INSERT INTO hub.uploads AS u
  (org, id, owner, owner_name, key, filename, document_type, size, partial, metadata, shares, sha256_wanted, due_at,
   partials)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + $13 * interval '1 second', $14)
RETURNING {COLUMNS}
"""  # noqa: S608 - made of constants
_SOME = f"SELECT {COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.id = ANY ($2)"  # noqa: S608
_OF_OWNER = f"SELECT {COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.owner = $2"  # noqa: S608
_PAGE = """
  AND ($4::text IS NULL OR (u.created_at, u.id) < (
    SELECT created_at, id FROM hub.uploads WHERE org = $1 AND owner = $2 AND id = $4))
ORDER BY u.created_at DESC, u.id DESC LIMIT $3
"""
LIST = _OF_OWNER + _PAGE
LIST_IN_STATE = f"{_OF_OWNER} AND u.state = $5 {_PAGE}"
_PARTS = "SELECT object, size, first FROM hub.upload_parts WHERE org = $1 AND upload = $2 ORDER BY first"
_COUNT_PARTS = "SELECT count(*) FROM hub.upload_parts WHERE org = $1 AND upload = $2"
NEEDED = "SELECT EXISTS (SELECT FROM hub.upload_parts WHERE org = $1 AND home = $2)"
# Only bytes keep an upload from expiring.
_SEIZE = f"""
UPDATE hub.uploads AS u SET writer = $3, paused = false WHERE u.org = $1 AND u.id = $2 RETURNING {COLUMNS}
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
UPDATE hub.uploads AS u SET paused = true, writer = NULL WHERE u.org = $1 AND u.id = $2 RETURNING {COLUMNS}
"""  # noqa: S608
_SHARE = f"UPDATE hub.uploads AS u SET shares = $3 WHERE u.org = $1 AND u.id = $2 RETURNING {COLUMNS}"  # noqa: S608
_TAKE_PARTS = """
INSERT INTO hub.upload_parts (org, upload, first, size, object)
SELECT org, $2, first + $4, size, object FROM hub.upload_parts WHERE org = $1 AND upload = $3
"""
_ALL_THERE = """
UPDATE hub.uploads SET state = 'received', received = size, due_at = now() + $3 * interval '1 second'
WHERE org = $1 AND id = $2
"""


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
    partials: Sequence[str] = ()


class Stored(NamedTuple):
    """A part to be recorded: its bytes begin at ``first``."""

    first: int
    part: Part


class Records:
    """Raises ``unavailable`` when the database is away, beside what is said."""

    def __init__(self, hub: Hub) -> None:
        self._database = hub.database
        self._settings = hub.settings
        self._rows = Rows(hub.settings)

    async def create(self, org: OrgId, new: NewUpload) -> tuple[Upload, bool]:
        """Writes a new upload, or finds the one of the same owner with the same key: (upload, whether it was there).

        Raises ``quota_exceeded``.
        """
        async with self._database.transaction(org) as tx:
            await tx.fetch_row(_LOCK_OWNER, org, new.owner)
            if new.key is not None and (row := await tx.fetch_row(_SAME, org, new.owner, new.key)) is not None:
                return self._rows.read(org, row), True
            await self._check_quotas(tx, org, new)
            upload = await self._insert(tx, org, new)
        return upload, False

    async def _check_quotas(self, tx: Transaction, org: OrgId, new: NewUpload) -> None:
        most = self._settings.uploads_open_per_user
        if await tx.fetch_value(_COUNT, org, new.owner) >= most:
            text = f"you have {most} unfinished uploads, which is the most; finish or cancel one first"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, details={"limit": most})
        per_day = self._settings.uploads_org_bytes_per_day
        spent = await tx.fetch_value(_SPEND_DAY, org, new.size, per_day)
        if spent is None:
            text = "the organisation has uploaded as much as it may today (UTC); go on tomorrow"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, details={"limit": per_day})
        if spent == new.size:  # the first of a day
            await tx.execute(_FORGET_DAYS, org)

    async def _insert(self, tx: Transaction, org: OrgId, new: NewUpload) -> Upload:
        row = await tx.fetch_row(
            _CREATE,
            *(org, new.id, new.owner, new.owner_name, new.key, new.filename, new.document_type, new.size, new.partial),
            *(dict(new.metadata), list(new.shares), new.sha256, self._settings.uploads_expire_s),
            list(new.partials),
        )
        upload = self._rows.read(org, row)
        await self._rows.tell(tx, upload, CREATED)
        return upload

    async def get(self, org: OrgId, upload_id: str) -> Upload | None:
        """An upload, or None."""
        async with self._database.transaction(org) as tx:
            return await self._rows.find(tx, upload_id)

    async def some(self, org: OrgId, uploads: Sequence[str]) -> Mapping[str, Upload]:
        """Those of these uploads that there are, by id."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_SOME, org, list(uploads))
        return {row["id"]: self._rows.read(org, row) for row in rows}

    async def of_owner(
        self, org: OrgId, owner: str, limit: int, state: str | None, after: str | None
    ) -> Sequence[Upload]:
        """Uploads of one user, the newest first."""
        async with self._database.transaction(org) as tx:
            if state is None:
                rows = await tx.fetch(LIST, org, owner, limit, after)
            else:
                rows = await tx.fetch(LIST_IN_STATE, org, owner, limit, after, state)
        return [self._rows.read(org, row) for row in rows]

    async def parts(self, org: OrgId, upload_id: str) -> list[Part]:
        """Its parts, in order."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_PARTS, org, upload_id)
        return [Part(row["object"], row["size"]) for row in rows]

    async def needed(self, org: OrgId, upload_id: str) -> bool:
        """Whether parts in its folder belong to another upload, which is not joined yet: then nothing may go there."""
        async with self._database.transaction(org) as tx:
            return bool(await tx.fetch_value(NEEDED, org, upload_id))

    async def writer(self, org: OrgId, upload_id: str) -> str | None:
        """The token of the writer that counts."""
        async with self._database.transaction(org) as tx:
            token: str | None = await tx.fetch_value(_WRITER, org, upload_id)
        return token

    async def seize(self, org: OrgId, upload_id: str, token: str) -> tuple[Upload, int] | None:
        """From now on ``token`` is the writer that counts: (upload, number of its parts).

        Raises ``conflict`` in another state than receiving, ``quota_exceeded`` for one in too many
        parts. None: there is none.
        """
        async with self._database.transaction(org) as tx:
            before = await self._rows.find(tx, upload_id, lock=True)
            if before is None:
                return None
            before.check_receiving()
            parts: int = await tx.fetch_value(_COUNT_PARTS, org, upload_id)
            if parts >= self._settings.uploads_max_parts:
                text = "this upload came in too many small parts; cancel it, and begin anew with larger ones"
                raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never")
            row = await tx.fetch_row(_SEIZE, org, upload_id, token)
        return self._rows.read(org, row), parts

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
            (await self._rows.locked(tx, upload_id)).check_receiving()
            return self._rows.read(org, await tx.fetch_row(_PAUSE, org, upload_id))

    async def share(self, org: OrgId, upload_id: str, topics: Sequence[str]) -> Upload:
        """Whoever may subscribe to one of ``topics`` may see it too. Raises ``quota_exceeded``."""
        most = self._settings.uploads_max_shares
        async with self._database.transaction(org) as tx:
            upload = await self._rows.locked(tx, upload_id)
            shares = list(dict.fromkeys((*upload.shares, *topics)))
            if len(shares) > most:
                text = f"an upload may be shared with {most} topics"
                raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": most})
            return self._rows.read(org, await tx.fetch_row(_SHARE, org, upload_id, shares))

    async def unshare(self, org: OrgId, upload_id: str, topics: Sequence[str]) -> Upload:
        """It is not shared with these topics any more."""
        async with self._database.transaction(org) as tx:
            upload = await self._rows.locked(tx, upload_id)
            left = [topic for topic in upload.shares if topic not in topics]
            return self._rows.read(org, await tx.fetch_row(_SHARE, org, upload_id, left))

    async def cancel(self, org: OrgId, upload_id: str, *, finished: bool = False) -> tuple[Upload, bool]:
        """Ends an upload for good: (upload, whether it was this call). ``finished``: also one that is available.

        Raises ``conflict`` while it is being checked, and afterwards; for a partial one when it was joined.
        """
        async with self._database.transaction(org) as tx:
            upload = await self._rows.locked(tx, upload_id)
            if upload.state is State.CANCELLED:
                return upload, False
            complete = State.RECEIVED if upload.partial else State.AVAILABLE if finished else None
            if upload.state is not complete:
                upload.check_receiving()
            return await self._rows.end(tx, upload, State.CANCELLED, "owner"), True

    async def concatenate(self, org: OrgId, new: NewUpload, partials: Sequence[str]) -> Upload:
        """A new upload of the bytes of partial ones, in this order; those are joined then.

        Raises ``not_found`` for what is no partial upload of the same owner, ``conflict`` for one that is not complete.
        """
        async with self._database.transaction(org) as tx:
            await tx.fetch_row(_LOCK_OWNER, org, new.owner)
            found: dict[str, Upload] = {}
            for name in sorted(set(partials)):
                found[name] = self._check_partial(await self._rows.locked(tx, name), new.owner)
            size = sum(found[name].size for name in partials)
            upload = await self._insert(tx, org, new._replace(size=size, partials=partials))
            first = 0
            for name in partials:
                await tx.execute(_TAKE_PARTS, org, upload.id, name, first)
                first += found[name].size
            for partial in found.values():
                await self._rows.join(tx, partial)
            await tx.execute(_ALL_THERE, org, upload.id, self._settings.uploads_check_lease_s)
            return await self._rows.locked(tx, upload.id)

    def _check_partial(self, upload: Upload, owner: str) -> Upload:
        if upload.owner != owner or not upload.partial:
            raise not_found("upload")
        if upload.state is not State.RECEIVED:
            text = "a partial upload is not complete" if upload.state is State.RECEIVING else "it is joined, or gone"
            raise HubError(ErrorCode.CONFLICT, text, details={"state": upload.state.value})
        return upload
