"""What PostgreSQL says of the rooms of an organisation, read by plain SQL as the hub's own role, in one snapshot.

Nothing of ``services.chat`` is used, so that a fault in its reading cannot hide another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hub.embedded import RedisServer
from hub.orgs import OrgId
from hub.topics.topic import Topic
from tests.support.hub_database import HubDatabase
from tests.support.servers import client


@dataclass(slots=True)
class Written:
    """One message."""

    number: int
    author: str
    key: str
    text: str | None
    """None: a tombstone."""
    html: str | None
    edited: bool
    reason: str | None
    """Why it is a tombstone."""
    deleted_by: str | None
    reply_to: int | None
    mentions: list[str]
    reactions: dict[str, set[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Membership:
    """One member of a room."""

    role: str
    read: int


@dataclass(slots=True)
class RoomTruth:
    """One room."""

    name: str
    public: bool
    archived: bool
    top: int
    """Number of the newest event of the room's topic."""
    members: dict[str, Membership] = field(default_factory=dict)
    messages: dict[int, Written] = field(default_factory=dict)

    def may_see(self, user: str) -> bool:
        """Whether the user may subscribe."""
        return self.public or user in self.members

    def unread(self, user: str) -> int:
        """Messages beyond the user's cursor, whatever became of them."""
        return sum(number > self.members[user].read for number in self.messages)


async def read_rooms(database: HubDatabase, org: str) -> dict[str, RoomTruth]:
    """All rooms of the organisation."""
    async with (
        database.connect("hub_app") as link,
        link.transaction(isolation="repeatable_read", readonly=True),
    ):
        await link.execute("SELECT set_config('hub.org', $1, true)", org)
        rooms = {row["id"]: _room(row) for row in await link.fetch("SELECT * FROM hub.chat_rooms")}
        for row in await link.fetch("SELECT id, hub.chat_number(id) AS top FROM hub.chat_rooms"):
            rooms[row["id"]].top = row["top"]
        for row in await link.fetch("SELECT * FROM hub.chat_members"):
            rooms[row["room"]].members[row["member"]] = Membership(row["role"], row["read_number"])
        for row in await link.fetch("SELECT * FROM hub.chat_messages"):
            rooms[row["room"]].messages[row["number"]] = _written(row)
        for row in await link.fetch("SELECT * FROM hub.chat_reactions"):
            reactions = rooms[row["room"]].messages[row["number"]].reactions
            reactions.setdefault(row["emoji"], set()).add(row["member"])
    return rooms


async def pending(database: HubDatabase) -> int:
    """Events that are committed and not relayed yet."""
    async with database.connect("hub_relay") as link:
        return int(await link.fetchval("SELECT count(*) FROM hub.outbox WHERE state = 'pending'"))


async def kept_for_replay(database: HubDatabase, redis: RedisServer, org: str, rooms: Iterable[str]) -> str:
    """All that the outbox and the topics' histories say, as one text to search in."""
    async with database.connect("hub_relay") as link:
        said = [
            row["data"] for row in await link.fetch("SELECT data::text AS data FROM hub.outbox WHERE org = $1", org)
        ]
    with client(redis) as opened:
        for room in rooms:
            names = Topic(OrgId.from_claim(org), "chat", room).names
            said += [fields["body"] for _, fields in opened.xrange(names.history)]
    return "\n".join(said)


def _room(row: Any) -> RoomTruth:
    return RoomTruth(row["name"], row["public"], row["archived_at"] is not None, 0)


def _written(row: Any) -> Written:
    return Written(
        row["number"],
        row["author"],
        row["key"],
        row["text"],
        row["html"],
        row["edited_at"] is not None,
        row["deleted_why"],
        row["deleted_by"],
        row["reply_to"],
        list(row["mentions"]),
    )
