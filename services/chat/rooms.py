"""Rooms and who is in them: create, rename, archive, list; join, invite, remove, leave, mute."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, Final

from hub.api import ErrorCode, Hub, HubError, Principal, Transaction, bad_request, not_found
from services.chat.asked import Create, Invite, ListMembers, ListRooms, NewMember
from services.chat.gate import Entry, Gate, check_user, display_name
from services.chat.kinds import CHANGED, INVITED, LEFT, REMOVED, ROOM_CHANGED, room_topic
from services.chat.rules import Action, Role
from services.chat.shapes import LAST_COLUMNS, ROOM_COLUMNS, fitting, last_of, room_of
from services.chat.text import room_id, room_name

_ROOM_BYTES: Final = 12
_LEFT: Final = "you have left this room"
_REMOVED: Final = "you are no longer a member of this room"

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('chat rooms of ' || $1, 0))"
_HOW_MANY = "SELECT count(*) FROM hub.chat_rooms WHERE org = $1"
_CREATE = """
INSERT INTO hub.chat_rooms (org, id, name, public, tags, created_by, members) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING RETURNING id
"""
_FILL = """
INSERT INTO hub.chat_members (org, room, member, name, role)
SELECT $1, $2, new.member, new.name, new.role
FROM unnest($3::text[], $4::text[], $5::text[]) AS new (member, name, role)
"""
_GET = f"""
SELECT {ROOM_COLUMNS} FROM hub.chat_rooms AS r
LEFT JOIN hub.chat_members AS w ON w.org = r.org AND w.room = r.id AND w.member = $3
WHERE r.org = $1 AND r.id = $2
"""  # noqa: S608 - made of constants
_LAST = f"SELECT {LAST_COLUMNS} FROM hub.chat_messages AS m WHERE m.org = $1 AND m.room = $2 AND m.number = $3"  # noqa: S608
# The page first: what belongs to each room is looked up for those alone that are shown.
_MINE = f"""
SELECT {ROOM_COLUMNS}, (extract(epoch FROM r.last_at) * 1000000)::bigint AS last_us, {LAST_COLUMNS}
FROM hub.chat_members AS w
JOIN hub.chat_rooms AS r ON r.org = w.org AND r.id = w.room
LEFT JOIN hub.chat_messages AS m ON m.org = r.org AND m.room = r.id AND m.number = r.last_number
WHERE w.org = $1 AND w.member = $2 AND ($4 OR r.archived_at IS NULL)
  AND ($5::text IS NULL OR (r.last_at, r.id) < (to_timestamp($6::bigint / 1000000.0), $5))
ORDER BY r.last_at DESC, r.id DESC LIMIT $3
"""  # noqa: S608 - made of constants
_PUBLIC = f"""
SELECT {ROOM_COLUMNS}, (extract(epoch FROM r.last_at) * 1000000)::bigint AS last_us, {LAST_COLUMNS}
FROM hub.chat_rooms AS r
LEFT JOIN hub.chat_members AS w ON w.org = r.org AND w.room = r.id AND w.member = $2
LEFT JOIN hub.chat_messages AS m ON m.org = r.org AND m.room = r.id AND m.number = r.last_number
WHERE r.org = $1 AND r.public AND ($4 OR r.archived_at IS NULL)
  AND ($5::text IS NULL OR (r.last_at, r.id) < (to_timestamp($6::bigint / 1000000.0), $5))
ORDER BY r.last_at DESC, r.id DESC LIMIT $3
"""  # noqa: S608 - made of constants
_RENAME = "UPDATE hub.chat_rooms SET name = $3 WHERE org = $1 AND id = $2"
_ARCHIVE = "UPDATE hub.chat_rooms SET archived_at = CASE WHEN $3 THEN now() END WHERE org = $1 AND id = $2"
_MEMBERS = """
SELECT member, name, role, read_number, (extract(epoch FROM joined_at) * 1000)::bigint AS joined_ms,
  CASE WHEN muted_until > now() THEN (extract(epoch FROM muted_until) * 1000)::bigint END AS muted_ms
