"""Streams in PostgreSQL: the plan of each, what its owner wants of it, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from hub.api import Database, ErrorCode, HubError, OrgId, Settings, not_found
from services.content.pipeline import Complexity, ContentType, Speed, Unit
from services.content.states import FINISHED, State, Verb, after

_CODEC = "utf-8"
_ANY_TEXT = "surrogatepass"  # JSON can hold halves of surrogate pairs; the pipeline says what becomes of them

# Taken first, so that of two that come at once the second one sees what the first one has begun. A crash of PostgreSQL
# in the next instants may take the row back; the stream then goes on without.
_PREPARE = """
SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0)), set_config('synchronous_commit', 'off', true)
"""
_BEGIN = """
INSERT INTO hub.content_streams AS s (org, id, owner, state, speed, bytes, plan, source, run, expires_at)
SELECT $1, $2, $3, 'running', $4, $5, $6, $7, to_hex((extract(epoch FROM now()) * 1000)::bigint),
  now() + $8 * interval '1 second'
WHERE (
  SELECT count(*) FROM hub.content_streams
  WHERE org = $1 AND owner = $3 AND finished_at IS NULL AND ($11 OR plan ->> 'kind' = 'assistant')
) < $10
ON CONFLICT (org, id) DO UPDATE SET
  state = 'running', speed = excluded.speed, version = s.version + 1, part = s.part + 1,
  bytes = s.bytes + excluded.bytes, plan = excluded.plan, source = excluded.source, result = NULL,
  run = greatest(excluded.run, s.run || '0'),  -- later than the one before, also where the clock went back
  started_at = now(), driven_at = now(), finished_at = NULL, expires_at = excluded.expires_at
WHERE s.owner = excluded.owner AND s.state = 'complete' AND s.bytes + excluded.bytes <= $9
RETURNING part, run, version, chunks, blocks
"""
_WHY_NOT = "SELECT owner, state, bytes FROM hub.content_streams WHERE org = $1 AND id = $2"
_LOCK = "SELECT state, speed, version FROM hub.content_streams WHERE org = $1 AND id = $2 AND owner = $3 FOR UPDATE"
_CHANGE = """
UPDATE hub.content_streams SET state = $3, speed = $4, version = version + 1 WHERE org = $1 AND id = $2
RETURNING state, speed, version
"""
_LOAD = """
SELECT id, owner, state, speed, version, part, run, plan, source, chunks, blocks, finished_at IS NOT NULL AS finished,
  extract(epoch FROM now() - started_at)::float8 AS age_s
FROM hub.content_streams WHERE org = $1 AND id = $2
"""
_WANTED = "SELECT id, state, speed, version FROM hub.content_streams WHERE org = $1 AND id = ANY ($2)"
_DRIVEN = """
UPDATE hub.content_streams SET driven_at = now() WHERE org = $1 AND id = ANY ($2) AND finished_at IS NULL
RETURNING id, state, speed, version
"""
_FINISH = """
UPDATE hub.content_streams SET state = $4, html = html || $5, chunks = $6, blocks = $7, result = $8, source = '',
  version = version + 1, finished_at = now(), expires_at = now() + $9 * interval '1 second'
WHERE org = $1 AND id = $2 AND part = $3 AND finished_at IS NULL
"""
_SUMMARY = """
id AS stream, state, speed, part, chunks, bytes, plan ->> 'kind' AS kind, plan ->> 'content_type' AS content_type,
  result ->> 'complexity' AS complexity, result,
  (extract(epoch FROM created_at) * 1000)::bigint AS created_ms,
  (extract(epoch FROM finished_at) * 1000)::bigint AS finished_ms
"""
_LIST = f"""
SELECT {_SUMMARY} FROM hub.content_streams
WHERE org = $1 AND owner = $2 AND ($4::text IS NULL OR (created_at, id) < (
  SELECT created_at, id FROM hub.content_streams WHERE org = $1 AND owner = $2 AND id = $4))
ORDER BY created_at DESC, id DESC LIMIT $3
"""  # noqa: S608 - made of constants
_GET = f"SELECT {_SUMMARY}, html FROM hub.content_streams WHERE org = $1 AND id = $2"  # noqa: S608
Kind = Literal["document", "restored", "assistant"]


class Plan(Struct, frozen=True):
    """How a part's source becomes chunks, the same on every node."""

    kind: Kind
    """``restored``: the source is sanitised HTML of our own. ``assistant``: it is the prompt."""
    unit: Unit
    content_type: ContentType
    processing_ms: float = 0.0
    cached: bool = False
    provider: str | None = None
    complexity: Complexity | None = None
    """Of the source that was restored; None: what its HTML has."""


class Wanted(Struct, frozen=True):
    """What the owner of a stream wants of it. Of two, the one with the higher version counts."""

    state: State
    speed: Speed
    version: int


class Stored(Struct, frozen=True):
    """A stream's present part."""

    org: OrgId
    id: str
    owner: str
    part: int
    plan: Plan
    run: str
    """In all its events: tells them from those of another part, or of an earlier stream of the same name. The run of
    what began later is the higher text."""
    source: str
    wanted: Wanted
    first_index: int = 0
    """Chunks of the parts before."""
    first_block: int = 0
    finished: bool = False
    age_s: float = 0.0
    """Since this part was started."""


