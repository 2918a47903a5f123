"""What a driver needs of the hub, in memory: topics that lose answers and events, and a table of streams."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

from hub.api import ErrorCode, HubError, KeptEvent, Settings
from hub.config import load_settings
from hub.fanout.kept_events import Page
from hub.orgs import OrgId
from services.content.pipeline import ContentType, Speed, Unit
from services.content.states import State
from services.content.store import Plan, Stored, Wanted

ORG = OrgId.from_operator("acme")
ANSWER_S = 0.001
EARLIER, RUN, LATER = "19a0000000", "19a0000001", "19a0000002"
"""Of what began one after the other."""

Fault = Literal["no", "lost answer", "late"]
"""Of an append: nothing happened; it happened, but nobody learns it; it happens after the next one."""


class FakeHub:
    """See ``hub.service.Hub``. Appends fail as ``faults`` says, one after the other, and then succeed."""

    def __init__(self, **changes: Any) -> None:
        self.settings: Settings = load_settings(
            {}, redis_url="redis://127.0.0.1:1", database_url="postgresql://x/x", jwt_secret="x" * 32, **changes
        )
        self.topics: dict[str, list[tuple[str, Any]]] = {}
        self.seen: list[tuple[str, Any]] = []
        """What somebody has received who never lost his connection, of all topics that people watch."""
        self.faults: deque[Fault] = deque()
        self.deaf = 0
        """So many reads get no answer."""
        self.forgotten: dict[str, int] = {}
        """So many of a topic's oldest events are not kept any more."""
        self.page = 500
        """The most events that one answer has."""
        self.lag = 0
        self.told: list[dict[str, Any]] = []
        """Ephemeral events."""
        self.attention = SimpleNamespace(lag=lambda org, topic: self.lag)
        self._late: list[tuple[str, list[tuple[str, Any]], int]] = []

    def lose(self, topic: str, events: int) -> None:
        """The newest events of a topic are gone."""
        kept = self.topics.get(topic, [])
        self.topics[topic] = kept[: max(0, len(kept) - events)]

    async def append(
        self, org: OrgId, topic: str, events: Sequence[tuple[str, Any]], *, after: int, by: str | None = None
    ) -> int:
        await asyncio.sleep(ANSWER_S)
        fault = self.faults.popleft() if self.faults else None
        if fault == "no":
            raise HubError(ErrorCode.UNAVAILABLE, "no answer")
        if fault == "late":
            self._late.append((topic, list(events), after))
            raise HubError(ErrorCode.UNAVAILABLE, "no answer")
        done = self._append(topic, events, after)
        late, self._late = self._late, []
        for more in late:
            self._append(*more)
        if fault == "lost answer":
            raise HubError(ErrorCode.UNAVAILABLE, "no answer")
        if not done:
            raise HubError(ErrorCode.CONFLICT, "moved", details={"top": len(self.topics[topic])})
        return after + len(events)

    def _append(self, topic: str, events: Sequence[tuple[str, Any]], after: int) -> bool:
        kept = self.topics.setdefault(topic, [])
        if len(kept) != after:
            return False
        kept += events
        if topic.startswith("content:"):
            self.seen += events
        return True

    async def read(self, org: OrgId, topic: str, *, after: int = 0, last: int | None = None, limit: int = 500) -> Page:
        await asyncio.sleep(ANSWER_S)
        if self.deaf:
            self.deaf -= 1
            raise HubError(ErrorCode.UNAVAILABLE, "no answer")
        kept = [KeptEvent(number, *event) for number, event in enumerate(self.topics.get(topic, []), 1)]
        after = after if last is None else max(0, len(kept) - last)
        wanted, limit = kept[max(after, self.forgotten.get(topic, 0)) :], min(limit, self.page)
        return Page("epoch", len(kept), tuple(wanted[:limit]), len(wanted) > limit)

    async def publish(self, org: OrgId, topic: str, name: str, data: Any, *, ephemeral: bool) -> None:
        assert ephemeral
        await asyncio.sleep(ANSWER_S)
        self.told.append(data)


class FakeStore:
    """See ``services.content.store.Store``."""

    def __init__(self) -> None:
        self.finished: list[tuple[State, str, tuple[int, int], Any]] = []
        self.away = 0
        """So many writes fail."""

    async def finish(self, stored: Stored, state: State, html: str, counts: tuple[int, int], result: Any) -> None:
        await asyncio.sleep(ANSWER_S)
        if self.away:
            self.away -= 1
            raise HubError(ErrorCode.UNAVAILABLE, "no database")
        if not self.finished:
            self.finished.append((state, html, counts, result))


def new_stream(
    kind: Literal["document", "assistant"] = "document",
    *,
    unit: Unit = Unit.WORD,
    speed: Speed = Speed.FAST,
    **more: Any,
) -> Stored:
    """A stream that was just written to the table."""
    plan = Plan(kind, unit, ContentType.HTML)
    return Stored(ORG, "s", "ada", 1, plan, RUN, "", Wanted(State.RUNNING, speed, 1), **more)
