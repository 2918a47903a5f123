"""Who may see an upload, and who may change it. Everybody else is told that there is none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from hub.api import Hub, OrgId, Principal, not_found
from services.uploads.names import is_upload_topic
from services.uploads.records import Records
from services.uploads.shapes import Upload

READ_ALL: Final = ("uploads", "read")
"""The scope word ``uploads:read``: to see every upload of the organisation."""


class Access:
    """The gate of methods, routes and topics."""

    def __init__(self, hub: Hub, records: Records) -> None:
        self._hub = hub
        self._records = records
        self._auditors: OrderedDict[tuple[OrgId, str], None] = OrderedDict()
        """Whom ``uploads:read`` has let in on this node, the latest last: a recheck does not see tokens. Bounded by
        ``max_connections``; who is forgotten is out once, and comes back."""

    async def own(self, principal: Principal, upload_id: str) -> Upload:
        """An upload of one's own. Raises ``not_found``."""
        upload = await self._records.get(principal.org, upload_id)
        if upload is None or upload.owner != principal.user or not _in_scope(principal, upload_id):
            raise not_found("upload")
        return upload

    async def all_own(self, principal: Principal, uploads: Sequence[str]) -> Mapping[str, Upload]:
        """Several of one's own, by id, read at once. Raises ``not_found``."""
        found = await self._records.some(principal.org, uploads)
        for name in uploads:
            if name not in found or found[name].owner != principal.user or not _in_scope(principal, name):
                raise not_found("upload")
        return found

    async def seen(self, principal: Principal, upload_id: str) -> Upload:
        """An upload that one may see. Raises ``not_found``."""
        upload = await self._records.get(principal.org, upload_id)
        if upload is None or not _in_scope(principal, upload_id) or not await self._may_see(principal, upload):
            raise not_found("upload")
        return upload

    async def may_watch(self, principal: Principal, upload_id: str) -> bool:
        """The rule of the topic; its gate has looked at the scope."""
        upload = await self._records.get(principal.org, upload_id)
        if principal.allows(*READ_ALL):
            self._remember(principal.org, principal.user)
        return upload is not None and await self._may_see(principal, upload)

    async def recheck(self, org: OrgId, pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        """Whether those who watch (user, upload) may go on: its owner, whom ``uploads:read`` has let in, and who may
        stay in a topic that it is shared with."""
        uploads = await self._records.some(org, list({upload_id for _, upload_id in pairs}))
        stays = [False] * len(pairs)
        asked: list[tuple[int, tuple[str, str]]] = []
        for place, (user, upload_id) in enumerate(pairs):
            upload = uploads.get(upload_id)
            if upload is None:
                continue
            if upload.owner == user or (org, user) in self._auditors:
                stays[place] = True
            else:
                asked += [(place, (user, topic)) for topic in _shares(upload)]
        for user, _ in pairs:
            if (org, user) in self._auditors:
                self._remember(org, user)
        for (place, _), answer in zip(asked, await self._hub.may_stay(org, [pair for _, pair in asked]), strict=True):
            stays[place] |= answer
        return stays

    async def still_sees(self, maker: Principal, upload: Upload) -> bool:
        """Whether somebody may see it, as far as that can be said without the scope of a token."""
        if upload.owner == maker.user:
            return True
        pairs = [(maker.user, topic) for topic in _shares(upload)]
        return any(await self._hub.may_stay(upload.org, pairs))

    def _remember(self, org: OrgId, user: str) -> None:
        self._auditors[org, user] = None
        self._auditors.move_to_end((org, user))
        if len(self._auditors) > self._hub.settings.max_connections:
            self._auditors.popitem(last=False)

    async def _may_see(self, principal: Principal, upload: Upload) -> bool:
        if upload.owner == principal.user or principal.allows(*READ_ALL):
            return True
        for topic in _shares(upload):
            if await self._hub.may_subscribe(principal, topic):
                return True
        return False


def _shares(upload: Upload) -> Sequence[str]:
    """Without topics of uploads, which nothing is shared with any more: one would ask the next, and so on."""
    return [topic for topic in upload.shares if not is_upload_topic(topic)]


def _in_scope(principal: Principal, upload_id: str) -> bool:
    return principal.allows("subscribe", f"upload:{upload_id}")
