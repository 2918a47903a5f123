"""Takes texts back that are no more: from the outbox at once, from the topic's history in Redis when they are there.

The note of what is to be done is part of the transaction that makes a text go; so it is done, by this node or another.
All notes of a room are done in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from hub.api import Hub, HubError, KeptEvent, OrgId, Page, Transaction
from services.chat.chores import each
from services.chat.kinds import room_topic
from services.chat.metrics import ChatMetrics
from services.chat.shapes import MESSAGE_COLUMNS, message_of, superseded

_NOTE = """
INSERT INTO hub.chat_erasures (org, room, number, numbers, due_at)
VALUES ($1, $2, $3, $4, now() + $5 * interval '1 second')
"""
_LOAD = """
SELECT number, numbers, extract(epoch FROM now() - created_at)::float8 AS age_s FROM hub.chat_erasures
WHERE org = $1 AND room = $2 AND (due_at < now() OR NOT done AND NOT $3) ORDER BY number LIMIT $4
"""
_DONE = """
WITH again AS (DELETE FROM hub.chat_erasures WHERE org = $1 AND room = $2 AND number = ANY ($3) AND done)
UPDATE hub.chat_erasures SET done = true, due_at = now() + $4 * interval '1 second'
WHERE org = $1 AND room = $2 AND number = ANY ($3) AND NOT done
"""
_LATER = """
UPDATE hub.chat_erasures SET due_at = now() + $4 * interval '1 second'
WHERE org = $1 AND room = $2 AND number = ANY ($3)
"""
_NOW = f"""
SELECT {MESSAGE_COLUMNS} FROM hub.chat_messages AS m WHERE m.org = $1 AND m.room = $2 AND m.number = ANY ($3)
"""  # noqa: S608 - made of constants
_DUE = "SELECT org, room FROM hub.due_erasures($1)"

# Until the relay has passed; after that the janitor looks. Also how often a busy room's history is written anew.
_PAUSES_S: Final = (0.1, 0.3, 0.6, 1.0, 2.0)
_MOST_FOLLOWED: Final = 10_000  # rooms; the others wait for the janitor
_AT_ONCE: Final = 4
_NOTES_AT_ONCE: Final = 200
_PER_ROUND: Final = 100
_LAST: Final = 20  # of a topic's events; one of them is a room's own, whatever else somebody publishes there

_log = structlog.get_logger(__name__)
_Room = tuple[OrgId, str]


class Eraser:
    """Owns the tasks that wait for the relay: one for each room with notes."""

    def __init__(self, hub: Hub, metrics: ChatMetrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self._followers: dict[_Room, asyncio.Task[None]] = {}
        self._news: set[_Room] = set()
        """Rooms with followers that have got another note."""
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def note(self, tx: Transaction, room: str, told: int, gone: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """In the transaction: the events ``gone`` (number, the message now) say no text any more; ``told`` says why."""
        # In the order in which the relay locks them.
        for number, message in sorted(gone, key=lambda one: one[0]):
            await tx.erase(room_topic(room), [number], {"number": number, "message": superseded(message)})
        numbers = [number for number, _ in gone]
        await tx.execute(_NOTE, tx.org, room, told, numbers, self._hub.settings.chat_janitor_s)

    def soon(self, org: OrgId, room: str) -> None:
        """After the commit: as soon as the relay has passed. What does not fit is left to the janitor."""
        key = (org, room)
        if key in self._followers:
            self._news.add(key)
        elif len(self._followers) < _MOST_FOLLOWED:
            self._followers[key] = asyncio.create_task(self._follow(key), name="chat-erase")

    async def look_after(self) -> bool:
        """Does what is due: what was left undone, by whichever node, and a second time what was done.

        A round of it; returns whether there may be more.
        """
        rooms = await self._hub.database.maintain_rows(_DUE, _PER_ROUND)
        done = [await each(self.erase(org, row["room"], due=True)) for org, row in rooms]
        return len(rooms) == _PER_ROUND and any(done)

    async def close(self) -> None:
        """Ends what waits; it is noted."""
        tasks = list(self._followers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def erase(self, org: OrgId, room: str, *, due: bool = False) -> bool:
        """Does the notes of a room, those that are ``due`` or all that have not been done.

        False: some are left, look again. Raises ``unavailable``; twice does no harm.
        """
        async with self._hub.database.transaction(org) as tx:
            notes = await tx.fetch(_LOAD, org, room, due, _NOTES_AT_ONCE)
        if not notes:
            return True
        top = await self._hub.read(org, room_topic(room), last=_LAST)
        relayed = _number(top.events)
        # Of what not even the newest event is kept any more, nothing is kept.
        expired = self._hub.settings.chat_history_s
        ready = [note for note in notes if note["number"] <= relayed or note["age_s"] >= expired]
        numbers = {number for note in ready for number in note["numbers"]}
        kept = await self._find(org, room, top, numbers) if numbers and relayed else []
        done = await self._redact(org, room, top.epoch, kept)
        settled = [note["number"] for note in ready] if done else []
        left = [note["number"] for note in notes if note["number"] not in settled]
        async with self._hub.database.transaction(org) as tx:
            for query, some in ((_DONE, settled), (_LATER, left)):
                if some:
                    await tx.execute(query, org, room, some, self._hub.settings.chat_janitor_s)
        return not left and len(notes) < _NOTES_AT_ONCE

    async def _find(self, org: OrgId, room: str, top: Page, numbers: set[int]) -> list[KeptEvent]:
        """The events of these numbers that are kept. There are as many of them as numbers, as long as Redis lives."""
        after = max(0, top.top - (_number(top.events) - min(numbers)) - 1)
        kept, first = await self._scan(org, room, after, numbers)
        if first > min(numbers) and after:
            kept, _ = await self._scan(org, room, 0, numbers)
        return kept

    async def _scan(self, org: OrgId, room: str, after: int, numbers: set[int]) -> tuple[list[KeptEvent], int]:
        """Those after a position, and the number of the first that there is."""
        found: list[KeptEvent] = []
        first = 0
        while True:
            page = await self._hub.read(org, room_topic(room), after=after)
            first = first or _number(page.events[:_LAST], first=True)
            found += [event for event in page.events if _number([event]) in numbers]
            if not page.more or not page.events or _number(page.events) >= max(numbers):
                return found, first
            after = page.events[-1].seq

    async def _redact(self, org: OrgId, room: str, epoch: str, kept: Iterable[KeptEvent]) -> bool:
        """Whether none of them says a text any more."""
        carried = {event.seq: event.data for event in kept if isinstance(event.data.get("message"), dict)}
        if not carried:
            return True
        async with self._hub.database.transaction(org) as tx:
            messages = await _now(tx, room, [data["message"]["number"] for data in carried.values()])
        changes: dict[int, Any] = {}
        for seq, data in carried.items():
            message = messages.get(data["message"]["number"])
            if message is not None and data["message"] != superseded(message):
                changes[seq] = {"number": data["number"], "message": superseded(message)}
        if not changes:
            return True
        done = await self._hub.redact(org, room_topic(room), epoch, changes)
        self._metrics.erased(done)
        # Another epoch has begun, or some have just gone: the next look finds what is there.
        return done == len(changes)

    async def _follow(self, key: _Room) -> None:
        try:
            while await self._wait(key):
                pass
        finally:
            del self._followers[key]
            self._news.discard(key)

    async def _wait(self, key: _Room) -> bool:
        """Looks until everything is done, or it takes too long. Returns whether another note has come meanwhile."""
        self._news.discard(key)
        for pause_s in _PAUSES_S:
            await asyncio.sleep(pause_s)
            async with self._slots:
                try:
                    if await self.erase(*key) and key not in self._news:
                        return False
                except HubError as error:
                    _log.warning("chat_erasure_waits", reason=error.message)
                except Exception:
                    _log.exception("chat_erasure_failed")
        return key in self._news


def _number(events: Sequence[KeptEvent], *, first: bool = False) -> int:
    """The number of the last one that has one, or of the first; 0: there is none."""
    for event in events if first else reversed(events):
        number = event.data.get("number") if isinstance(event.data, dict) else None
        if isinstance(number, int):
            return number
    return 0


async def _now(tx: Transaction, room: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {row["number"]: message_of(row) for row in await tx.fetch(_NOW, tx.org, room, list(numbers))}
