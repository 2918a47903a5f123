"""Rows as clients see them: rooms, messages, tombstones. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

MESSAGE_COLUMNS = """
m.number, m.author, m.author_name, m.format, m.text, m.html, m.reply_to, m.mentions, m.attachments, m.text_number,
  (extract(epoch FROM m.created_at) * 1000)::bigint AS created_ms,
  (extract(epoch FROM m.edited_at) * 1000)::bigint AS edited_ms,
  (extract(epoch FROM m.deleted_at) * 1000)::bigint AS deleted_ms, m.deleted_why
"""
"""Of ``hub.chat_messages AS m``, for ``message_of``."""

LAST_COLUMNS = MESSAGE_COLUMNS.replace("m.text, m.html", "left(m.text, 500) AS text, NULL AS html")
"""The same for ``last_of``."""

REACTIONS = """
(SELECT jsonb_object_agg(e.emoji, e.members) FROM (
  SELECT x.emoji, jsonb_agg(x.member ORDER BY x.member) AS members FROM hub.chat_reactions AS x
  WHERE m.reactions > 0 AND x.org = m.org AND x.room = m.room AND x.number = m.number GROUP BY x.emoji
) AS e)
"""
"""Who has reacted how to a message of ``hub.chat_messages AS m``."""

ROOM_COLUMNS = """
r.id, r.name, r.public, r.archived_at IS NOT NULL AS archived, r.members, r.tags, r.last_number,
  (extract(epoch FROM r.created_at) * 1000)::bigint AS room_created_ms,
  (extract(epoch FROM r.last_at) * 1000)::bigint AS last_ms,
  w.role, coalesce(w.read_number, 0) AS read_number,
  CASE WHEN w.member IS NULL THEN 0 ELSE r.messages - w.read_count END AS unread,
  CASE WHEN w.muted_until > now() THEN (extract(epoch FROM w.muted_until) * 1000)::bigint END AS muted_ms
"""
"""Of ``hub.chat_rooms AS r`` and somebody's ``hub.chat_members AS w``, for ``room_of``."""


def message_of(row: Mapping[str, Any], reactions: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A message, or its tombstone."""
    if row["deleted_ms"] is not None:
        return {
            "number": row["number"],
            "author": row["author"],
            "name": row["author_name"],
            "created_at": row["created_ms"],
            "reply_to": row["reply_to"],
            "reactions": {},
            "deleted": True,
            "deleted_at": row["deleted_ms"],
            "reason": row["deleted_why"],
        }
    return {
        "number": row["number"],
        "author": row["author"],
        "name": row["author_name"],
        "text": row["text"],
        "format": row["format"],
        "html": row["html"],
        "created_at": row["created_ms"],
        "edited_at": row["edited_ms"],
        "reply_to": row["reply_to"],
        "mentions": list(row["mentions"]),
        "attachments": list(row["attachments"]),
        "reactions": dict(reactions or {}),
        "deleted": False,
    }


def last_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A room's newest message, of ``LAST_COLUMNS``: without ``html``, which would make up most of a list of rooms."""
    message = message_of(row)
    message.pop("html", None)
    return message


def fitting(items: Sequence[Mapping[str, Any]], order: Iterable[int], most_bytes: int) -> int:
    """How many of ``items``, taken in ``order``, are together at most ``most_bytes`` of JSON; one at least."""
    size = 0
    for count, place in enumerate(order):
        size += len(msgspec.json.encode(items[place]))
        if size > most_bytes and count:
            return count
    return len(items)


def superseded(message: Mapping[str, Any]) -> dict[str, Any]:
    """What an event that carried a message says when a later one carries it: nothing of the text."""
    if message["deleted"]:
        return dict(message)
    return {**message, "text": "", "html": "", "mentions": [], "attachments": [], "reactions": {}, "superseded": True}


def edited(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as those get it who have it already: without its reactions, which are as they were and may be many."""
    return {field: value for field, value in message.items() if field != "reactions"}


def room_of(row: Mapping[str, Any], last: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A room as one user sees it; ``last``: its newest message, by ``last_of``."""
    return {
        "room": row["id"],
        "name": row["name"],
        "public": row["public"],
        "archived": row["archived"],
        "role": row["role"],
        "muted_until": row["muted_ms"],
        "members": row["members"],
        "tags": row["tags"],
        "created_at": row["room_created_ms"],
        "last_at": row["last_ms"],
        "unread": row["unread"],
        "read": row["read_number"],
        "last_number": row["last_number"],
        "last": None if last is None else dict(last),
    }
