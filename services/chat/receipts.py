"""Who has read up to where: a cursor per user and room that only goes forward. The room is told in batches."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from hub.api import ErrorCode, Hub, HubError, OrgId, Principal
from services.chat.asked import OneMessage
from services.chat.chores import each
from services.chat.gate import Gate
from services.chat.kinds import OWN_READ, READ, room_topic
from services.chat.rules import Action, Role

# A cursor stands on a message: of a number that no message has, on the one before.
_READ = """
UPDATE hub.chat_members AS w SET read_number = to_there.number, read_count = to_there.ordinal
FROM (
  SELECT number, ordinal FROM hub.chat_messages
  WHERE org = $1 AND room = $2 AND number <= $4 ORDER BY number DESC LIMIT 1
) AS to_there
WHERE w.org = $1 AND w.room = $2 AND w.member = $3 AND w.read_number < to_there.number
RETURNING w.read_number
"""
_STAND = """
SELECT w.read_number, r.messages - w.read_count AS unread FROM hub.chat_members AS w
JOIN hub.chat_rooms AS r ON r.org = w.org AND r.id = w.room
WHERE w.org = $1 AND w.room = $2 AND w.member = $3
"""
_MEMBERS = "SELECT members FROM hub.chat_rooms WHERE org = $1 AND id = $2"
_TELL = """
UPDATE hub.chat_members SET told_number = read_number WHERE org = $1 AND room = $2 AND told_number < read_number
RETURNING member, read_number
"""
# Materialized: looked at twice, it would find others the second time.
_TELL_SOME = """
WITH untold AS MATERIALIZED (
  SELECT member FROM hub.chat_members WHERE org = $1 AND room = $2 AND told_number < read_number
  LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE hub.chat_members AS w SET told_number = w.read_number FROM untold
WHERE w.org = $1 AND w.room = $2 AND w.member = untold.member
RETURNING w.member, w.read_number
"""
_READERS = """
SELECT member FROM hub.chat_members WHERE org = $1 AND room = $2 AND read_number >= $3 ORDER BY member
"""
_UNTOLD = "SELECT org, room FROM hub.untold_reads($1)"

_MOST_WAITING: Final = 10_000  # rooms with receipts that nobody has been told; the others wait for the janitor
_PER_ROUND: Final = 100
_AT_ONCE: Final = 4
_USERS_AT_ONCE: Final = 20

_log = structlog.get_logger(__name__)


class Receipts:
    """Keeps cursors, and owns the tasks that tell rooms of them."""

    def __init__(self, hub: Hub, gate: Gate) -> None:
        self._hub = hub
        self._gate = gate
        self._waiting: set[tuple[OrgId, str]] = set()
        """Rooms that will be told."""
        self._tasks: set[asyncio.Task[None]] = set()
        """One for each of these, and those that tell."""
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def read(self, principal: Principal, wanted: OneMessage) -> dict[str, Any]:
        """Everything up to a message has been read. Going back is nothing; answers with where one stands."""
        org, room, user = principal.org, wanted.room, principal.user
        async with self._gate.seen(principal, room) as (tx, access):
            moved = None
            if access.role is not None:
                moved = await tx.fetch_value(_READ, org, room, user, wanted.message)
                row = await tx.fetch_row(_STAND, org, room, user)
        if access.role is None:
            async with self._gate.entered(principal, room, Action.MARK) as entry:
                row = await entry.tx.fetch_row(_STAND, org, room, user)
        if moved is not None:
            self._tell_soon(org, room)
        return {"read": row["read_number"], "unread": row["unread"]} if row else {"read": 0, "unread": 0}

    async def readers(self, principal: Principal, wanted: OneMessage) -> dict[str, Any]:
        """Who has read a message, in rooms that are not too large."""
        most = self._hub.settings.chat_receipts_max_members
        async with self._gate.seen(principal, wanted.room) as (tx, access):
            if access.role is None:
                raise HubError(ErrorCode.FORBIDDEN, f"it takes the role {Role.MEMBER} to see who has read")
            if access.members > most:
                text = f"the room has {access.members} members; who has read is told in rooms of up to {most}"
                raise HubError(ErrorCode.TOO_LARGE, text, details={"limit": most})
            rows = await tx.fetch(_READERS, principal.org, wanted.room, wanted.message)
        return {"readers": [row["member"] for row in rows]}

    async def look_after(self) -> bool:
        """Tells what a dead node has not told, a round of it. Returns whether there may be more."""
        rooms = await self._hub.database.maintain_rows(_UNTOLD, _PER_ROUND)
        told = [await each(self.tell(org, row["room"])) for org, row in rooms]
        return len(rooms) == _PER_ROUND and any(told)

    async def close(self) -> None:
        """Ends what waits or is under way: another node tells it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def tell(self, org: OrgId, room: str) -> None:
        """Tells who has read how far since it was told last. Raises ``unavailable``."""
        async with self._hub.database.transaction(org) as tx:
            large = await tx.fetch_value(_MEMBERS, org, room) > self._hub.settings.chat_receipts_max_members
        if not large:
            await self._tell_room(org, room)
            return
        # Nobody else's business in a large room; but a user's other devices show the same count. A few at a time, and
        # without the room's turn, so that nobody who writes waits for it.
        while await self._tell_users(org, room) == _USERS_AT_ONCE:
            pass

    async def _tell_room(self, org: OrgId, room: str) -> None:
        async with self._hub.database.transaction(org) as tx:
            number = await tx.next_number(room_topic(room))
            readers = {row["member"]: row["read_number"] for row in await tx.fetch(_TELL, org, room)}
            if readers:
                await tx.publish(room_topic(room), READ, {"number": number, "readers": readers})

    async def _tell_users(self, org: OrgId, room: str) -> int:
        async with self._hub.database.transaction(org) as tx:
            rows = await tx.fetch(_TELL_SOME, org, room, _USERS_AT_ONCE)
            for row in sorted(rows, key=lambda row: self._hub.user_topic(row["member"])):
                told = {"room": room, "number": row["read_number"]}
                await tx.publish(self._hub.user_topic(row["member"]), OWN_READ, told)
        return len(rows)

    def _tell_soon(self, org: OrgId, room: str) -> None:
        if (org, room) not in self._waiting and len(self._waiting) < _MOST_WAITING:
            self._waiting.add((org, room))
            task = asyncio.create_task(self._tell_later(org, room), name="chat-receipts")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell_later(self, org: OrgId, room: str) -> None:
        try:
            await asyncio.sleep(self._hub.settings.chat_read_batch_ms / 1000)
            async with self._slots:
                # From here on a new receipt begins a new wait: this one may come too late for it.
                self._waiting.discard((org, room))
                await self.tell(org, room)
        except HubError as error:
            _log.warning("chat_receipts_wait", reason=error.message)
        except Exception:
            _log.exception("chat_receipts_failed")
