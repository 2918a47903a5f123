"""The outbox as its relay sees it: one connection as ``hub_relay`` that holds shards, reads rows and settles them.

The shards are session locks, so they end with the connection; a relay that finds ``closed`` true owns nothing any more.
What is published and in which order is the relay's business (``hub.fanout.outbox_relay``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import asyncpg
from msgspec import Struct

from hub.config import Settings
from hub.database.failures import translated
from hub.database.locks import LOCK_SPACE
from hub.database.waker import CHANNEL
from hub.errors import unavailable

SHARDS: Final = frozenset(range(16))
"""Fixed in ``hub.outbox_append`` too: a topic must stay in its shard for good."""

_CLOSE_TIMEOUT_S = 1.0

_TAKE = "SELECT shard FROM unnest($1::integer[]) AS shard WHERE pg_try_advisory_lock($2, shard)"
_HANG = """
SELECT set_config('idle_session_timeout', $1, false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'
"""
# Ids are drawn under the topic's lock, so id order is each topic's order, and the oldest rows of all topics come first.
# The relayed rows of a topic are all on one server (see mark_relayed), so the newest one before the page tells which.
_PENDING = """
WITH page AS MATERIALIZED (
  SELECT id, org, topic, number, event_id, key, name, data, tags, by_user, sum(bytes) OVER (ORDER BY id) AS total,
    bytes, extract(epoch FROM now() - created_at)::float8 AS age_s
  FROM (
    SELECT * FROM hub.outbox
    WHERE state = 'pending' AND shard = ANY ($1) AND (org || '/' || topic) <> ALL ($2)
    ORDER BY id LIMIT $3
  ) AS oldest
),
home AS MATERIALIZED (
  SELECT org, topic, (
    SELECT CASE WHEN settled_at > now() - $5 * interval '1 second' THEN server END FROM hub.outbox AS relayed
    WHERE relayed.org = named.org AND relayed.topic = named.topic AND relayed.number < named.first
      AND relayed.state = 'relayed'
    ORDER BY number DESC LIMIT 1
  ) AS server
  FROM (SELECT org, topic, min(number) AS first FROM page GROUP BY org, topic) AS named
)
SELECT id, org, topic, event_id::text, key, name, data::text AS data, tags::text AS tags, by_user, server, age_s, bytes
FROM page JOIN home USING (org, topic)
WHERE total - bytes < $4
ORDER BY id
"""
# `= ANY` makes the ids a condition of the index: whatever is chosen for the join, it does not read all that is pending.
_MARK_RELAYED = """
UPDATE hub.outbox AS o SET state = 'relayed', settled_at = now(), server = done.server
FROM unnest($1::bigint[], $2::text[]) AS done (id, server)
WHERE o.id = done.id AND o.id = ANY ($1) AND o.state = 'pending'
"""
_MARK_FAILED = """
UPDATE hub.outbox AS o SET state = 'failed', settled_at = now(), failure = done.failure
FROM unnest($1::bigint[], $2::text[]) AS done (id, failure)
WHERE o.id = done.id AND o.id = ANY ($1) AND o.state = 'pending'
"""
_REOPEN_TOPIC = """
UPDATE hub.outbox SET state = 'pending'
WHERE org = $1 AND topic = $2 AND state = 'relayed' AND server <> $3 AND settled_at > now() - $4 * interval '1 second'
"""
_REOPEN_GONE = """
UPDATE hub.outbox SET state = 'pending'
WHERE state = 'relayed' AND shard = ANY ($1) AND server <> ALL ($2) AND settled_at > now() - $3 * interval '1 second'
"""
PURGE = """
DELETE FROM hub.outbox AS o USING (
  (SELECT org, topic, number FROM hub.outbox
   WHERE state = 'relayed' AND shard = ANY ($1) AND settled_at < now() - $3 * interval '1 second'
   ORDER BY settled_at LIMIT $4)
  UNION ALL
  (SELECT org, topic, number FROM hub.outbox
   WHERE state = 'failed' AND shard = ANY ($1) AND settled_at < now() - $2 * interval '1 second'
   ORDER BY settled_at LIMIT $4)
) AS old
WHERE o.org = old.org AND o.topic = old.topic AND o.number = old.number AND o.state <> 'pending'
"""


class OutboxRow(Struct, frozen=True, gc=False):
    """A committed event that is not on its way yet. ``data`` and ``tags`` are JSON text."""

    id: int
    org: str
    topic: str
    event_id: str
    key: str
    name: str
    data: str
    tags: str | None
    by: str | None
    server: str | None
    """The Redis server that has this topic's relayed rows; None: it has none."""
    age_s: float
    """Seconds since its transaction began."""
    bytes: int
    """Of the data."""


class Outbox:
    """An open connection. Every method raises ``HubError(unavailable)`` once it is lost."""

    def __init__(self, connection: Any, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self._wake = asyncio.Event()
        self.held: frozenset[int] = frozenset()
        """Shards that this connection holds, as long as it is not ``closed``."""

    @property
    def closed(self) -> bool:
        """The connection is gone, and the shards with it."""
        return bool(self._connection.is_closed())

    async def listen(self) -> None:
        """Arms the wake-up, and makes PostgreSQL end this session when it hangs."""
        self._connection.add_termination_listener(lambda *_: self._wake.set())
        with translated():
            await self._connection.execute(_HANG, f"{int(self._settings.outbox_hang_s * 1000)}ms")
            await self._connection.add_listener(CHANNEL, lambda *_: self._wake.set())

    @property
    def woken(self) -> bool:
        """Something was committed since ``wait`` returned last."""
        return self._wake.is_set()

    async def wait(self, timeout_s: float) -> None:
        """Returns when something was committed or the time is up, whichever is first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()
        if self.closed:
            raise unavailable("the database")

    async def take_shards(self) -> frozenset[int]:
        """Takes every shard that no node holds; answers with the new ones."""
        free = sorted(SHARDS - self.held)
        if not free:
            return frozenset()
        taken = frozenset(row["shard"] for row in await self._fetch(_TAKE, free, LOCK_SPACE))
        self.held |= taken
        return taken

    async def pending(self, blocked: Collection[tuple[str, str]]) -> list[OutboxRow]:
        """The oldest rows of the held shards, without those of ``blocked`` (org, topic); one batch."""
        names = [f"{org}/{topic}" for org, topic in blocked]
        settings = self._settings
        bounds = (settings.outbox_batch, settings.outbox_batch_bytes, settings.outbox_keep_s)
        rows = await self._fetch(_PENDING, self.held, names, *bounds)
        return [OutboxRow(*row) for row in rows]

    async def mark_relayed(self, done: Sequence[tuple[int, str | None]]) -> None:
        """Settles rows (id, run_id of the server that has them; None: nothing was kept, so nothing can be lost).

        The caller keeps all relayed rows of a topic on one server: it publishes on condition of the one they are on,
        and calls ``reopen_topic`` when that has changed.
        """
        # In the order of the ids, as hub.outbox_erase locks rows.
        rows = sorted(done, key=itemgetter(0))
        await self._execute(_MARK_RELAYED, [row for row, _ in rows], [server for _, server in rows])

    async def mark_failed(self, failed: Iterable[tuple[int, str]]) -> None:
        """Settles rows that can never be published (id, reason)."""
        rows = sorted(failed)
        await self._execute(_MARK_FAILED, [row for row, _ in rows], [reason for _, reason in rows])

    async def reopen_topic(self, org: str, topic: str, server: str) -> int:
        """Makes rows pending again that are kept and on another server than ``server``; answers with how many."""
        return await self._execute(_REOPEN_TOPIC, org, topic, server, self._settings.outbox_keep_s)

    async def reopen_gone(self, servers: Collection[str]) -> int:
        """The same for all topics of the held shards whose server is none of ``servers``."""
        return await self._execute(_REOPEN_GONE, self.held, list(servers), self._settings.outbox_keep_s)

    async def purge(self) -> bool:
        """Deletes one batch of rows whose time is over; answers whether there may be more."""
        settings = self._settings
        keep = (settings.outbox_keep_failed_s, settings.outbox_keep_s)
        return await self._execute(PURGE, self.held, *keep, settings.outbox_batch) >= settings.outbox_batch

    async def _fetch(self, query: str, *args: object) -> list[Any]:
        with translated():
            rows: list[Any] = await self._connection.fetch(query, *args)
        return rows

    async def _execute(self, query: str, *args: object) -> int:
        with translated():
            tag: str = await self._connection.execute(query, *args)
        return int(tag.rsplit(" ", 1)[1])


@contextlib.asynccontextmanager
async def open_outbox(settings: Settings) -> AsyncIterator[Outbox]:
    """A connection as ``database_relay_url``; leaving the block gives all shards back."""
    with translated():
        connection = await asyncpg.connect(
            settings.database_relay_url,
            timeout=settings.database_timeout_s,
            command_timeout=settings.database_timeout_s,
            server_settings={
                "application_name": "hub relay",
                "search_path": "hub, public",
                # Nobody waits for the disk to have the marks. A crash of PostgreSQL can take the last ones back, those
                # after the last commit of a publisher; these rows are pending again, are relayed again before any
                # newer one, and their keys make them duplicates.
                "synchronous_commit": "off",
            },
        )
    try:
        outbox = Outbox(connection, settings)
        await outbox.listen()
        yield outbox
    finally:
        # close() says goodbye in order and, when PostgreSQL does not answer, cuts the line.
        with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=_CLOSE_TIMEOUT_S)
