"""Rooms that have been talked in for years, written straight into the tables: saying all of it would take as long."""

from __future__ import annotations

import asyncpg

from hub.embedded import PostgresServer
from loadtest.hub_server import ORG

MEMBERS = 20
FREQUENT, SELDOM, RARE = "harbour", "lantern", "zeppelin"
"""Words of one message in 10, in 1 000 and in 100 000."""

_ROOM = """
INSERT INTO hub.chat_rooms (org, id, name, public, created_by, members, messages, last_number, last_at)
SELECT $1, $2 || i, 'Room ' || i, $6, 'u0', $4, $5, $5, now() - i * interval '7 s'
FROM generate_series(1, $3::int) AS i
"""
# So that everybody has read something else.
_MEMBERS = """
INSERT INTO hub.chat_members (org, room, member, name, role, read_number, read_count, told_number)
SELECT $1, $2 || i, CASE WHEN j = 0 AND i <= $6 THEN 'reader' ELSE 'u' || (i * 31 + j) END, 'Somebody',
  CASE WHEN j = 1 THEN 'owner' ELSE 'member' END, read, read, read
FROM generate_series(1, $3::int) AS i, generate_series(0, $4::int - 1) AS j,
  LATERAL (SELECT (i * 7 + j * 13) % $5 AS read)
"""
_MESSAGES = f"""
INSERT INTO hub.chat_messages
  (org, room, number, ordinal, text_number, author, author_name, key, format, text, html, created_at)
SELECT $1, $2 || i, n, n, n, 'u' || (n % 20), 'Somebody', 'key-' || n, 'text', said, '<p>' || said || '</p>',
  now() - ($4::bigint - n) * interval '30 s'
FROM generate_series(1, $3::int) AS i, generate_series(1, $4::bigint) AS n, LATERAL (
  SELECT 'It is message ' || n || ' of what was said about houses, tasks and the weather of day ' || n / 2000
    || CASE WHEN n % 10 = 3 THEN ' near the {FREQUENT}' ELSE '' END
    || CASE WHEN n % 1000 = 7 THEN ' by a {SELDOM}' ELSE '' END
    || CASE WHEN n % 100000 = 11 THEN ' under a {RARE}' ELSE '' END AS said
) AS text
"""
_COUNTER = """
INSERT INTO hub.topic_counters (org, topic, number)
SELECT $1, 'chat:' || $2 || i, $4 FROM generate_series(1, $3::int) AS i
"""
_REACTIONS = """
INSERT INTO hub.chat_reactions (org, room, number, emoji, member)
SELECT org, room, number, '👍', 'u' || j FROM hub.chat_messages, generate_series(1, 3) AS j
WHERE org = $1 AND room LIKE $2 || '%' AND number % 10 = 0 AND number > $3
"""
_REACTED = """
UPDATE hub.chat_messages SET reactions = 3 WHERE org = $1 AND room LIKE $2 || '%' AND number % 10 = 0 AND number > $3
"""


async def fill(
    database: PostgresServer, prefix: str, rooms: int, messages: int, *, mine: int = 0, public: bool = False
) -> None:
    """``rooms`` rooms ``prefix1``, ``prefix2`` … of ``MEMBERS`` members and ``messages`` messages each.

    The user ``reader`` is in the first ``mine`` of them, and has read a part. One message in ten of the newest thousand
    has reactions.
    """
    link = await asyncpg.connect(database.url("postgres"))
    try:
        async with link.transaction():
            await link.execute(_ROOM, ORG, prefix, rooms, MEMBERS, messages, public)
            await link.execute(_MEMBERS, ORG, prefix, rooms, MEMBERS, messages, mine)
            await link.execute(_MESSAGES, ORG, prefix, rooms, messages)
            await link.execute(_COUNTER, ORG, prefix, rooms, messages)
            await link.execute(_REACTED, ORG, prefix, messages - 1000)
            await link.execute(_REACTIONS, ORG, prefix, messages - 1000)
        await link.execute("VACUUM ANALYZE")
    finally:
        await link.close()
