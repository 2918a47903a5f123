"""Rooms and who is in them: create, rename, archive, list; join, invite, remove, leave, mute."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from hub.api import ErrorCode, Hub, HubError, Principal, Transaction, bad_request, not_found
from services.chat.asked import Create, Invite, ListMembers, ListRooms, NewMember
from services.chat.gate import Entry, Gate, check_user, display_name, full
from services.chat.kinds import CHANGED, INVITED, LEFT, REMOVED, ROOM_CHANGED, room_topic
from services.chat.rules import Action, Role
from services.chat.shapes import LAST_COLUMNS, ROOM_COLUMNS, fitting, last_of, room_of
from services.chat.text import room_id, room_name

_ROOM_BYTES: Final = 12
_LEFT: Final = "you have left this room"
_REMOVED: Final = "you are no longer a member of this room"

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('chat rooms of ' || $1, 0))"
_HOW_MANY = """
SELECT count(*) AS of_all, count(*) FILTER (WHERE created_by = $2) AS own FROM hub.chat_rooms WHERE org = $1
"""
_MADE_BEFORE = """
SELECT id FROM hub.chat_rooms WHERE org = $1 AND created_by = $2 AND (key = $3 OR id = $4)
ORDER BY key IS NOT DISTINCT FROM $3 DESC LIMIT 1
"""
_CREATE = """
INSERT INTO hub.chat_rooms (org, id, name, public, tags, created_by, key, members)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id
"""
_FILL = """
INSERT INTO hub.chat_members (org, room, member, name, role, invited)
SELECT $1, $2, new.member, new.name, new.role, new.member <> $6
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
# Only by invitation one comes back into a private room, and then nothing is held against one.
_LEAVE = """
WITH gone AS (DELETE FROM hub.chat_members WHERE org = $1 AND room = $2 AND member = $3 RETURNING role, muted_until)
INSERT INTO hub.chat_former_members (org, room, member, removed, role, muted_until)
SELECT $1, $2, $3, $5, CASE role WHEN 'reader' THEN role ELSE 'member' END, muted_until FROM gone
WHERE $4 AND ($5 OR role = 'reader' OR muted_until > now())
"""
_COUNT_OUT = "UPDATE hub.chat_rooms SET members = members - 1 WHERE org = $1 AND id = $2"


