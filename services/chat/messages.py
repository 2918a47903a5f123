"""Messages: send, edit, delete, react. Each is one transaction, and what the room is told is part of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from hub.api import ErrorCode, Hub, HubError, Principal, bad_request, not_found
from services.chat.asked import Edit, React, Send
from services.chat.erasing import Eraser
from services.chat.gate import Entry, Gate, check_user, display_name
from services.chat.kinds import CREATED, DELETED, EDITED, MENTIONED, REACTION
from services.chat.metrics import ChatMetrics
from services.chat.rules import Action, Role
from services.chat.shapes import MESSAGE_COLUMNS, REACTIONS, edited, message_of
from services.chat.text import emoji, message_text

_EVENT_BYTES: Final = 65_536  # what hub_publish takes
_EVENT_REST: Final = 64  # of an event, beside the message: its number
_UPLOAD = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_MOST_REACTIONS: Final = 500  # of all members to one message; they travel with every page

_BY_KEY = f"""
SELECT {MESSAGE_COLUMNS}, {REACTIONS} AS reacted FROM hub.chat_messages AS m
WHERE m.org = $1 AND m.room = $2 AND m.author = $3 AND m.key = $4
"""  # noqa: S608 - made of constants
_THERE = "SELECT EXISTS (SELECT FROM hub.chat_messages WHERE org = $1 AND room = $2 AND number = $3)"
# Who may read what they are mentioned in: in a public room everybody who is in some room of the organisation.
_MENTIONED = """
SELECT DISTINCT member FROM hub.chat_members WHERE org = $1 AND member = ANY ($2) AND ($3 OR room = $4)
"""
# To write is to have read. Whoever was invited has no name until then. The time is that at which the room's turn came,
# not that at which it was waited for, so that later messages are not older.
_SEND = f"""
WITH room AS (
  UPDATE hub.chat_rooms
  SET messages = messages + 1, last_number = $3, last_at = greatest(last_at, clock_timestamp())
  WHERE org = $1 AND id = $2
  RETURNING messages, last_at
), own AS (
  UPDATE hub.chat_members SET read_number = $3, read_count = (SELECT messages FROM room), told_number = $3,
    name = coalesce(nullif($5, ''), name)
  WHERE org = $1 AND room = $2 AND member = $4
)
INSERT INTO hub.chat_messages AS m
  (org, room, number, ordinal, text_number, author, author_name, key, format, text, html, reply_to, mentions,
  attachments, created_at)
SELECT $1, $2, $3, room.messages, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, room.last_at FROM room
RETURNING {MESSAGE_COLUMNS}
"""  # noqa: S608 - made of constants
_LOCK = f"""
SELECT {MESSAGE_COLUMNS}, {REACTIONS} AS reacted FROM hub.chat_messages AS m
WHERE m.org = $1 AND m.room = $2 AND m.number = $3 FOR UPDATE OF m
"""  # noqa: S608 - made of constants
_EDIT = f"""
UPDATE hub.chat_messages AS m SET text = $4, html = $5, format = $6, edited_at = clock_timestamp(), text_number = $7
WHERE org = $1 AND room = $2 AND number = $3 RETURNING {MESSAGE_COLUMNS}
"""  # noqa: S608 - made of constants
_DELETE = f"""
UPDATE hub.chat_messages AS m SET text = NULL, html = NULL, mentions = '{{}}', attachments = '{{}}', reactions = 0,
  deleted_at = clock_timestamp(), deleted_by = $4, deleted_why = $5
