"""Pages of a room from PostgreSQL, and search. A page says up to which event it is true, so that live ones join it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

from hub.api import ErrorCode, Hub, HubError, Principal, Transaction, bad_request
from services.chat.asked import ReadHistory, Search
from services.chat.gate import Gate, check_user
from services.chat.kinds import room_topic
from services.chat.shapes import MESSAGE_COLUMNS, REACTIONS, fitting, message_of
from services.chat.text import room_id

_MESSAGES = (
    f"SELECT {MESSAGE_COLUMNS}, {REACTIONS} AS reacted FROM hub.chat_messages AS m WHERE m.org = $1 AND m.room = $2"  # noqa: S608
)
_BEFORE = f"({_MESSAGES} AND m.number < $3 ORDER BY m.number DESC LIMIT $4)"
_AFTER = f"({_MESSAGES} AND m.number > $3 ORDER BY m.number LIMIT $4)"
_SINCE = f"({_MESSAGES} AND m.number >= $3 ORDER BY m.number LIMIT $5)"
# One statement, so that the page and what is said of it are of the same moment.
_PAGE = """
SELECT moment.*, page.* FROM (
  SELECT hub.chat_number($2) AS as_of,
    EXISTS (SELECT FROM hub.chat_messages AS m WHERE m.org = $1 AND m.room = $2 AND m.number {} $3) AS beyond
) AS moment LEFT JOIN ({}) AS page ON true
"""
_QUERIES = {
    "before": _PAGE.format(">=", _BEFORE),
    "after": _PAGE.format("<=", _AFTER),
    "around": _PAGE.format(">=", f"{_BEFORE} UNION ALL {_SINCE}"),
}
_READS = "SELECT member, read_number FROM hub.chat_members WHERE org = $1 AND room = $2 AND read_number > 0 LIMIT $3"
_SEARCH = f"""
SELECT m.room, r.name AS room_name, (extract(epoch FROM m.created_at) * 1000000)::bigint AS created_us,
  {MESSAGE_COLUMNS}