FROM hub.chat_members WHERE org = $1 AND room = $2 AND ($4::text IS NULL OR member > $4) ORDER BY member LIMIT $3
"""
_ROLE = "SELECT role FROM hub.chat_members WHERE org = $1 AND room = $2 AND member = $3"
_OWNERS = "SELECT count(*) FROM hub.chat_members WHERE org = $1 AND room = $2 AND role = 'owner'"
_SET_ROLE = """
UPDATE hub.chat_members SET role = $4 WHERE org = $1 AND room = $2 AND member = $3
RETURNING CASE WHEN muted_until > now() THEN (extract(epoch FROM muted_until) * 1000)::bigint END AS muted_ms
"""
_MUTE = """
UPDATE hub.chat_members SET muted_until = CASE WHEN $4 > 0 THEN now() + $4 * interval '1 second' END
WHERE org = $1 AND room = $2 AND member = $3
RETURNING role, (extract(epoch FROM muted_until) * 1000)::bigint AS muted_ms
"""
_LEAVE = "DELETE FROM hub.chat_members WHERE org = $1 AND room = $2 AND member = $3"
_COUNT_OUT = "UPDATE hub.chat_rooms SET members = members - 1 WHERE org = $1 AND id = $2"


class Rooms:
    """What the methods about rooms do. Everything raises ``HubError``."""

    def __init__(self, hub: Hub, gate: Gate) -> None:
        self._hub = hub
        self._gate = gate
        self._begun: set[asyncio.Task[dict[str, Any]]] = set()

    async def create(self, principal: Principal, wanted: Create) -> dict[str, Any]:
        """A new room; who makes it owns it."""
        name, room = room_name(wanted.name), wanted.room or secrets.token_urlsafe(_ROOM_BYTES)
        self._gate.check_scope(principal, room_id(room))
        org, settings = principal.org, self._hub.settings
        roles = {principal.user: Role.OWNER, **_roles(wanted)}
        roles[principal.user] = Role.OWNER
        if len(roles) > settings.chat_max_members:
            raise _full(f"a room may have {settings.chat_max_members} members", settings.chat_max_members)
        names = [display_name(principal) if user == principal.user else "" for user in roles]
        async with self._hub.database.transaction(org) as tx:
            await tx.execute(_ONE_AT_A_TIME, org)
            if await tx.fetch_value(_HOW_MANY, org) >= settings.chat_max_rooms:
                raise _full(f"the organisation has {settings.chat_max_rooms} rooms", settings.chat_max_rooms)
            for user in roles:
                await self._gate.check_rooms_of(tx, user)
            row = (org, room, name, wanted.public, _tags(wanted), principal.user, len(roles))
            if await tx.fetch_value(_CREATE, *row) is None:
                raise HubError(ErrorCode.CONFLICT, "that name is taken; choose another 'room', or none")
            await tx.execute(_FILL, org, room, list(roles), names, [str(role) for role in roles.values()])
            for user in sorted(roles, key=self._hub.user_topic):
                if user != principal.user:
                    told = {"room": room, "name": name, "by": principal.user, "role": roles[user]}
                    await tx.publish(self._hub.user_topic(user), INVITED, told, by=principal.user)
            return {"room": await _room(tx, room, principal.user)}

    async def get(self, principal: Principal, room: str) -> dict[str, Any]:
        """One room, and the position of its topic."""
        self._gate.check_scope(principal, room)
        page = await self._hub.read(principal.org, room_topic(room), last=1)
        async with self._gate.seen(principal, room) as (tx, _):
            found = await _room(tx, room, principal.user)
        return {"room": found, "position": {"epoch": page.epoch, "seq": page.top}}

    async def list(self, principal: Principal, wanted: ListRooms) -> dict[str, Any]:
        """One's own rooms, or the public ones; what happened last comes first."""
        after_us, after = _cursor(wanted.after)
        query = _MINE if wanted.scope == "mine" else _PUBLIC
        most = wanted.limit
        async with self._hub.database.transaction(principal.org) as tx:
            rows = await tx.fetch(
                query, principal.org, check_user(principal.user), most + 1, wanted.archived, after, after_us
            )
        shown = [row for row in rows[:most] if principal.allows("subscribe", room_topic(row["id"]))]
        rooms = [room_of(row, None if row["number"] is None else last_of(row)) for row in shown]
        fit = fitting(rooms, range(len(rooms)), self._hub.settings.chat_page_bytes)
        end = shown[fit - 1] if fit < len(rooms) else rows[most - 1] if len(rows) > most else None
        return {"rooms": rooms[:fit], "next": None if end is None else f"{end['last_us']}:{end['id']}"}

    async def rename(self, principal: Principal, room: str, name: str) -> dict[str, Any]:
        """Gives a room another name."""
        name = room_name(name)
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            if entry.access.name != name:
                await entry.tx.execute(_RENAME, principal.org, room, name)
                await entry.publish(ROOM_CHANGED, {"room": _facts(entry, name=name)})
            return {"room": await _room(entry.tx, room, principal.user)}

    async def archive(self, principal: Principal, room: str, archived: bool) -> dict[str, Any]:
        """Nobody writes in an archived room; everything else stays."""
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            if entry.access.archived is not archived:
                await entry.tx.execute(_ARCHIVE, principal.org, room, archived)
                await entry.publish(ROOM_CHANGED, {"room": _facts(entry, archived=archived)})
            return {"room": await _room(entry.tx, room, principal.user)}

    async def members(self, principal: Principal, wanted: ListMembers) -> dict[str, Any]:
        """Who is in a room, by user."""
        if wanted.after is not None:
            check_user(wanted.after, "after")
        async with self._gate.seen(principal, wanted.room) as (tx, _):
            rows = await tx.fetch(_MEMBERS, principal.org, wanted.room, wanted.limit + 1, wanted.after)
        members = [
            {
                "user": row["member"],
                "name": row["name"],
                "role": row["role"],
                "joined_at": row["joined_ms"],
                "muted_until": row["muted_ms"],
                "read": row["read_number"],
            }
            for row in rows[: wanted.limit]
        ]
        return {"members": members, "next": members[-1]["user"] if len(rows) > wanted.limit else None}

    async def join(self, principal: Principal, room: str) -> dict[str, Any]:
        """Becomes a member of a public room; who is one already stays what he is."""
        async with self._gate.entered(principal, room, Action.MARK) as entry:
            return {"room": await _room(entry.tx, room, principal.user)}

    async def invite(self, principal: Principal, wanted: Invite) -> dict[str, Any]:
        """Makes somebody a member, or gives a member another role."""
        user, room, role = check_user(wanted.user), wanted.room, wanted.role
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            before = await entry.tx.fetch_value(_ROLE, principal.org, room, user)
            if before is None:
                await entry.take_in(user, "", role)
                told = {"room": room, "name": entry.access.name, "by": principal.user, "role": role}
                entry.tell(user, INVITED, told)
            elif before != role:
                if before == Role.OWNER:
                    await _check_owners(entry)
                muted_ms = await entry.tx.fetch_value(_SET_ROLE, principal.org, room, user, role)
                await entry.publish(CHANGED, {"user": user, "role": role, "muted_until": muted_ms})
            return {"room": await _room(entry.tx, room, principal.user)}

    async def mute(self, principal: Principal, room: str, user: str, for_s: int) -> dict[str, Any]:
        """Somebody writes nothing for a while."""
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            changed = await entry.tx.fetch_row(_MUTE, principal.org, room, check_user(user), for_s)
            if changed is None:
                raise not_found("member")
            await entry.publish(CHANGED, {"user": user, "role": changed["role"], "muted_until": changed["muted_ms"]})
            return {"muted_until": changed["muted_ms"]}

    async def remove(self, principal: Principal, room: str, user: str) -> dict[str, Any]:
        """Ends somebody's membership; what he watches of a private room ends within a moment.

        Once begun it is done, whatever becomes of the caller; and who is no member any more ceases to watch all the
        same, should that have failed the first time.
        """
        if user == principal.user:
            return await self.leave(principal, room)
        return await self._carried_through(self._remove(principal, room, check_user(user)))

    async def leave(self, principal: Principal, room: str) -> dict[str, Any]:
        """Ends one's own membership, as ``remove`` does. The last owner stays while there are others."""
        return await self._carried_through(self._leave(principal, room))

    async def close(self) -> None:
        """Waits for what was begun, for a moment."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=self._hub.settings.database_timeout_s)
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)

    async def _remove(self, principal: Principal, room: str, user: str) -> dict[str, Any]:
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            was_member = await entry.tx.fetch_value(_ROLE, principal.org, room, user) is not None
            if was_member:
                await _take_out(entry, user)
                entry.tell(user, REMOVED, {"room": room, "by": principal.user})
        if not entry.access.public:
            await self._end(principal, room, user, _REMOVED)
        if not was_member:
            raise not_found("member")
        return {}

    async def _leave(self, principal: Principal, room: str) -> dict[str, Any]:
        try:
            async with self._gate.entered(principal, room, Action.LOOK) as entry:
                if entry.access.role is None:
                    return {}
                if entry.access.role is Role.OWNER and entry.access.members > 1:
                    await _check_owners(entry)
                await _take_out(entry, principal.user)
        except HubError as error:
            if error.code is ErrorCode.NOT_FOUND:
                await self._end(principal, room, principal.user, _LEFT)
            raise
        if not entry.access.public:
            await self._end(principal, room, principal.user, _LEFT)
        return {}

    async def _end(self, principal: Principal, room: str, user: str, message: str) -> None:
        await self._hub.end_subscriptions(principal.org, room_topic(room), [user], ErrorCode.FORBIDDEN, message)

    async def _carried_through(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        task = asyncio.create_task(work, name="chat-members")
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(task)


def _tags(wanted: Create) -> dict[str, Any]:
    for text in (*wanted.tags, *wanted.tags.values()):
        if isinstance(text, str) and not text.isprintable():
            raise bad_request("'tags' have printable characters")
    return dict(wanted.tags)


def _roles(wanted: Create) -> dict[str, Role]:
    new = [NewMember(item) if isinstance(item, str) else item for item in wanted.members]
    return {check_user(item.user, "members"): item.role for item in new}


def _full(text: str, limit: int) -> HubError:
    return HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": limit})


def _facts(entry: Entry, **changes: Any) -> dict[str, Any]:
    access = entry.access
    return {"name": access.name, "public": access.public, "archived": access.archived, **changes}


def _cursor(text: str | None) -> tuple[int | None, str | None]:
    if text is None:
        return None, None
    at, _, room = text.partition(":")
    if not at.isdecimal() or len(at) > 18 or not room:
        raise bad_request("'after' is the 'next' of an earlier answer")
    return int(at), room_id(room)


async def _room(tx: Transaction, room: str, user: str) -> dict[str, Any]:
    row = await tx.fetch_row(_GET, tx.org, room, user)
    if row is None:
        raise not_found("room")
    last = await tx.fetch_row(_LAST, tx.org, room, row["last_number"]) if row["last_number"] else None
    return room_of(row, None if last is None else last_of(last))


async def _check_owners(entry: Entry) -> None:
    """Before an owner ceases to be one."""
    if await entry.tx.fetch_value(_OWNERS, entry.tx.org, entry.room) < 2:
        raise HubError(ErrorCode.CONFLICT, "a room keeps an owner: give somebody the role first (chat.invite)")


async def _take_out(entry: Entry, user: str) -> None:
    await entry.tx.execute(_LEAVE, entry.tx.org, entry.room, user)
    await entry.tx.execute(_COUNT_OUT, entry.tx.org, entry.room)
    await entry.publish(LEFT, {"user": user, "by": entry.principal.user})
