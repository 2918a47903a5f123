"""What is done now and then: texts that are too old go, and what dead nodes have left undone is done."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId, Principal
from services.chat.asked import Retention
from services.chat.chores import each
from services.chat.erasing import Eraser
from services.chat.kinds import DELETED, room_topic
from services.chat.metrics import ChatMetrics
from services.chat.receipts import Receipts
from services.chat.shapes import MESSAGE_COLUMNS, message_of

_OUTDATED = "SELECT org, room, number FROM hub.outdated_chat($1, $2)"
_BEFORE = """
SELECT number, text_number FROM hub.chat_messages
WHERE org = $1 AND room = $2 AND number = ANY ($3) AND deleted_at IS NULL ORDER BY number FOR UPDATE
"""
_DELETE = f"""
UPDATE hub.chat_messages AS m SET text = NULL, html = NULL, mentions = '{{}}', attachments = '{{}}', reactions = 0,
  deleted_at = clock_timestamp(), deleted_why = 'retention'
WHERE org = $1 AND room = $2 AND number = ANY ($3) RETURNING {MESSAGE_COLUMNS}
"""  # noqa: S608 - made of constants
_UNREACT_ALL = "DELETE FROM hub.chat_reactions WHERE org = $1 AND room = $2 AND number = ANY ($3)"
_SET = """
INSERT INTO hub.chat_policies (org, retention_days, changed_by) VALUES ($1, $2, $3)
ON CONFLICT (org) DO UPDATE SET retention_days = $2, changed_by = $3, changed_at = now()
"""

_PER_ROUND: Final = 200

_log = structlog.get_logger(__name__)


class Janitor:
    """One task per node. Nodes may do the same at the same time: whoever is second finds nothing."""

    def __init__(self, hub: Hub, eraser: Eraser, receipts: Receipts, metrics: ChatMetrics) -> None:
        self._hub = hub
        self._eraser = eraser
        self._metrics = metrics
        self._chores: Sequence[Callable[[], Awaitable[bool]]] = (
            self.delete_outdated,
            eraser.look_after,
            receipts.look_after,
        )
        self._task: asyncio.Task[None] | None = None

    async def choose(self, principal: Principal, wanted: Retention) -> dict[str, Any]:
        """How long an organisation keeps what is said. Raises ``forbidden`` without the scope ``admin``."""
        if not principal.allows("admin"):
            raise HubError(ErrorCode.FORBIDDEN, "it takes the scope admin to choose how long messages are kept")
        async with self._hub.database.transaction(principal.org) as tx:
            await tx.execute(_SET, principal.org, wanted.days, principal.user)
        return {"days": wanted.days}

    async def delete_outdated(self) -> bool:
        """Makes tombstones of messages that are too old, a round of them. Returns whether there may be more."""
        days = self._hub.settings.chat_retention_days
        rooms: dict[tuple[OrgId, str], list[int]] = defaultdict(list)
        outdated = await self._hub.database.maintain_rows(_OUTDATED, days, _PER_ROUND)
        for org, row in outdated:
            rooms[org, row["room"]].append(row["number"])
        done = [await each(self._delete(org, room, numbers)) for (org, room), numbers in rooms.items()]
        return len(outdated) == _PER_ROUND and any(done)

    def start(self) -> None:
        """Begins; ``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="chat-janitor")

    async def close(self) -> None:
        """Ends it. What it was doing was one transaction."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _delete(self, org: OrgId, room: str, numbers: list[int]) -> None:
        topic = room_topic(room)
        async with self._hub.database.transaction(org) as tx:
            told = await tx.next_number(topic)
            carriers = {row["number"]: row["text_number"] for row in await tx.fetch(_BEFORE, org, room, numbers)}
            if not carriers:
                return
            rows = await tx.fetch(_DELETE, org, room, list(carriers))
            await tx.execute(_UNREACT_ALL, org, room, list(carriers))
            tombstones = [message_of(row) for row in rows]
            data = {"number": told, "messages": sorted(carriers), "reason": "retention", "by": None}
            await tx.publish(topic, DELETED, data | {"at": tombstones[0]["deleted_at"]})
            gone = [(carriers[tombstone["number"]], tombstone) for tombstone in tombstones]
            await self._eraser.note(tx, room, told, gone)
        self._eraser.soon(org, room)
        self._metrics.changed("outdated", len(tombstones))

    async def _run(self) -> None:
        pause_s = self._hub.settings.chat_janitor_s
        while True:
            # Nodes that were started together drift apart.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            for chore in self._chores:
                await self._perform(chore)

    async def _perform(self, chore: Callable[[], Awaitable[bool]]) -> None:
        """As long as there is something; what PostgreSQL or Redis does not take now waits for the next time."""
        try:
            while await chore():
                pass
        except HubError as error:
            _log.warning("chat_janitor_waits", reason=error.message)
        except Exception:
            _log.exception("chat_janitor_failed")