FROM hub.search_chat($2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY AS found
JOIN hub.chat_messages AS m ON m.org = $1 AND m.room = found.room AND m.number = found.number
JOIN hub.chat_rooms AS r ON r.org = m.org AND r.id = m.room
ORDER BY found.ordinality
"""  # noqa: S608 - made of constants
_TIMEOUT = "SELECT set_config('statement_timeout', $1, true)"
_CANCELLED = "57014"  # what PostgreSQL says of it
_RETRY_MS = 1000
_CURSOR = re.compile(r"([0-9]{1,17}):([0-9]{1,18}):(.+)", re.ASCII)
_FAR = 2**62


class HistoryPages:
    """What the methods ``chat.history`` and ``chat.search`` do. Everything raises ``HubError``."""

    def __init__(self, hub: Hub, gate: Gate) -> None:
        self._hub = hub
        self._gate = gate
        settings = hub.settings
        self.reads = hub.limits.bucket(
            "chat-reads",
            per_second=settings.chat_reads_per_second,
            burst=settings.chat_reads_burst,
            what="pages",
        )
        """Pays for everything that is read but searches."""
        self._places = asyncio.Semaphore(settings.chat_searches_at_once)
        self._searching = 0
        self._bucket = hub.limits.bucket(
            "chat-search",
            per_second=settings.chat_searches_per_second,
            burst=settings.chat_searches_burst,
            what="searches",
        )

    async def page(self, principal: Principal, wanted: ReadHistory) -> dict[str, Any]:
        """Messages in order, the newest last.

        Whoever subscribes ``since`` the position and skips events up to ``as_of`` misses nothing and gets nothing
        twice: the position was read before the page.
        """
        if [wanted.before, wanted.after, wanted.around].count(None) < 2:
            raise bad_request("chat.history: give one of 'before', 'after' and 'around', or none")
        room, most = wanted.room, self._hub.settings.chat_receipts_max_members
        self._gate.check_scope(principal, room)
        top = await self._hub.read(principal.org, room_topic(room), last=1)
        query, args = _asked(wanted)
        async with self._gate.seen(principal, room) as (tx, access):
            rows = await tx.fetch(query, principal.org, room, *args)
            reads = await tx.fetch(_READS, principal.org, room, most) if access.members <= most else []
        as_of, beyond = rows[0]["as_of"], rows[0]["beyond"]
        found = sorted((row for row in rows if row["number"]), key=lambda row: row["number"])
        page, more_before, more_after = _cut(wanted, found, beyond)
        messages = [message_of(row, row["reacted"]) for row in page]
        start, end = self._fitting(messages, wanted)
        return {
            "messages": messages[start:end],
            "as_of": as_of,
            "position": {"epoch": top.epoch, "seq": top.top},
            "more_before": more_before or start > 0,
            "more_after": more_after or end < len(messages),
            "reads": {row["member"]: row["read_number"] for row in reads},
        }

    async def search(self, principal: Principal, wanted: Search) -> dict[str, Any]:
        """Messages with these words in rooms that one may read, the newest first."""
        await self._bucket.spend(principal.org, principal.user)
        if not wanted.query.isprintable():
            raise bad_request("chat.search: 'query' has control characters")
        org, most = principal.org, wanted.limit
        args = (check_user(principal.user), wanted.query, wanted.room, *_cursor(wanted.before), most + 1)
        async with self._turn(), self._searched(principal, wanted.room) as tx:
            rows = await tx.fetch(_SEARCH, org, *args)
        shown = [row for row in rows[:most] if principal.allows("subscribe", room_topic(row["room"]))]
        found = [{"room": row["room"], "room_name": row["room_name"], **message_of(row)} for row in shown]
        fit = fitting(found, range(len(found)), self._hub.settings.chat_page_bytes)
        end = shown[fit - 1] if fit < len(found) else rows[most - 1] if len(rows) > most else None
        return {"messages": found[:fit], "next": end and f"{end['created_us']}:{end['number']}:{end['room']}"}

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Few search at a time, or searches would take all connections of the pool."""
        settings = self._hub.settings
        if self._searching >= settings.chat_searches_at_once + settings.chat_searches_waiting:
            raise HubError(ErrorCode.RATE_LIMITED, "too many search at once; try again", retry_after_ms=_RETRY_MS)
        self._searching += 1
        try:
            async with self._places:
                yield
        finally:
            self._searching -= 1

    @contextlib.asynccontextmanager
    async def _searched(self, principal: Principal, room: str | None) -> AsyncIterator[Transaction]:
        """A transaction that waits less long for a statement than others do."""
        timeout_s = self._hub.settings.chat_search_timeout_s
        try:
            async with contextlib.AsyncExitStack() as stack:
                if room is None:
                    tx = await stack.enter_async_context(self._hub.database.transaction(principal.org))
                else:
                    tx, _ = await stack.enter_async_context(self._gate.seen(principal, room))
                await tx.execute(_TIMEOUT, str(int(timeout_s * 1000)))
                yield tx
        except HubError as error:
            if getattr(error.__cause__, "sqlstate", None) != _CANCELLED:
                raise
            text = f"the search took more than {timeout_s:g} s; give rarer words, or a room"
            raise HubError(ErrorCode.TIMEOUT, text, retry="never") from error

    def _fitting(self, messages: list[dict[str, Any]], wanted: ReadHistory) -> tuple[int, int]:
        """Which of the messages a page has room for: those next to where it was asked for."""
        at = 0 if wanted.after is not None else len(messages)
        if wanted.around is not None:
            at = sum(message["number"] < wanted.around for message in messages)
        near = sorted(range(len(messages)), key=lambda place: (max(place - at, at - 1 - place), place < at))
        taken = near[: fitting(messages, near, self._hub.settings.chat_page_bytes)]
        return min(taken, default=0), max(taken, default=-1) + 1


def _cursor(text: str | None) -> tuple[int | None, str | None, int | None]:
    """When, in which room and which number the last message of the page before was. Raises ``bad_request``."""
    if text is None:
        return None, None, None
    parsed = _CURSOR.fullmatch(text)
    if parsed is None:
        raise bad_request("'before' is the 'next' of an earlier answer")
    return int(parsed[1]), room_id(parsed[3]), int(parsed[2])


def _asked(wanted: ReadHistory) -> tuple[str, tuple[int, ...]]:
    """The statement and what it takes; one message more than wanted shows whether there are more."""
    if wanted.after is not None:
        return _QUERIES["after"], (wanted.after, wanted.limit + 1)
    if wanted.around is not None:
        half = wanted.limit // 2
        return _QUERIES["around"], (wanted.around, half + 1, wanted.limit - half + 1)
    return _QUERIES["before"], (wanted.before or _FAR, wanted.limit + 1)


def _cut(wanted: ReadHistory, rows: list[Any], beyond: bool) -> tuple[list[Any], bool, bool]:
    """The page, and whether there are messages before and after it; ``beyond``: on the side where it was not looked."""
    if wanted.after is not None:
        return rows[: wanted.limit], beyond, len(rows) > wanted.limit
    if wanted.around is None:
        return rows[-wanted.limit :], len(rows) > wanted.limit, beyond
    half = wanted.limit // 2
    before = [row for row in rows if row["number"] < wanted.around]
    since = [row for row in rows if row["number"] >= wanted.around]
    kept = before[-half:] if half else []
    return [*kept, *since[: wanted.limit - half]], len(before) > half, len(since) > wanted.limit - half
