"""How uploads end: checked, given up, and in the end forgotten. By whichever node does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hub.api import Hub, HubError, OrgId, Transaction
from services.uploads.names import COMPLETED, DOCUMENT, DOCUMENT_TOPIC, FAILED
from services.uploads.rows import COLUMNS, Rows, tags_of
from services.uploads.shapes import State, Upload, shape

_CLAIM = f"""
UPDATE hub.uploads AS u SET state = 'checking', checker = $3, attempts = attempts + 1,
  due_at = now() + $4 * interval '1 second', looks = 0
WHERE u.org = $1 AND u.id = $2 AND NOT u.partial AND (
  (u.state = 'received') OR (u.state = 'checking' AND u.due_at < now()))
RETURNING {COLUMNS}
"""  # noqa: S608
_RENEW = """
UPDATE hub.uploads SET due_at = now() + $4 * interval '1 second'
WHERE org = $1 AND id = $2 AND checker = $3 AND state = 'checking'
"""
_POSTPONE = """
UPDATE hub.uploads SET checker = NULL, attempts = attempts - $4, due_at = now() + $5 * interval '1 second'
WHERE org = $1 AND id = $2 AND checker = $3 AND state = 'checking'
"""
_SETTLE = f"""
UPDATE hub.uploads AS u SET state = $4, checker = NULL, finished_at = clock_timestamp(), sha256 = $5, media_type = $6,
  facts = $7, error_code = $8, error_message = $9, due_at = now() + $10 * interval '1 second', cleared = false
WHERE u.org = $1 AND u.id = $2 AND u.checker = $3 AND u.state = 'checking' RETURNING {COLUMNS}
"""  # noqa: S608
_EXPIRED = """
SELECT touched_at < now() - $3 * interval '1 second' FROM hub.uploads WHERE org = $1 AND id = $2
"""
_LATER = "UPDATE hub.uploads SET due_at = touched_at + $3 * interval '1 second' WHERE org = $1 AND id = $2"
_CLEARED = """
UPDATE hub.uploads SET cleared = true, due_at = CASE WHEN $3::float8 > 0 THEN finished_at + $3 * interval '1 second' END
WHERE org = $1 AND id = $2 AND NOT cleared AND state = $4
"""
_KEPT = """
UPDATE hub.uploads SET due_at = CASE WHEN $3::float8 > 0 THEN finished_at + $3 * interval '1 second' END
WHERE org = $1 AND id = $2 RETURNING coalesce(due_at < now(), false)
"""
_OUTDATED = "SELECT id FROM hub.uploads WHERE org = $1 AND id = $2 AND cleared AND due_at < now() FOR UPDATE"
_FORGET_TOPIC = "SELECT hub.forget_upload_topic($1)"
_FORGET = "DELETE FROM hub.uploads WHERE org = $1 AND id = $2"
_DUE = "SELECT org, id, state FROM hub.due_uploads($1, $2)"
_HOLD = """
UPDATE hub.uploads SET held_in = state, looks = CASE WHEN held_in = state THEN looks + 1 ELSE 1 END,
  held_until = now()
    + $4::float8 * (1 << CASE WHEN held_in = state THEN least(looks, $5) ELSE 0 END) * interval '1 second'