WHERE org = $1 AND room = $2 AND number = $3 RETURNING {MESSAGE_COLUMNS}
"""  # noqa: S608 - made of constants
_UNREACT_ALL = "DELETE FROM hub.chat_reactions WHERE org = $1 AND room = $2 AND number = $3"
_REACT = "INSERT INTO hub.chat_reactions (org, room, number, emoji, member) VALUES ($1, $2, $3, $4, $5)"
_UNREACT = "DELETE FROM hub.chat_reactions WHERE org = $1 AND room = $2 AND number = $3 AND emoji = $4 AND member = $5"
_COUNT = "UPDATE hub.chat_messages SET reactions = reactions + $4 WHERE org = $1 AND room = $2 AND number = $3"


class Messages:
    """What the methods about messages do. Everything raises ``HubError``."""

    def __init__(self, hub: Hub, gate: Gate, eraser: Eraser, metrics: ChatMetrics) -> None:
        self._hub = hub
        self._gate = gate
        self._eraser = eraser
        self._metrics = metrics
        settings = hub.settings
        self._bucket = hub.limits.bucket(
            "chat-messages",
            per_second=settings.chat_messages_per_second,
            burst=settings.chat_messages_burst,
            what="messages in this room",
        )

    async def send(self, principal: Principal, wanted: Send) -> dict[str, Any]:
        """A new message; the same key again gives the same message, however often and on whichever node."""
        text = message_text(wanted.text, self._hub.settings.chat_max_message_bytes)
        html = self._html(text, wanted.format)
        if not wanted.key.isprintable():
            raise bad_request("'key' has 1 to 128 printable characters")
        attachments = self._attachments(wanted.attachments)
        mentions = self._mentions(principal, wanted.mentions)
        await self._bucket.spend(principal.org, f"{wanted.room}/{principal.user}")
        org, room, user = principal.org, wanted.room, principal.user
        async with self._gate.entered(principal, room, Action.LOOK) as entry:
            # Asked before anything that may have changed since it was sent: who is muted now has sent it all the same.
            before = await entry.tx.fetch_row(_BY_KEY, org, room, user, wanted.key)
            if before is not None:
                self._metrics.changed("repeated")
                return {"message": message_of(before, before["reacted"]), "duplicate": True}
            await entry.act(Action.SPEAK)
            if wanted.reply_to is not None and not await entry.tx.fetch_value(_THERE, org, room, wanted.reply_to):
                raise not_found("message to reply to")
            mentions = await self._present(entry, mentions)
            row = (user, display_name(principal), wanted.key, wanted.format, text, html)
            about = (wanted.reply_to, mentions, attachments)
            (stored,) = await entry.tx.fetch(_SEND, org, room, entry.number, *row, *about)
            message = message_of(stored)
            await self._tell(entry, CREATED, message)
            told = {"room": room, "room_name": entry.access.name, "number": message["number"], "by": user}
            for mentioned in mentions:
                entry.tell(mentioned, MENTIONED, told)
        self._metrics.changed("sent")
        return {"message": message, "duplicate": False}

    async def edit(self, principal: Principal, wanted: Edit) -> dict[str, Any]:
        """Another text for one's own message; the old one is gone, also from what is replayed.

        The text that is there already is no change, so an edit may be repeated.
        """
        text = message_text(wanted.text, self._hub.settings.chat_max_message_bytes)
        await self._bucket.spend(principal.org, f"{wanted.room}/{principal.user}")
        org, room, number = principal.org, wanted.room, wanted.message
        async with self._gate.entered(principal, room, Action.LOOK) as entry:
            before = await self._lock(entry, number)
            if before["author"] != principal.user:
                raise HubError(ErrorCode.FORBIDDEN, "only its author edits a message")
            format_ = wanted.format or before["format"]
            if (text, format_) == (before["text"], before["format"]):
                return {"message": message_of(before, before["reacted"])}
            await entry.act(Action.SPEAK)
            changed = (text, self._html(text, format_), format_, entry.number)
            (row,) = await entry.tx.fetch(_EDIT, org, room, number, *changed)
            message = message_of(row, before["reacted"])
            told = await self._tell(entry, EDITED, edited(message))
            await self._eraser.note(entry.tx, room, told, [(before["text_number"], message)])
        self._eraser.soon(org, room)
        self._metrics.changed("edited")
        return {"message": message}

    async def delete(self, principal: Principal, room: str, number: int) -> dict[str, Any]:
        """A tombstone in place of a message, one's own or, for owners, anybody's."""
        await self._bucket.spend(principal.org, f"{room}/{principal.user}")
        async with self._gate.entered(principal, room, Action.LOOK) as entry:
            before = await entry.tx.fetch_row(_LOCK, principal.org, room, number)
            if before is None:
                raise not_found("message")
            if before["deleted_ms"] is not None:
                return {"message": message_of(before)}
            own = before["author"] == principal.user
            if not own and entry.access.role is not Role.OWNER:
                raise HubError(ErrorCode.FORBIDDEN, "only its author or an owner of the room deletes a message")
            why = "author" if own else "owner"
            (row,) = await entry.tx.fetch(_DELETE, principal.org, room, number, principal.user, why)
            await entry.tx.execute(_UNREACT_ALL, principal.org, room, number)
            tombstone = message_of(row)
            data = {"messages": [number], "reason": why, "by": principal.user, "at": tombstone["deleted_at"]}
            told = await entry.publish(DELETED, data)
            await self._eraser.note(entry.tx, room, told, [(before["text_number"], tombstone)])
        self._eraser.soon(principal.org, room)
        self._metrics.changed("deleted")
        return {"message": tombstone}

    async def react(self, principal: Principal, wanted: React) -> dict[str, Any]:
        """Puts a reaction to a message, or takes it back; a second time is nothing."""
        sign = emoji(wanted.emoji)
        await self._bucket.spend(principal.org, f"{wanted.room}/{principal.user}")
        org, room, number, user = principal.org, wanted.room, wanted.message, principal.user
        async with self._gate.entered(principal, room, Action.LOOK) as entry:
            reacted = dict((await self._lock(entry, number))["reacted"] or {})
            there = reacted.get(sign, [])
            if (user in there) is not wanted.on:
                await entry.act(Action.SPEAK)
                if wanted.on:
                    self._check_reactions(reacted, sign)
                await entry.tx.execute(_REACT if wanted.on else _UNREACT, org, room, number, sign, user)
                await entry.tx.execute(_COUNT, org, room, number, 1 if wanted.on else -1)
                reacted[sign] = sorted({*there, user}) if wanted.on else [one for one in there if one != user]
                self._metrics.changed("reacted")
                await entry.publish(REACTION, {"message": number, "user": user, "emoji": sign, "on": wanted.on})
        reactions = {name: users for name, users in reacted.items() if users}
        return {"message": number, "emoji": sign, "on": wanted.on, "reactions": reactions}

    # --- what was given

    def _html(self, text: str, format_: str) -> str:
        return self._hub.markup.html(text, markdown=format_ == "markdown")

    async def _tell(self, entry: Entry, event: str, message: Mapping[str, Any]) -> int:
        """Tells the room of a message; returns the event's number. Raises ``too_large`` for what no event can carry."""
        # As PostgreSQL prints it, with a blank after every comma and colon: that is what it measures.
        size = len(msgspec.json.format(msgspec.json.encode(message), indent=0)) + _EVENT_REST
        most = min(self._hub.settings.max_event_bytes, _EVENT_BYTES)
        if size > most:
            raise HubError(
                ErrorCode.TOO_LARGE,
                f"with its HTML and whom it mentions the message has {size} bytes; at most {most} travel",
                details={"bytes": size, "limit": most},
            )
        return await entry.publish(event, {"message": message})

    def _attachments(self, uploads: Sequence[str]) -> list[str]:
        most = self._hub.settings.chat_max_attachments
        if len(uploads) > most:
            raise HubError(ErrorCode.TOO_LARGE, f"a message has at most {most} attachments", details={"limit": most})
        for upload in uploads:
            if not _UPLOAD.fullmatch(upload):
                raise bad_request("'attachments' are ids of uploads")
        return list(dict.fromkeys(uploads))

    def _mentions(self, principal: Principal, users: Sequence[str]) -> list[str]:
        most = self._hub.settings.chat_max_mentions
        if len(users) > most:
            raise HubError(ErrorCode.TOO_LARGE, f"a message mentions at most {most} users", details={"limit": most})
        named = dict.fromkeys(check_user(user, "mentions") for user in users)
        return [user for user in named if user != principal.user]

    async def _present(self, entry: Entry, mentions: list[str]) -> list[str]:
        """Those who are there to be mentioned, and may read it."""
        if not mentions:
            return mentions
        public = entry.access.public
        rows = await entry.tx.fetch(_MENTIONED, entry.tx.org, mentions, public, entry.room)
        members = {row["member"] for row in rows}
        return [user for user in mentions if user in members]

    async def _lock(self, entry: Entry, number: int) -> Any:
        """A message that is still there, and stays as it is until the end of the transaction."""
        row = await entry.tx.fetch_row(_LOCK, entry.tx.org, entry.room, number)
        if row is None:
            raise not_found("message")
        if row["deleted_ms"] is not None:
            raise HubError(ErrorCode.CONFLICT, "the message was deleted")
        return row

    def _check_reactions(self, reacted: dict[str, list[str]], sign: str) -> None:
        most = self._hub.settings.chat_max_reactions
        if sign not in reacted and len(reacted) >= most:
            text = f"a message has at most {most} different reactions; use one of those that are there"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": most})
        if sum(map(len, reacted.values())) >= _MOST_REACTIONS:
            text = f"a message has at most {_MOST_REACTIONS} reactions"
            raise HubError(ErrorCode.QUOTA_EXCEEDED, text, retry="never", details={"limit": _MOST_REACTIONS})
