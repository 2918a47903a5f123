"""The one way into a room: a transaction that holds the room's turn, knows who asks, and tells what it has changed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

from hub.api import ErrorCode, Hub, HubError, Principal, Transaction, bad_request, not_found
from services.chat.kinds import JOINED, room_topic
from services.chat.rules import Access, Action, Role, check
from services.chat.turns import Turns

_ACCESS = """
SELECT r.id, r.name, r.public, r.archived_at IS NOT NULL AS archived, r.members, r.messages, r.last_number, w.role,
  CASE WHEN w.muted_until > now() THEN (extract(epoch FROM w.muted_until) * 1000)::bigint END AS muted_ms
FROM hub.chat_rooms AS r
LEFT JOIN hub.chat_members AS w ON w.org = r.org AND w.room = r.id AND w.member = $3
WHERE r.org = $1 AND r.id = $2
"""
# What was said before is not new to whoever joins.
_TAKE_IN = """
INSERT INTO hub.chat_members
  (org, room, member, name, role, invited, muted_until, read_number, read_count, told_number)
SELECT org, id, $3, $4, $5, $6, $7, last_number, messages, last_number
FROM hub.chat_rooms WHERE org = $1 AND id = $2
"""
_FORGET = """
DELETE FROM hub.chat_former_members WHERE org = $1 AND room = $2 AND member = $3 RETURNING removed, role, muted_until
"""
_COUNT_IN = "UPDATE hub.chat_rooms SET members = members + 1 WHERE org = $1 AND id = $2"
# Those one was invited to do not keep from joining others.
_FULL = """
SELECT EXISTS (
  SELECT FROM unnest($2::text[]) AS one (member)
  WHERE (SELECT count(*) FROM hub.chat_members AS m WHERE m.org = $1 AND m.member = one.member AND m.invited = $3) >= $4
)
"""

_LONGEST_USER: Final = 256
_LONGEST_NAME: Final = 128


class Entry:
    """A room while it is being changed. Nobody else changes it meanwhile, so ``number`` is that of the next event."""

    def __init__(self, gate: Gate, tx: Transaction, principal: Principal, access: Access, number: int) -> None:
        self._gate = gate
        self._tells: list[tuple[str, str, dict[str, Any]]] = []
        self.tx = tx
        self.principal = principal
        self.access = access
        self.number = number

    @property
    def room(self) -> str:
        """Its id."""
        return self.access.room

    async def act(self, action: Action) -> None:
        """Asks for more than what the room was entered for. Who may do it by joining has joined afterwards."""
        check(self.access, action)
        if self.access.role is None and action is not Action.LOOK:
            await self._come_in()
            self.access = check(await self._gate.access(self.tx, self.room, self.principal.user), action)

    async def invite(self, user: str, role: Role) -> None:
        """Makes somebody a member who is none; nothing is held against him any more. Raises ``quota_exceeded``."""
        await self._gate.check_invited(self.tx, [user])
        await self.tx.fetch_row(_FORGET, self.tx.org, self.room, user)
        await self._take_in(user, "", role, True, None)

    async def _come_in(self) -> None:
        """By himself, into a public room: as what he has left it, and muted if he was."""
        user = self.principal.user
        before = await self.tx.fetch_row(_FORGET, self.tx.org, self.room, user)
        if before is not None and before["removed"]:
            raise HubError(ErrorCode.FORBIDDEN, "an owner has removed you from this room, and can invite you again")
        await self._gate.check_own(self.tx, user)
        role, muted_until = (Role.MEMBER, None) if before is None else (Role(before["role"]), before["muted_until"])
        await self._take_in(user, display_name(self.principal), role, False, muted_until)

    async def _take_in(self, user: str, name: str, role: Role, invited: bool, muted_until: datetime | None) -> None:
        most = self._gate.settings.chat_max_members
        if self.access.members >= most:
            raise full(f"the room has {self.access.members} members, and may have {most}", most)
        await self.tx.execute(_TAKE_IN, self.tx.org, self.room, user, name, role, invited, muted_until)
        await self.tx.execute(_COUNT_IN, self.tx.org, self.room)
        await self.publish(JOINED, {"user": user, "name": name, "role": role})

    async def publish(self, event: str, data: dict[str, Any]) -> int:
        """Tells the room's watchers when this commits; ``data`` gets the event's number, which is returned."""
        number = self.number
        await self.tx.publish(room_topic(self.room), event, {"number": number, **data}, by=self.principal.user)
        self.number += 1
        return number

    def tell(self, user: str, event: str, data: dict[str, Any]) -> None:
        """Tells one user, in the own inbox, when this commits."""
        self._tells.append((user, event, data))

    async def finish(self, inbox_of: Any) -> None:
        """Sends what users are told; always in the same order, or two rooms could wait for one another."""
        for user, event, data in sorted(self._tells, key=lambda tell: (inbox_of(tell[0]), tell[1])):
            await self.tx.publish(inbox_of(user), event, data, by=self.principal.user)


class Gate:
    """Opens rooms. Every method of the service comes through here, except those that need no room."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.settings = hub.settings
        self._turns = Turns(hub.settings.chat_max_waiting_per_room, hub.settings.database_timeout_s)

    @contextlib.asynccontextmanager
    async def entered(self, principal: Principal, room: str, action: Action) -> AsyncIterator[Entry]:
        """A transaction in which the room is this principal's alone; committed at the end of the block.

        Raises what ``check`` raises, ``not_found`` for what the token's scope hides, and ``rate_limited`` when too many
        want to change the room at once.
        """
        self.check_scope(principal, room)
        org = principal.org
        async with self._turns.turn(org, room), self._hub.database.transaction(org) as tx:
            number = await tx.next_number(room_topic(room))
            entry = Entry(self, tx, principal, check(await self._access(tx, room, principal.user), Action.LOOK), number)
            await entry.act(action)
            yield entry
            await entry.finish(self._hub.user_topic)

    @contextlib.asynccontextmanager
    async def seen(self, principal: Principal, room: str, action: Action = Action.LOOK) -> AsyncIterator[Any]:
        """A transaction for whoever only looks: (transaction, access). Nobody waits for it."""
        self.check_scope(principal, room)
        async with self._hub.database.transaction(principal.org) as tx:
            yield tx, check(await self._access(tx, room, principal.user), action)

    def check_scope(self, principal: Principal, room: str) -> None:
        """Raises ``not_found`` where the token's scope hides the room's topic."""
        if not principal.allows("subscribe", room_topic(room)):
            raise not_found("room")
        check_user(principal.user)

    async def access(self, tx: Transaction, room: str, user: str) -> Access:
        """A room that is known to be there. Raises ``not_found`` all the same."""
        return check(await self._access(tx, room, user), Action.LOOK)

    async def check_own(self, tx: Transaction, user: str) -> None:
        """Raises ``quota_exceeded`` for somebody who has made or joined too many rooms."""
        most = self.settings.chat_max_rooms_per_user
        if await tx.fetch_value(_FULL, tx.org, [user], False, most):
            raise full(f"you have joined {most} rooms, which is the most; leave one first", most)

    async def check_invited(self, tx: Transaction, users: Sequence[str]) -> None:
        """Raises ``quota_exceeded`` when one of them is in too many rooms; who, and how many, is not the caller's."""
        if await tx.fetch_value(_FULL, tx.org, users, True, self.settings.chat_max_rooms_per_user):
            text = "not all of them take another invitation" if len(users) > 1 else "there can be no invitation for now"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never")

    async def _access(self, tx: Transaction, room: str, user: str) -> Access | None:
        row = await tx.fetch_row(_ACCESS, tx.org, room, user)
        if row is None:
            return None
        role = None if row["role"] is None else Role(row["role"])
        return Access(
            room=row["id"],
            name=row["name"],
            public=row["public"],
            archived=row["archived"],
            members=row["members"],
            messages=row["messages"],
            last_number=row["last_number"],
            role=role,
            muted_until=row["muted_ms"],
        )


def check_user(user: str, field: str = "user") -> str:
    """``user`` if it can be somebody's name in a token. Raises ``bad_request``."""
    if not 1 <= len(user) <= _LONGEST_USER or not user.isprintable():
        raise bad_request(f"'{field}' is a user: 1 to {_LONGEST_USER} printable characters")
    return user


def full(text: str, most: int) -> HubError:
    """Something has as much as it may have."""
    return HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": most})


def display_name(principal: Principal) -> str:
    """What others are shown beside the user, from the token; "" when it says nothing."""
    return "".join(char for char in principal.name if char.isprintable())[:_LONGEST_NAME].strip()
