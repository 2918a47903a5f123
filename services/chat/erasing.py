"""Takes texts back that are no more: from the outbox at once, from the topic's history in Redis when they are there.

The note of what is to be done is part of the transaction that makes a text go; so it is done, by this node or another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from hub.api import Hub, HubError, KeptEvent, OrgId, Page, Transaction
from services.chat.gate import Entry
from services.chat.kinds import room_topic
from services.chat.metrics import ChatMetrics
from services.chat.shapes import MESSAGE_COLUMNS, message_of, superseded

_NOTE = "INSERT INTO hub.chat_erasures (org, room, number, numbers) VALUES ($1, $2, $3, $4)"
_LOAD = """
SELECT numbers, extract(epoch FROM now() - created_at)::float8 AS age_s FROM hub.chat_erasures
WHERE org = $1 AND room = $2 AND number = $3
"""
_DONE = "DELETE FROM hub.chat_erasures WHERE org = $1 AND room = $2 AND number = $3"
_NOW = f"SELECT {MESSAGE_COLUMNS} FROM hub.chat_messages AS m WHERE m.org = $1 AND m.room = $2 AND m.number = ANY ($3)"  # noqa: S608
_FORGOTTEN = "SELECT org, room, number FROM hub.forgotten_erasures($1, $2)"

_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # until the relay has passed; after that the janitor looks
_MOST_WAITING: Final = 10_000
_AT_ONCE: Final = 4
_PER_ROUND: Final = 100

_log = structlog.get_logger(__name__)


class Eraser:
    """Owns the tasks that wait for the relay."""

    def __init__(self, hub: Hub, metrics: ChatMetrics) -> None:
        self._hub = hub
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def note(self, entry: Entry, told: int, gone: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """In the transaction: the events ``gone`` (number, the message now) say no text any more; ``told`` says why."""
        for number, message in gone:
            data = {"number": number, "message": superseded(message)}
            await entry.tx.erase(room_topic(entry.room), [number], data)
        await entry.tx.execute(_NOTE, entry.tx.org, entry.room, told, [number for number, _ in gone])

    def soon(self, org: OrgId, room: str, number: int) -> None:
        """After the commit: as soon as the relay has passed. What does not fit is left to the janitor."""
        if len(self._tasks) < _MOST_WAITING:
            task = asyncio.create_task(self._follow(org, room, number), name="chat-erase")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def look_after(self) -> int:
        """Does what was left undone, by whichever node, and a second time what was done; returns how much.

        The second time, a minute later, finds nothing to do, unless Redis has failed over to a replica that had not
        heard of the first.
        """
        age_s = int(self._hub.settings.chat_janitor_s)
        noted = await self._hub.database.maintain_rows(_FORGOTTEN, age_s, _PER_ROUND)
        for org, row in noted:
            if await self.erase(org, row["room"], row["number"]):
                async with self._hub.database.transaction(org) as tx:
                    await tx.execute(_DONE, org, row["room"], row["number"])
        return len(noted)

    async def close(self) -> None:
        """Ends what waits; it is noted."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def erase(self, org: OrgId, room: str, number: int) -> bool:
        """What one note says; it stays. False: look again. Raises ``unavailable``; twice does no harm."""
        async with self._hub.database.transaction(org) as tx:
            noted = await tx.fetch_row(_LOAD, org, room, number)
        if noted is None:
            return True
        top = await self._hub.read(org, room_topic(room), last=1)
        if _number(top.events) < number:
            # The relay has not passed yet; or nothing is kept any more, when even the newest event has gone.
            return bool(noted["age_s"] >= self._hub.settings.chat_history_s)
        kept = await self._find(org, room, top, set(noted["numbers"]))
        return await self._redact(org, room, top.epoch, kept)

    async def _find(self, org: OrgId, room: str, top: Page, numbers: set[int]) -> list[KeptEvent]:
        """The events of these numbers that are kept. There are as many of them as numbers, as long as Redis lives."""
        after = max(0, top.top - (_number(top.events) - min(numbers)) - 1)
        kept, first = await self._scan(org, room, after, numbers)
        if first > min(numbers) and after:
            kept, _ = await self._scan(org, room, 0, numbers)
        return kept

    async def _scan(self, org: OrgId, room: str, after: int, numbers: set[int]) -> tuple[list[KeptEvent], int]:
        found: list[KeptEvent] = []
        first = 0
        while True:
            page = await self._hub.read(org, room_topic(room), after=after)
            first = first or _number(page.events[:1])
            found += [event for event in page.events if event.data.get("number") in numbers]
            if not page.more or not page.events or _number(page.events) >= max(numbers):
                return found, first
            after = page.events[-1].seq

    async def _redact(self, org: OrgId, room: str, epoch: str, kept: Iterable[KeptEvent]) -> bool:
        """Whether none of them says a text any more."""
        carried = {event.seq: event.data for event in kept if isinstance(event.data.get("message"), dict)}
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

    async def _follow(self, org: OrgId, room: str, number: int) -> None:
        async with self._slots:
            for pause_s in _PAUSES_S:
                await asyncio.sleep(pause_s)
                try:
                    if await self.erase(org, room, number):
                        return
                except HubError as error:
                    _log.warning("chat_erasure_waits", reason=error.message)
                except Exception:
                    _log.exception("chat_erasure_failed")
                    return


def _number(events: Sequence[KeptEvent]) -> int:
    """The number of the last one; 0: there is none."""
    return int(events[-1].data.get("number", 0)) if events else 0


async def _now(tx: Transaction, room: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    return {row["number"]: message_of(row) for row in await tx.fetch(_NOW, tx.org, room, list(numbers))}
