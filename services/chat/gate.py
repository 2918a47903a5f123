"""The one way into a room: a transaction that holds the room's turn, knows who asks, and tells what it has changed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
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
INSERT INTO hub.chat_members (org, room, member, name, role, read_number, read_count, told_number)
SELECT org, id, $3, $4, $5, last_number, messages, last_number FROM hub.chat_rooms WHERE org = $1 AND id = $2
"""
_COUNT_IN = "UPDATE hub.chat_rooms SET members = members + 1 WHERE org = $1 AND id = $2"
_ROOMS_OF = "SELECT count(*) FROM hub.chat_members WHERE org = $1 AND member = $2"

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
            await self.take_in(self.principal.user, display_name(self.principal), Role.MEMBER)
            self.access = await self._gate.access(self.tx, self.room, self.principal.user)

    async def take_in(self, user: str, name: str, role: Role) -> None:
        """Makes somebody a member who is none. Raises ``quota_exceeded``."""
        settings = self._gate.settings
        if self.access.members >= settings.chat_max_members:
            raise HubError(
                ErrorCode.QUOTA_EXCEEDED,
                f"the room has {self.access.members} members, and may have {settings.chat_max_members}",
                retry="never",
                details={"limit": settings.chat_max_members},
            )
        await self._gate.check_rooms_of(self.tx, user)
        await self.tx.execute(_TAKE_IN, self.tx.org, self.room, user, name, role)
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

    async def check_rooms_of(self, tx: Transaction, user: str) -> None:
        """Raises ``quota_exceeded`` for somebody who is in too many rooms."""
        most = self.settings.chat_max_rooms_per_user
        if await tx.fetch_value(_ROOMS_OF, tx.org, user) >= most:
            text = f"{user} is in {most} rooms, which is the most; leave one first"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": most})

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


def display_name(principal: Principal) -> str:
    """What others are shown beside the user, from the token; "" when it says nothing."""
    return "".join(char for char in principal.name if char.isprintable())[:_LONGEST_NAME].strip()