class Store:
    """All statements about streams. Raises ``unavailable`` when the database is away, beside what is said."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    async def begin(self, org: OrgId, stream: str, owner: str, speed: Speed, plan: Plan, source: str) -> Stored:
        """Writes a new stream, or the next part of a complete one of the same owner.

        Raises ``conflict``, ``too_large``, and ``rate_limited`` while the owner has as many as he may.
        """
        settings = self._settings
        encoded = source.encode(_CODEC, _ANY_TEXT)
        keep_s = settings.content_session_s + settings.content_keep_s
        assistant = plan.kind == "assistant"
        most = settings.assistant_max_per_user if assistant else settings.content_running_per_user
        row = (org, stream, owner, speed, len(encoded), _built(plan), encoded, keep_s)
        async with self._database.transaction(org) as tx:
            await tx.fetch_row(_PREPARE, org, owner)
            begun = await tx.fetch_row(_BEGIN, *row, settings.content_max_stream_bytes, most, not assistant)
            if begun is None:
                there = await tx.fetch_row(_WHY_NOT, org, stream)
                raise _refused(there, owner, len(encoded), settings.content_max_stream_bytes, most)
        wanted = Wanted(State.RUNNING, speed, begun["version"])
        place = (begun["chunks"], begun["blocks"])
        return Stored(org, stream, owner, begun["part"], plan, begun["run"], source, wanted, *place)

    async def control(self, org: OrgId, stream: str, owner: str, verb: Verb, speed: Speed | None = None) -> Wanted:
        """Changes what is wanted. Raises ``not_found`` for what is not the owner's, and ``conflict``."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_LOCK, org, stream, owner)
            if row is None:
                raise not_found("stream")
            before = _wanted(row)
            state = after(before.state, verb)
            if (state, speed or before.speed) == (before.state, before.speed):
                return before
            return _wanted(await tx.fetch_row(_CHANGE, org, stream, state, speed or before.speed))

    async def load(self, org: OrgId, stream: str) -> Stored | None:
        """The present part of a stream, for whoever goes on with it."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_LOAD, org, stream)
        if row is None:
            return None
        plan = msgspec.convert(row["plan"], Plan)
        source = bytes(row["source"]).decode(_CODEC, _ANY_TEXT)
        place = (row["chunks"], row["blocks"], row["finished"], row["age_s"])
        return Stored(org, row["id"], row["owner"], row["part"], plan, row["run"], source, _wanted(row), *place)

    async def wanted(self, org: OrgId, streams: Sequence[str]) -> dict[str, Wanted]:
        """What is wanted of each; what is gone is left out."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_WANTED, org, list(streams))
        return {row["id"]: _wanted(row) for row in rows}

    async def finish(self, stored: Stored, state: State, html: str, counts: tuple[int, int], result: Any) -> None:
        """The part has ended in ``state``; ``counts``: chunks and blocks of the stream by now.

        A second time is nothing.
        """
        keep_s = self._settings.content_keep_s
        async with self._database.transaction(stored.org) as tx:
            await tx.execute(_FINISH, stored.org, stored.id, stored.part, state, html, *counts, result, keep_s)

    async def list(self, org: OrgId, owner: str, limit: int, before: str | None) -> list[dict[str, Any]]:
        """One user's streams, the newest first."""
        async with self._database.transaction(org) as tx:
            return [dict(row) for row in await tx.fetch(_LIST, org, owner, limit, before)]

    async def get(self, org: OrgId, stream: str) -> dict[str, Any]:
        """A stream with its HTML as far as it is complete. Raises ``not_found``."""
        async with self._database.transaction(org) as tx:
            row = await tx.fetch_row(_GET, org, stream)
        if row is None:
            raise not_found("stream")
        return dict(row)

    async def driven(self, org: OrgId, streams: Sequence[str]) -> dict[str, Wanted]:
        """Says that these are driven; answers as ``wanted``."""
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_DRIVEN, org, list(streams))
        return {row["id"]: _wanted(row) for row in rows}

    async def abandoned(self, age_s: int, most: int) -> Sequence[tuple[OrgId, str]]:
        """Up to ``most`` streams, of any organisation, that have not ended and that nobody has driven for ``age_s``."""
        found = await self._database.maintain_rows("SELECT org, id FROM hub.abandoned_content($1, $2)", age_s, most)
        return [(org, row["id"]) for org, row in found]

    async def expire(self, most: int) -> int:
        """Deletes up to ``most`` streams, of any organisation, whose time is over; returns how many."""
        return int(await self._database.maintain("SELECT hub.expire_content($1)", most))


def _built(plan: Plan) -> Any:
    return msgspec.to_builtins(plan)


def _wanted(row: Any) -> Wanted:
    return Wanted(State(row["state"]), Speed(row["speed"]), row["version"])


def _refused(row: Any, owner: str, more: int, longest: int, most: int) -> HubError:
    """Why nothing was begun. ``row``: what is there under that name."""
    if row is not None and row["owner"] != owner:
        return HubError(ErrorCode.CONFLICT, "that name is taken; choose another 'stream', or none")
    state = State.COMPLETE if row is None else State(row["state"])
    if row is not None and state is not State.COMPLETE:
        what = "begin another" if state in FINISHED else "wait for its stream_complete, or begin another"
        return HubError(ErrorCode.CONFLICT, f"the stream is {state}; {what}", details={"state": str(state)})
    if row is not None and row["bytes"] + more > longest:
        return HubError(
            ErrorCode.TOO_LARGE,
            f"the stream would have more than {longest} bytes; begin another",
            details={"bytes": row["bytes"], "max_bytes": longest},
        )
    return HubError(
        ErrorCode.RATE_LIMITED,
        f"{most} streams of yours are running; wait for one to end, or cancel one",
        retry_after_ms=1000,
        details={"limit": most},
    )