WHERE org = $1 AND id = $2 AND state = $3 AND look_at < now()
"""
_MOST_DOUBLED = 5


class Verdict(NamedTuple):
    """What a check came to. With an error it is rejected."""

    sha256: str | None
    media_type: str | None = None
    facts: Any = None
    error: HubError | None = None


class Endings:
    """Raises ``unavailable`` when the database is away, beside what is said."""

    def __init__(self, hub: Hub) -> None:
        self._database = hub.database
        self._settings = hub.settings
        self._rows = Rows(hub.settings)

    async def expire(self, org: OrgId, upload_id: str) -> Upload | None:
        """Gives up an upload that no byte has come for in a long time. None: it is not so, and looked at later."""
        expire_s = self._settings.uploads_expire_s
        async with self._database.transaction(org) as tx:
            upload = await self._rows.find(tx, upload_id, lock=True)
            if upload is None:
                return None
            if upload.state is not State.RECEIVING and not (upload.partial and upload.state is State.RECEIVED):
                return None
            if not await tx.fetch_value(_EXPIRED, org, upload_id, expire_s):
                await tx.execute(_LATER, org, upload_id, expire_s)
                return None
            return await self._rows.end(tx, upload, State.EXPIRED, "expired")

    async def remove_old(self, org: OrgId, upload_id: str) -> Upload | None:
        """Ends a document that has been kept for as long as it is to be. None: it is none, or is to be kept longer."""
        async with self._database.transaction(org) as tx:
            upload = await self._rows.find(tx, upload_id, lock=True)
            if upload is None or upload.state is not State.AVAILABLE:
                return None
            if not await tx.fetch_value(_KEPT, org, upload_id, float(self._settings.uploads_keep_s)):
                return None
            return await self._rows.end(tx, upload, State.EXPIRED, "kept_long_enough")

    async def claim(self, org: OrgId, upload_id: str, token: str) -> Upload | None:
        """Begins a check, if it is to be done and nobody does it; ``attempts`` counts this one."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_CLAIM, org, upload_id, token, self._settings.uploads_check_lease_s)
        return None if row is None else self._rows.read(org, row)

    async def renew(self, org: OrgId, upload_id: str, token: str) -> bool:
        """The check goes on. False: it is somebody else's now."""
        async with self._database.transaction(org) as tx:
            tag = await tx.execute(_RENEW, org, upload_id, token, self._settings.uploads_check_lease_s)
        return tag == "UPDATE 1"

    async def postpone(self, upload: Upload, token: str, after_s: float, *, counts: bool) -> None:
        """Gives up a claim; the check is due again later. ``counts``: as an attempt, the file may be to blame."""
        async with self._database.transaction(upload.org) as tx:
            await tx.execute(_POSTPONE, upload.org, upload.id, token, 0 if counts else 1, after_s)

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
            settled = self._rows.read(tx.org, row)
            await self._rows.forget_parts(tx, upload.id)
            if error is not None:
                await self._rows.tell(tx, settled, FAILED)
            else:
                await self._tell_document(tx, settled)
                await self._rows.tell(tx, settled, COMPLETED)
        return settled

    async def due(self, checks: int, others: int) -> Sequence[tuple[OrgId, str, State]]:
        """What somebody has to look at, of all organisations: so many that wait for a check, and so many others."""
        rows = await self._database.maintain_rows(_DUE, checks, others)
        return [(org, row["id"], State(row["state"])) for org, row in rows]

    async def hold(self, org: OrgId, upload_id: str, state: State) -> bool:
        """Whoever is told True looks at it, and nobody else for a while. False: somebody does already."""
        hold_s = self._settings.uploads_janitor_s
        async with self._database.transaction(org) as tx:
            tag = await tx.execute(_HOLD, org, upload_id, state, hold_s, _MOST_DOUBLED)
        return tag == "UPDATE 1"

    async def cleared(self, org: OrgId, upload_id: str, state: State) -> bool:
        """What does not belong to its state was removed from the store; it is looked at again when it may go.

        False: that had been noted before.
        """
        settings = self._settings
        again_s = settings.uploads_keep_s if state is State.AVAILABLE else settings.uploads_keep_records_s
        async with self._database.transaction(org) as tx:
            tag = await tx.execute(_CLEARED, org, upload_id, float(again_s), state)
        return tag == "UPDATE 1"

    async def forget(self, org: OrgId, upload_id: str) -> None:
        """Deletes the record of what is long gone, once the outbox has forgotten its events."""
        async with self._database.transaction(org) as tx:
            outdated = await tx.fetch_value(_OUTDATED, org, upload_id) is not None
            if outdated and await tx.fetch_value(_FORGET_TOPIC, upload_id):
                await tx.execute(_FORGET, org, upload_id)

    async def _tell_document(self, tx: Transaction, upload: Upload) -> None:
        told = shape(upload)
        names = ("upload", "document_type", "filename", "size", "sha256", "media_type", "metadata", "owner")
        await tx.publish(
            DOCUMENT_TOPIC,
            DOCUMENT,
            {name: told[name] for name in names},
            key=upload.id,
            tags=tags_of(upload.metadata),
            by=upload.owner,
        )
