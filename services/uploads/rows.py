"""Rows of uploads: read, locked, ended, told of. What ``records`` and ``endings`` have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hub.api import OrgId, Settings, Transaction, not_found
from services.uploads.names import CANCELLED, upload_topic
from services.uploads.shapes import State, Upload, shape

COLUMNS = """
u.id, u.owner, u.owner_name, u.state, u.filename, u.document_type, u.size, u.received, u.paused, u.partial, u.partials,
  u.writer, u.metadata, u.shares, u.sha256_wanted, u.sha256, u.media_type, u.facts, u.error_code, u.error_message,
  u.attempts, (extract(epoch FROM u.created_at) * 1000)::bigint AS created_ms,
  (extract(epoch FROM u.touched_at) * 1000)::bigint AS touched_ms,
  (extract(epoch FROM u.finished_at) * 1000)::bigint AS finished_ms
"""

GET = f"SELECT {COLUMNS} FROM hub.uploads AS u WHERE u.org = $1 AND u.id = $2"  # noqa: S608 - made of constants
_END = f"""
UPDATE hub.uploads AS u SET state = $3, writer = NULL, paused = false, finished_at = clock_timestamp(),
  due_at = now() + $4 * interval '1 second', cleared = false
WHERE u.org = $1 AND u.id = $2 RETURNING {COLUMNS}
"""  # noqa: S608
_FORGET_PARTS = "DELETE FROM hub.upload_parts WHERE org = $1 AND upload = $2"
_GIVE_BACK = """
UPDATE hub.upload_days SET bytes = greatest(0, bytes - $3)
WHERE org = $1 AND day = (to_timestamp($2::float8 / 1000) AT TIME ZONE 'UTC')::date
"""


class Rows:
    """Within an open transaction."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def find(self, tx: Transaction, upload_id: str, *, lock: bool = False) -> Upload | None:
        """An upload, or None; locked until the commit."""
        row = await tx.fetch_row(GET + " FOR UPDATE" if lock else GET, tx.org, upload_id)
        return None if row is None else self.read(tx.org, row)

    async def locked(self, tx: Transaction, upload_id: str) -> Upload:
        """The same. Raises ``not_found``."""
        upload = await self.find(tx, upload_id, lock=True)
        if upload is None:
            raise not_found("upload")
        return upload

    async def end(self, tx: Transaction, upload: Upload, state: State, reason: str) -> Upload:
        """Cancelled or expired: what was not uploaded is given back to the organisation's day."""
        row = await tx.fetch_row(_END, tx.org, upload.id, state, self._settings.uploads_clear_s)
        await self.forget_parts(tx, upload.id)
        await tx.execute(_GIVE_BACK, tx.org, upload.created_at, upload.size - upload.offset)
        ended = self.read(tx.org, row)
        await self.tell(tx, ended, CANCELLED, reason=reason)
        return ended

    async def join(self, tx: Transaction, partial: Upload) -> None:
        """Its bytes are another's now."""
        await self.forget_parts(tx, partial.id)
        await tx.fetch_row(_END, tx.org, partial.id, State.JOINED, self._settings.uploads_clear_s)

    async def forget_parts(self, tx: Transaction, upload_id: str) -> None:
        """They are joined, or of no use."""
        await tx.execute(_FORGET_PARTS, tx.org, upload_id)

    async def tell(self, tx: Transaction, upload: Upload, event: str, **more: Any) -> None:
        """An event of the upload's topic."""
        data = shape(upload) | more
        await tx.publish(upload_topic(upload.id), event, data, tags=tags_of(upload.metadata), by=upload.owner)

    def read(self, org: OrgId, row: Any) -> Upload:
        """A row of ``org`` as an upload."""
        state = State(row["state"])
        expires = row["touched_ms"] + self._settings.uploads_expire_s * 1000
        return Upload(
            id=row["id"],
            org=org,
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
            partials=tuple(row["partials"]),
        )


def tags_of(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What subscriptions can filter by."""
    return dict(metadata) or None