class Rooms:
    """What the methods about rooms do. Everything raises ``HubError``."""

    def __init__(self, hub: Hub, gate: Gate) -> None:
        self._hub = hub
        self._gate = gate
        settings = hub.settings
        self._bucket = hub.limits.bucket(
            "chat-changes",
            per_second=settings.chat_changes_per_minute / 60,
            burst=settings.chat_changes_burst,
            what="changes of rooms and members",
        )
        self._begun: set[asyncio.Task[dict[str, Any]]] = set()

    async def create(self, principal: Principal, wanted: Create) -> dict[str, Any]:
        """A new room; who makes it owns it. The same creator's same ``key``, or id, is the room that is there."""
        roles = _roles(principal, wanted)
        if len(roles) > (most := self._hub.settings.chat_max_members):
            raise full(f"a room may have {most} members", most)
        room = wanted.room or secrets.token_urlsafe(_ROOM_BYTES)
        self._gate.check_scope(principal, room_id(room))
        about = (room, room_name(wanted.name), wanted.public, _tags(wanted), principal.user, _key(wanted), len(roles))
        await self._spend(principal, len(roles))
        async with self._hub.database.transaction(principal.org) as tx:
            there = await _made_before(tx, principal, wanted)
            if there is None:
                await self._check_quotas(tx, principal, roles)
                if await tx.fetch_value(_CREATE, principal.org, *about) is not None:
                    await self._fill(tx, principal, room, wanted, roles)
                    return {"room": await _room(tx, room, principal.user), "duplicate": False}
                there = await _made_before(tx, principal, wanted)  # by another connection, meanwhile
            if there is None or (there["role"] is None and not there["public"]):
                raise HubError(ErrorCode.CONFLICT, "that 'room' or 'key' is taken; choose another, or none")
            self._gate.check_scope(principal, there["room"])
            return {"room": there, "duplicate": True}

    async def _check_quotas(self, tx: Transaction, principal: Principal, roles: Mapping[str, Role]) -> None:
        """After it nobody else makes a room of the organisation until the end of the transaction."""
        settings = self._hub.settings
        await self._gate.check_own(tx, principal.user)
        await self._gate.check_invited(tx, [user for user in roles if user != principal.user])
        await tx.execute(_ONE_AT_A_TIME, tx.org)
        (rooms,) = await tx.fetch(_HOW_MANY, tx.org, principal.user)
        if rooms["of_all"] >= settings.chat_max_rooms:
            raise full(f"the organisation has {settings.chat_max_rooms} rooms", settings.chat_max_rooms)
        if rooms["own"] >= settings.chat_max_rooms_created:
            raise full(f"you have made {settings.chat_max_rooms_created} rooms", settings.chat_max_rooms_created)

    async def _fill(
        self, tx: Transaction, principal: Principal, room: str, wanted: Create, roles: Mapping[str, Role]
    ) -> None:
        by = principal.user
        names = [display_name(principal) if user == by else "" for user in roles]
        await tx.execute(_FILL, tx.org, room, list(roles), names, [str(role) for role in roles.values()], by)
        for user in sorted(roles, key=self._hub.user_topic):
            if user != by:
                told = {"room": room, "name": room_name(wanted.name), "by": by, "role": roles[user]}
                await tx.publish(self._hub.user_topic(user), INVITED, told, by=by)

    async def _spend(self, principal: Principal, amount: int = 1) -> None:
        await self._bucket.spend(principal.org, principal.user, amount)

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
        await self._spend(principal)
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            if entry.access.name != name:
                await entry.tx.execute(_RENAME, principal.org, room, name)
                await entry.publish(ROOM_CHANGED, {"room": _facts(entry, name=name)})
            return {"room": await _room(entry.tx, room, principal.user)}

    async def archive(self, principal: Principal, room: str, archived: bool) -> dict[str, Any]:
        """Nobody writes in an archived room; everything else stays."""
        await self._spend(principal)
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
        await self._spend(principal)
        async with self._gate.entered(principal, room, Action.MARK) as entry:
            return {"room": await _room(entry.tx, room, principal.user)}

    async def invite(self, principal: Principal, wanted: Invite) -> dict[str, Any]:
        """Makes somebody a member, or gives a member another role."""
        user, room, role = check_user(wanted.user), wanted.room, wanted.role
        await self._spend(principal)
        async with self._gate.entered(principal, room, Action.MANAGE) as entry:
            before = await entry.tx.fetch_value(_ROLE, principal.org, room, user)
            if before is None:
                await entry.invite(user, role)
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
        await self._spend(principal)
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
        check_user(user)
        await self._spend(principal)
        return await self._carried_through(self._remove(principal, room, user))

    async def leave(self, principal: Principal, room: str) -> dict[str, Any]:
        """Ends one's own membership, as ``remove`` does. The last owner stays while there are others."""
        await self._spend(principal)
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
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_told_nobody)
            raise


def _tags(wanted: Create) -> dict[str, Any]:
    for text in (*wanted.tags, *wanted.tags.values()):
        if isinstance(text, str) and not text.isprintable():
            raise bad_request("'tags' have printable characters")
    return dict(wanted.tags)


def _roles(principal: Principal, wanted: Create) -> dict[str, Role]:
    """Who is in a new room: first its creator, who owns it whatever is said of him."""
    new = [NewMember(item) if isinstance(item, str) else item for item in wanted.members]
    roles = {principal.user: Role.OWNER} | {check_user(item.user, "members"): item.role for item in new}
    return roles | {principal.user: Role.OWNER}


def _key(wanted: Create) -> str | None:
    if wanted.key is not None and not wanted.key.isprintable():
        raise bad_request("'key' has 1 to 128 printable characters")
    return wanted.key


async def _made_before(tx: Transaction, principal: Principal, wanted: Create) -> dict[str, Any] | None:
    room = await tx.fetch_value(_MADE_BEFORE, tx.org, principal.user, wanted.key, wanted.room)
    return None if room is None else await _room(tx, room, principal.user)


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


def _told_nobody(task: asyncio.Task[Any]) -> None:
    """Whoever asked has left: a refusal is no fault then, anything else is one as always."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, HubError):
        said = {"message": "a change failed that nobody waits for any more", "exception": error, "task": task}
        task.get_loop().call_exception_handler(said)


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
    removed = user != entry.principal.user
    await entry.tx.execute(_LEAVE, entry.tx.org, entry.room, user, entry.access.public, removed)
    await entry.tx.execute(_COUNT_OUT, entry.tx.org, entry.room)
    await entry.publish(LEFT, {"user": user, "by": entry.principal.user})
