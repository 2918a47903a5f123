"""Who may see an upload, and who may change it. Everybody else is told that there is none."""

from __future__ import annotations

from typing import Final

from hub.api import Hub, Principal, not_found
from services.uploads.records import Records
from services.uploads.shapes import Upload

READ_ALL: Final = ("uploads", "read")
"""The scope word ``uploads:read``: to see every upload of the organisation."""


class Access:
    """The gate of methods, routes and topics."""

    def __init__(self, hub: Hub, records: Records) -> None:
        self._hub = hub
        self._records = records

    async def own(self, principal: Principal, upload_id: str) -> Upload:
        """An upload of one's own. Raises ``not_found``."""
        upload = await self._records.get(principal.org, upload_id)
        if upload is None or upload.owner != principal.user or not _in_scope(principal, upload_id):
            raise not_found("upload")
        return upload

    async def seen(self, principal: Principal, upload_id: str) -> Upload:
        """An upload that one may see. Raises ``not_found``."""
        upload = await self._records.get(principal.org, upload_id)
        if upload is None or not _in_scope(principal, upload_id) or not await self._may_see(principal, upload):
            raise not_found("upload")
        return upload

    async def may_watch(self, principal: Principal, upload_id: str) -> bool:
        """The rule of the topic; its gate has looked at the scope."""
        upload = await self._records.get(principal.org, upload_id)
        return upload is not None and await self._may_see(principal, upload)

    async def _may_see(self, principal: Principal, upload: Upload) -> bool:
        if upload.owner == principal.user or principal.allows(*READ_ALL):
            return True
        for topic in upload.shares:
            if await self._hub.may_subscribe(principal, topic):
                return True
        return False


def _in_scope(principal: Principal, upload_id: str) -> bool:
    return principal.allows("subscribe", f"upload:{upload_id}")
